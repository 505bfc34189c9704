from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import jtrpo
from jtrpo.envs.hazard import Hazard
from jtrpo.training.host.environments import LiveEnvironments
from jtrpo.training.trainer import make_collect
from tests import probes
from tests.probes import counting

SMALL = {"num_steps": 16, "hidden_sizes": (4,), "critic_minibatches": 1}
MODES = list(AutoresetMode)


class Lasting(probes.Probe):
    """Ends after as many steps as were drawn, two to five, which are seen beside the steps so far."""

    observation_space = probes.spaces.Box(0.0, 9.0, (2,), np.float32)

    def reset(self, key):
        state = {"length": jax.random.randint(key, (), 2, 6), "step": jnp.int32(0)}
        return self.observe(state), state

    def observe(self, state):
        return jnp.stack([state["length"], state["step"]]).astype(float)

    def step(self, key, state, action):
        after = {**state, "step": state["step"] + 1}
        ended = after["step"] == after["length"]
        observation, state = jax.tree.map(
            lambda new, old: jnp.where(ended, new, old), self.reset(key), (self.observe(after), after)
        )
        return jtrpo.EnvStep(observation, state, jnp.float32(1.0), ended, jnp.bool_(False), self.observe(after))


class Staying(Lasting):
    def step_without_reset(self, key, state, action):
        after = {**state, "step": state["step"] + 1}
        ended = after["step"] == after["length"]
        return jtrpo.EnvStep(self.observe(after), after, jnp.float32(1.0), ended, jnp.bool_(False), self.observe(after))

    step = step_without_reset  # nothing resets itself, and of this only the shapes are asked


@pytest.mark.parametrize(("make", "pool"), [(Lasting, 0), (Staying, 0), (Staying, 3)])
def test_episodes_in_jax_are_cut_and_what_ends_by_itself_is_left_alone(make, pool):
    env = make(probes.DISCRETE)
    config = jtrpo.TrainConfig(env, num_envs=8, max_episode_steps=3, reset_pool=pool, **SMALL)
    trainer = jtrpo.make_trainer(config)
    step, look = jax.jit(trainer.step), jax.jit(make_collect(config))
    state = trainer.init(jax.random.key(0))
    for _ in range(2):
        trajectory = jax.device_get(look(state))
        length, at = np.moveaxis(trajectory.observation, -1, 0)
        np.testing.assert_array_equal(trajectory.terminated, at + 1 == length)
        cut = (at + 1 == 3) & (length > 3)
        np.testing.assert_array_equal(trajectory.truncated[:-1], cut[:-1])
        assert cut.any()
        assert trajectory.terminated.any()
        np.testing.assert_array_equal(at[1:], np.where(trajectory.done[:-1], 0, at[:-1] + 1))
        np.testing.assert_array_equal(trajectory.final_observation, np.stack([length, at + 1], axis=-1))
        state, metrics = step(state)
        assert 2 <= float(metrics.episode.return_min) <= float(metrics.episode.return_max) == 3  # a reward of 1 each
    assert step._cache_size() == 1
    if make is Lasting:  # whole episodes
        returns = np.asarray(trainer.evaluate(state, jax.random.key(1), num_episodes=64))
        assert set(returns.tolist()) == {2, 3, 4, 5}


def test_a_limit_beyond_the_own_one_changes_nothing():
    leaves = [
        len(jax.tree.leaves(jax.eval_shape(jtrpo.make_trainer(config).init, jax.random.key(0))))
        for config in (jtrpo.TrainConfig("CartPole-v1", max_episode_steps=limit, **SMALL) for limit in (None, 600, 20))
    ]
    assert leaves[0] == leaves[1] == leaves[2] - 1  # the steps so far
    limits = [jtrpo.TrainConfig("CartPole-v1", max_episode_steps=limit).time_limit for limit in (None, 600, 20)]
    assert limits == [500, 500, 20]


@pytest.mark.parametrize("mode", MODES)
def test_episodes_on_the_host_are_cut_in_every_mode(mode):
    lengths = (2, 3, 9)
    live = LiveEnvironments(lambda num_envs, seed: counting(lengths, mode), limit=3)
    live.begin(jax.random.key(0), len(lengths))
    at, cuts, ends = np.zeros(3, int), np.zeros(3, int), np.zeros(3, int)
    for _ in range(20):
        seen, acts = live.observation.copy(), live.acts
        result = live.step(np.zeros(3, int))
        live.episodes.add(result)
        at += acts
        np.testing.assert_array_equal(result.acted, acts)
        own = acts & (at == lengths)
        cut = acts & (at == 3) & ~own
        np.testing.assert_array_equal(result.terminated | result.truncated, own | cut)
        assert not (result.terminated & cut).any()
        np.testing.assert_array_equal((result.final_observation - seen)[acts], np.ones((acts.sum(), 1)))
        at[own | cut] = 0
        renewed = cut | own if mode is not AutoresetMode.NEXT_STEP else cut
        assert (result.observation[renewed] % 10 == 0).all()
        cuts, ends = cuts + cut, ends + own
    assert cuts.tolist()[:2] == [0, 0]
    assert cuts[2] == 6
    assert (ends[:2] > 3).all()
    assert ends[2] == 0


