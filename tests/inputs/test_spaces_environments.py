"""Environments that people have: what they do is right, or they are told before anything is traced."""

import subprocess
import sys
import warnings

import gymnasium
import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics

import jtrpo
from jtrpo.envs.host_vector import HostVector
from jtrpo.training.episodes import EpisodeTotals, add_finished, summarize
from jtrpo.training.host.collect import collect_on_host, play_on_host
from jtrpo.training.host.environments import LiveEnvironments
from jtrpo.training.learner import Learner
from jtrpo.training.rollout import staggered_resets
from tests import probes
from tests.training.test_host import act, room

SMALL = {"num_envs": 2, "num_steps": 2, "hidden_sizes": (8,), "critic_epochs": 1, "critic_minibatches": 1}


@pytest.mark.parametrize("num_envs", [7, 65_536])
@pytest.mark.parametrize("limit", [100_000, 10**10, 10**30])
def test_first_cuts_are_spread_over_any_limit(num_envs, limit):
    steps = 32
    for update in (0, 1, 1000, 3123):
        cut = jax.jit(lambda update: staggered_resets(num_envs, steps, update, limit))(jnp.int32(update))
        exact = [env * limit // (num_envs * steps) == update + 1 for env in range(num_envs)]
        np.testing.assert_array_equal(cut, exact)


def test_lengths_of_many_long_episodes_are_averaged_without_overflow():
    num_envs, long = 65_536, jnp.full((65_536,), 100_000)
    nothing = jnp.zeros((num_envs,))
    totals = (long * 0, nothing, nothing, nothing, long * 0)
    episodes = summarize(add_finished(EpisodeTotals(*totals), jnp.ones(num_envs, bool), nothing, long))
    assert float(episodes.length_mean) == pytest.approx(100_000)


CARTPOLE, PARAMS = gymnax.make("CartPole-v1")


class Unlimited:
    """A gymnax environment whose parameters name no limit."""

    name, default_params = "Unlimited", {"gravity": 9.8}

    def observation_space(self, params):
        return CARTPOLE.observation_space(PARAMS)

    def action_space(self, params):
        return CARTPOLE.action_space(PARAMS)

    def reset(self, key, params):
        return CARTPOLE.reset(key, PARAMS)

    def step(self, key, state, action, params):
        return CARTPOLE.step(key, state, action, PARAMS)


def shapes(env, **settings):
    trainer = jtrpo.make_trainer(jtrpo.TrainConfig(env, **{**SMALL, **settings}))
    return jax.eval_shape(lambda key: trainer.step(trainer.init(key)), jax.random.key(0))


def test_gymnax_parameters_without_a_limit_or_with_a_huge_one_train():
    shapes(Unlimited())
    assert jtrpo.TrainConfig(Unlimited(), **SMALL).environment.max_episode_steps is None
    huge = (CARTPOLE, PARAMS.replace(max_steps_in_episode=10**10))
    shapes(huge)
    assert jtrpo.TrainConfig(huge, **SMALL).environment.max_episode_steps == 10**10


def test_gymnax_parameters_may_be_traced():
    def loss(masses, limit):
        params = PARAMS.replace(masspole=masses, max_steps_in_episode=limit)
        trainer = jtrpo.make_trainer(jtrpo.TrainConfig((CARTPOLE, params), **SMALL))
        return trainer.step(trainer.init(jax.random.key(0)))[1].critic.loss

    assert jax.eval_shape(jax.vmap(loss), jnp.ones(3), jnp.arange(3)).shape == (3,)
    pendulum, params = gymnax.make("Pendulum-v1")

    def bounded(most):
        jtrpo.TrainConfig((pendulum, params.replace(max_torque=most)), **SMALL)

    with pytest.raises(ValueError, match=r"spaces of .* depend on parameters that are traced"):
        jax.eval_shape(bounded, 1.0)


def test_gymnax_parameters_of_each_environment_are_told():
    with pytest.raises(ValueError, match=r"parameter gravity .* must have shape \(\); got \(2,\).*vmap"):
        jtrpo.TrainConfig((CARTPOLE, PARAMS.replace(gravity=jnp.ones(2))), **SMALL)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"gravity": 9.8}, "parameters of .* must have .*x_threshold, as its default ones do; got dict"),
        (gymnax.make("Pendulum-v1")[1], "parameters of .* must have gravity, .*x_threshold, as .*; got EnvParams"),
        (PARAMS.replace(gravity="9.8"), "parameter gravity .* must be a number; got '9.8'"),
        (PARAMS.replace(gravity=[9.8, 1.0]), r"parameter gravity .* must have shape \(\); got \(2,\)"),
    ],
)
def test_gymnax_parameters_of_another_make_are_told(params, words):
    with pytest.raises(ValueError, match=words):
        jtrpo.TrainConfig((CARTPOLE, params), **SMALL)


