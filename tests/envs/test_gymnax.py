import sys

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

import jtrpo
from jtrpo.envs.gymnax import GymnaxEnvironment, environment_ids, make_gymnax
from jtrpo.envs.resolve import resolve
from jtrpo.training.rollout import collect, reset


def test_the_limit_truncates_and_the_final_observation_is_what_really_followed():
    env, params = gymnax.make("Pendulum-v1")
    adapted = GymnaxEnvironment(env, params.replace(max_steps_in_episode=3))
    observation, state = adapted.reset(jax.random.key(0))
    for step in range(1, 4):
        result = adapted.step(jax.random.key(step), state, jnp.zeros((1,)))
        np.testing.assert_array_equal(result.terminated, False)
        np.testing.assert_array_equal(result.truncated, step == 3)
        same = np.array_equal(result.observation, result.final_observation)
        assert same == (step < 3)  # after the limit, `observation` belongs to the next episode
        previous, state = state, result.state
    expected = env.step_env(jax.random.key(9), previous, jnp.zeros((1,)), adapted.params)[0]
    np.testing.assert_allclose(result.final_observation, expected, rtol=1e-6)


def test_a_fall_terminates():
    adapted = make_gymnax("CartPole-v1")
    _, state = adapted.reset(jax.random.key(0))
    result = adapted.step(jax.random.key(1), state.replace(theta=jnp.float32(1.0)), jnp.int32(0))
    assert bool(result.terminated)
    assert not bool(result.truncated)


def test_an_environment_object_with_or_without_parameters_is_taken():
    env, params = gymnax.make("CartPole-v1")
    short = params.replace(max_steps_in_episode=7)
    assert resolve((env, short)).max_episode_steps == 7
    assert resolve(env).max_episode_steps == 500
    config = jtrpo.TrainConfig(env=(env, short), num_envs=2, num_steps=8, hidden_sizes=(4,))
    trainer = jtrpo.make_trainer(config)
    assert jnp.all(trainer.evaluate(jax.jit(trainer.init)(jax.random.key(0)), jax.random.key(1), 4) <= 7)


def test_a_cost_in_info_is_that_of_the_step():
    class Costly(type(gymnax.make("CartPole-v1")[0])):
        def step_env(self, key, state, action, params):
            *result, info = super().step_env(key, state, action, params)
            return (*result, {**info, "cost": jnp.float32(action)})

    adapted = resolve(Costly())
    _, state = adapted.reset(jax.random.key(0))
    assert [float(adapted.step(jax.random.key(1), state, jnp.int32(action)).cost) for action in (0, 1)] == [0.0, 1.0]
    config = jtrpo.TrainConfig(Costly(), num_envs=4, num_steps=8, hidden_sizes=(4,), constraint_method="cpo")
    result = jax.eval_shape(jtrpo.make_train(config), jax.random.key(0))
    assert result.metrics.cost.episode.shape == result.metrics.episode.cost_mean.shape


def long_poles(key):
    return at_length(jax.random.uniform(key, minval=0.25, maxval=1.0))


def at_length(length):
    params = gymnax.make("CartPole-v1")[1]
    return params.replace(length=length, polemass_length=params.masspole * length)


def test_drawn_parameters_differ_among_environments_change_with_each_episode_and_stay_within_it():
    env = resolve((gymnax.make("CartPole-v1")[0], long_poles))
    assert env.max_episode_steps == 500
    start = reset(env, jax.random.key(0), 4)
    push = lambda observation, memory: (jtrpo.Categorical(jnp.array([[0.0, 100.0]] * 4)), memory)  # noqa: E731

    def run(start, key):
        return collect(env, push, start, key, 40, keep_start=True)

    _, trajectory, _ = jax.jit(run)(start, jax.random.key(1))
    length = np.asarray(trajectory.start.env_state.params.length)
    assert len(set(length[0])) == 4
    assert 0.25 <= length.min() < length.max() < 1.0
    done = np.asarray(trajectory.done)
    assert (done[:-1].sum(axis=0) >= 2).all()
    np.testing.assert_array_equal(length[1:] != length[:-1], done[:-1])
    # The pole falls as one of its length does, from the first state of the next episode on.
    t, e = np.argwhere(done)[0]
    before = jax.tree.map(lambda x: x[t + 1, e], trajectory.start.env_state)
    followed = env.env.step_env(jax.random.key(0), before.state, 1, at_length(length[t + 1, e]))[0]
    np.testing.assert_allclose(trajectory.final_observation[t + 1, e], followed, rtol=1e-5)


@pytest.mark.long
def test_one_policy_balances_every_drawn_length_and_that_of_one_length_does_not():
    env, lengths = gymnax.make("CartPole-v1")[0], jnp.array([0.25, 0.5, 0.75, 1.0])
    critic = {"critic": "gauss_newton", "critic_epochs": 1, "fisher_fraction": 0.1, "critic_fraction": 0.1}
    settings = {"total_timesteps": 100_000, "num_envs": 64, "num_steps": 32, "anneal": ("max_kl",), **critic}

    def returns(params):
        train = jtrpo.make_train(jtrpo.TrainConfig((env, params), **settings))
        state = jax.jit(jax.vmap(train))(jax.random.split(jax.random.key(0), 2)).state

        def evaluate(state, length):
            trainer = jtrpo.make_trainer(jtrpo.TrainConfig((env, at_length(length)), **settings))
            return trainer.evaluate(state, jax.random.key(1), 64, max_steps=500).mean()

        return jax.jit(jax.vmap(jax.vmap(evaluate, (None, 0)), (0, None)))(state, lengths)

    drawn, one = returns(long_poles), returns(at_length(0.25))
    assert drawn.min() >= 475  # in every seed, at every length
    assert one[:, 0].min() >= 475  # where it was trained
    assert one[:, -1].max() < 200


def test_parameters_that_are_drawn_wrong_are_refused():
    env = gymnax.make("CartPole-v1")[0]
    with pytest.raises(ValueError, match=r"parameters of CartPole.* must have gravity"):
        resolve((env, lambda key: gymnax.make("Pendulum-v1")[1]))
    with pytest.raises(ValueError, match=r"parameter length of CartPole.* must have shape \(\); got \(3,\)"):
        resolve((env, lambda key: at_length(jax.random.uniform(key, (3,)))))
    with pytest.raises(TypeError, match=r"env: what draws the parameters must be a function, \(key\).*got one of \(\)"):
        resolve((env, lambda: at_length(0.5)))


def test_spaces_become_gymnasium_spaces():
    pendulum, point = make_gymnax("Pendulum-v1"), make_gymnax("PointRobot-misc")
    assert pendulum.action_space == spaces.Box(-2.0, 2.0, (1,), np.float32)
    assert point.action_space.shape == (2,)
    assert make_gymnax("FrozenLake-misc").observation_space == spaces.Discrete(16)


def test_ids_are_listed_and_a_wrong_one_names_the_nearest():
    assert {"CartPole-v1", "Pendulum-v1"} <= set(environment_ids())
    with pytest.raises(ValueError, match="did you mean MountainCar-v0"):
        make_gymnax("mountaincar-v1")
    with pytest.raises(ValueError, match="jtrpo envs"):
        make_gymnax("zzzz")


def test_a_brax_environment_without_brax_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "brax", None)
    with pytest.raises(ValueError, match=r'brax:hopper.*pip install "jtrpo\[brax\]"'):
        jtrpo.TrainConfig("brax:hopper")