@pytest.mark.parametrize("env", ["gymnasium:CartPole-v1", "envpool:CartPole-v1"])
def test_training_on_the_host_meets_more_starts_and_evaluation_plays_whole_episodes(env):
    pytest.importorskip("envpool")
    config = jtrpo.TrainConfig(env, num_envs=4, total_timesteps=64, max_episode_steps=8, **SMALL)
    trainer = jtrpo.make_host_trainer(config)
    state, metrics = trainer.step(trainer.init(jax.random.key(0)))
    assert float(metrics.episode.return_max) == 8
    assert int(metrics.episode.finished) >= 6
    assert trainer.evaluate(state, jax.random.key(0), num_episodes=8, deterministic=False).max() > 8
    trainer.close()


class AllAtOnce(gymnasium.vector.VectorEnv):
    """A vector that cannot begin some of its episodes anew."""

    autoreset_mode, num_envs = AutoresetMode.SAME_STEP, 2
    single_observation_space, single_action_space = probes.Probe.observation_space, probes.DISCRETE


def test_what_a_limit_does_not_go_with_is_refused():
    with pytest.raises(ValueError, match=r"max_episode_steps must be .*at least 1.*; got 0"):
        jtrpo.TrainConfig("CartPole-v1", max_episode_steps=0)
    with pytest.raises(ValueError, match=r"limits the cost of a whole episode.* max_episode_steps=9 .*leave that out"):
        jtrpo.TrainConfig(Hazard(), constraint_method="cpo", max_episode_steps=9)
    with pytest.raises(ValueError, match=r"max_episode_steps=9 needs a vector .* begins them all at once"):
        jtrpo.TrainConfig(AllAtOnce(), num_envs=2, max_episode_steps=9)


class Paying(Lasting):
    """The action is the reward."""

    def step(self, key, state, action):
        return super().step(key, state, action)._replace(reward=action.astype(float))


def test_branches_begin_in_shorter_episodes_too():
    env = Paying(probes.DISCRETE)
    vine = {"sampling": "vine", "vine_states": 4, "vine_length": 3, "total_timesteps": 512}
    config = jtrpo.TrainConfig(env, num_envs=4, max_episode_steps=3, **vine, **SMALL)
    trainer = jtrpo.make_trainer(config)
    state, metrics = jax.jit(trainer.step)(trainer.init(jax.random.key(0)))
    assert bool(metrics.policy.accepted)
    with pytest.raises(ValueError, match="vine_length must be at most the limit of 2 steps"):
        jtrpo.TrainConfig(env, num_envs=4, max_episode_steps=2, **vine, **SMALL)


class Careless(Lasting):
    """What the protocol allows: numbers of Python and NumPy, of other types at reset than after a step."""

    def reset(self, key):
        return np.zeros(2), {"step": 0}

    def step(self, key, state, action):
        after = {"step": state["step"] + 1}
        observation = jnp.stack([after["step"], 0])
        return jtrpo.EnvStep(observation, after, 1, False, False, observation)


class Named(NamedTuple):
    length: Any
    step: Any


class Naming(Staying):
    """Shows a dictionary as a named tuple, as the protocol allows."""

    observation_space = probes.spaces.Dict(dict.fromkeys(Named._fields, probes.spaces.Box(0.0, 9.0, (), np.float32)))

    def observe(self, state):
        return Named(*jnp.moveaxis(super().observe(state), -1, 0))


@pytest.mark.parametrize("limit", [None, 3])
@pytest.mark.parametrize("pool", [0, 3])
def test_named_tuples_may_be_cut_and_drawn_from_a_pool(limit, pool):
    env = Naming(probes.DISCRETE)
    config = jtrpo.TrainConfig(env, num_envs=2, max_episode_steps=limit, reset_pool=pool, **SMALL)
    trainer = jtrpo.make_trainer(config)
    before = jax.eval_shape(trainer.init, jax.random.key(0))
    assert jax.eval_shape(trainer.step, before)[0] == before


@pytest.mark.parametrize("limit", [None, 3])
def test_whatever_an_environment_may_return_may_be_cut(limit):
    config = jtrpo.TrainConfig(Careless(probes.DISCRETE), num_envs=2, max_episode_steps=limit, **SMALL)
    trainer = jtrpo.make_trainer(config)
    step, state = jax.jit(trainer.step), trainer.init(jax.random.key(0))
    for _ in range(2):
        state, metrics = step(state)
    assert step._cache_size() == 1
    assert int(metrics.episode.finished) == (0 if limit is None else 2 * 16 // 3)