@pytest.mark.parametrize("reward", [1j, None, "1", np.array(["x"])])
def test_a_reward_that_is_no_real_number_is_told(reward):
    class Env(probes.TruncatedOnly):
        def step(self, key, state, action):
            return super().step(key, state, action)._replace(reward=reward)

    with pytest.raises(ValueError, match="the environment's reward must be a real number; got"):
        shapes(Env(probes.DISCRETE))


@pytest.mark.parametrize(
    "env", [probes.TwoSteps, type(CARTPOLE), (type(CARTPOLE), PARAMS), probes.Counting, SyncVectorEnv]
)
def test_a_class_is_not_an_environment(env):
    one = env[0] if isinstance(env, tuple) else env
    with pytest.raises(TypeError, match=rf"env must be an environment, not a class; got {one.__name__}: make one"):
        jtrpo.TrainConfig(env, **SMALL)


@pytest.mark.parametrize("limit", [float("inf"), None, 0, 10**12, np.float32(5.0), jnp.int32(7)])
def test_any_limit_of_ones_own_environment_trains(limit):
    env = probes.TruncatedOnly(probes.DISCRETE)
    env.max_episode_steps = limit
    shapes(env)
    shapes(env, max_episode_steps=6)


class Breaking(probes.Counting):
    """Shows a NaN from its third step until it is reset."""

    def observe(self):
        return np.array([np.nan], np.float32) if self.t >= 3 and self.length == 9 else super().observe()


class Vector(SyncVectorEnv):
    """A vector of somebody's own, which can only begin anew as a whole."""

    @property
    def unwrapped(self):
        return super()

    def reset(self, *, seed=None, options=None):
        assert options is None
        return super().reset(seed=seed)


def breaking(kind, mode):
    functions = [lambda: Breaking(9), lambda: Breaking(100)]
    if kind == "wrapped":
        return RecordEpisodeStatistics(SyncVectorEnv(functions, autoreset_mode=mode))
    if kind == "async":
        return AsyncVectorEnv(functions, autoreset_mode=mode, context="forkserver")
    return Vector(functions, autoreset_mode=mode)


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        pytest.param("async", AutoresetMode.NEXT_STEP, marks=pytest.mark.slow),
        *((kind, mode) for kind in ("wrapped", "whole") for mode in (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP)),
    ],
)
def test_an_environment_that_shows_nan_until_it_is_reset_begins_anew(kind, mode):
    env = breaking(kind, mode)
    live = LiveEnvironments(lambda num_envs, seed: env)
    live.begin(jax.random.key(0), 2)
    first, *_ = collect_on_host(live, act, room(2, 5))
    assert np.isnan(first.observation[3:, 0]).all()
    assert first.truncated[-1].tolist() == [True, kind == "whole"]
    second, *_ = collect_on_host(live, act, room(2, 3))
    assert np.isfinite(second.observation).all()
    assert second.observation[0, 1, 0] == (10.0 if kind == "whole" else 5.0)
    env.close()


def test_evaluation_goes_on_with_all_where_it_cannot_begin_anew_in_some():
    env = Vector([lambda: probes.Counting(100), lambda: probes.Counting(4)], autoreset_mode=AutoresetMode.SAME_STEP)
    live = LiveEnvironments(lambda num_envs, seed: env)
    live.begin(jax.random.key(0), 2)
    returns = play_on_host(live, act, lambda batch: (), np.array([2, 2]), 6).return_sum
    # Cut after six steps: the second's episode that had begun two steps before is left out.
    assert returns.tolist() == [0 + 1 + 2 + 3 + 4 + 5, 100 * 6 + 15, 0 + 1 + 2 + 3, 200 * 4 + 6]


class Odd(VectorEnv):
    """Rewards, or ends, of another shape than one number for each environment."""

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012
    num_envs, single_observation_space, single_action_space = 2, probes.Probe.observation_space, probes.DISCRETE

    def __init__(self, name):
        self.name = name

    def reset(self, *, seed=None, options=None):
        return np.zeros((2, 1), np.float32), {}

    def step(self, actions):
        given = {"reward": np.zeros(2), "terminated": np.zeros(2, bool), "truncated": np.zeros(2, bool)}
        given[self.name] = given[self.name][:, None]
        return np.zeros((2, 1), np.float32), *given.values(), {}


