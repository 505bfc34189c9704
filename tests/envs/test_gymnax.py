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
    assert jnp.all(trainer.evaluate(trainer.init(jax.random.key(0)), jax.random.key(1), 4) <= 7)


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