@pytest.mark.parametrize("name", ["reward", "terminated", "truncated"])
def test_rewards_and_ends_with_an_axis_too_many_are_told(name):
    vector = HostVector(Odd(name))
    vector.reset(0)
    with pytest.raises(ValueError, match=rf"{name} of .* must have shape \(2,\).*got \(2, 1\)"):
        vector.step(np.zeros(2, int))


@pytest.mark.parametrize("made", ["listed", "by id"])
def test_evaluation_of_an_asynchronous_vector_stays_in_this_process(made):
    if made == "by id":
        env = gymnasium.make_vec("CartPole-v1", 2, vectorization_mode="async", vector_kwargs={"context": "forkserver"})
    else:
        env = AsyncVectorEnv([lambda: probes.Counting(3)] * 2, context="forkserver", shared_memory=False)
    again = jtrpo.TrainConfig(env, **SMALL).environment.make_evaluation(2, 0)
    assert type(again) is SyncVectorEnv
    assert (again.num_envs, again.single_observation_space) == (2, env.single_observation_space)
    env.close()


def test_a_trainer_closes_what_it_made_and_nothing_else(monkeypatch):
    closed = []
    monkeypatch.setattr(SyncVectorEnv, "close", lambda self, **_: closed.append(self))
    nothing = lambda _, state, *collected: (state._replace(update=state.update + 1), None)  # noqa: E731
    monkeypatch.setattr(Learner, "learn", nothing)
    mine = probes.counting((4, 4), AutoresetMode.SAME_STEP)
    for env, count in (
        ("gymnasium:CartPole-v1", 2),
        (mine, 1),
        ((mine, probes.counting((4, 4), AutoresetMode.SAME_STEP)), 0),
    ):
        closed.clear()
        trainer = jtrpo.make_host_trainer(jtrpo.TrainConfig(env, **SMALL))
        trainer.close()  # nothing yet
        state, _ = trainer.step(trainer.init(jax.random.key(0)))
        trainer.evaluate(state, jax.random.key(0), 2)
        trainer.close()
        assert len(closed) == count
        assert mine not in closed
        trainer.close()
        assert len(closed) == count
    trainer.step(state)  # and goes on if it is asked to


ENVPOOL = """
import warnings, jax, numpy as np
warnings.simplefilter("error")
import jtrpo
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import envpool
    env = envpool.make_gymnasium("HalfCheetah-v4", num_envs=2, seed=1)
    other = envpool.make_gymnasium("HalfCheetah-v4", num_envs=2, seed=2)
    config = jtrpo.TrainConfig((env, other), num_envs=2, num_steps=8, hidden_sizes=(4,), critic_epochs=1, critic_minibatches=1)
trainer = jtrpo.make_host_trainer(config)
state, metrics = trainer.step(trainer.init(jax.random.key(0)))
trainer.evaluate(state, jax.random.key(1), 2, max_steps=5)
trainer.close()
print("fine", int(metrics.samples.invalid))
"""


@pytest.mark.slow
def test_envpool_trains_without_a_warning():
    pytest.importorskip("envpool")
    done = subprocess.run([sys.executable, "-c", ENVPOOL], capture_output=True, text=True)
    assert done.stdout == "fine 0\n", done.stderr
    assert not done.stderr, done.stderr


@pytest.mark.slow
def test_spaces_of_64_bits_train_on_the_host_without_a_warning():
    class Wide(probes.Counting):
        observation_space = spaces.Dict(
            {"x": spaces.Box(-np.inf, np.inf, (2,), np.float64), "n": spaces.Discrete(5, start=-2)}
        )
        action_space = spaces.Dict(
            {"push": spaces.Box(-0.1, 0.1, (1,), np.float64), "pick": spaces.MultiDiscrete([2, 3], start=[1, -1]),
             "whole": spaces.Box(-5, 5, (), np.int64)}
        )  # fmt: skip

        def observe(self):
            return {"x": np.full(2, 1e-3 * self.t), "n": np.int64(self.t - 2)}

        def step(self, action):
            assert self.action_space.contains({k: np.asarray(v) for k, v in action.items()}), action
            return super().step(action)

    env = SyncVectorEnv([lambda: Wide(3)] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer = jtrpo.make_host_trainer(jtrpo.TrainConfig(env, **{**SMALL, "num_steps": 4}, initial_log_std=1.0))
        state, metrics = trainer.step(trainer.init(jax.random.key(0)))
        trainer.evaluate(state, jax.random.key(0), 2)
    assert int(metrics.samples.invalid) == 0
