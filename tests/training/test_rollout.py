import jax
import jax.numpy as jnp
import numpy as np

import jtrpo
from jtrpo.training.rollout import Trajectory, collect, discounted_returns, reset, reset_where, staggered_resets
from tests import probes


class Counter(probes.Probe):
    """Observes its step; episodes end by termination after 3 steps; reward is the step."""

    max_episode_steps = 3

    def observe(self, key, state):
        return jnp.full((1,), state, float)

    def outcome(self, key, state, action):
        return state.astype(float), state == 2, jnp.bool_(False)


class Long(Counter):
    """As Counter, but truncated after 40 steps."""

    def outcome(self, key, state, action):
        return jnp.float32(1.0), jnp.bool_(False), state == 39


def uniform(observation, memory):
    return jtrpo.Categorical(jnp.zeros((*observation.shape[:-1], 2))), memory


def run(env, num_envs, num_steps):
    start = reset(env, jax.random.key(0), num_envs)
    return jax.jit(lambda start: collect(env, uniform, start, jax.random.key(1), num_steps))(start)


def test_records_what_was_seen_and_what_really_followed():
    _, trajectory, _ = run(Counter(probes.DISCRETE), 2, 7)
    steps = np.array([0, 1, 2, 0, 1, 2, 0])
    np.testing.assert_array_equal(trajectory.observation[..., 0], np.stack([steps] * 2, axis=1))
    np.testing.assert_array_equal(trajectory.final_observation, trajectory.observation + 1)
    np.testing.assert_array_equal(trajectory.terminated[:, 0], steps == 2)
    np.testing.assert_allclose(trajectory.log_prob, np.log(0.5), rtol=1e-6)


def test_episodes_are_counted_across_collections_and_never_stacked():
    end, _, episodes = run(Counter(probes.DISCRETE), 4, 7)
    assert int(episodes.finished) == 8
    assert float(episodes.return_mean) == float(episodes.return_min) == float(episodes.return_max) == 3.0
    assert float(episodes.length_mean) == 3.0
    assert all(x.shape == () for x in jax.tree.leaves(episodes))
    np.testing.assert_array_equal(end.episode_length, 1)


def test_no_episode_finished_gives_means_of_nan():
    _, _, episodes = run(Long(probes.DISCRETE), 4, 7)
    assert int(episodes.finished) == 0
    assert np.isnan([episodes.return_mean, episodes.length_mean]).all()


def test_discounted_returns_are_those_of_a_plain_loop():
    rng, gamma = np.random.default_rng(0), 0.7
    reward, before = rng.normal(size=(6, 2)), rng.normal(size=2)
    terminated, truncated, valid = (rng.random((6, 2)) < chance for chance in (0.2, 0.2, 0.8))
    nothing = jnp.zeros((6, 2))
    trajectory = Trajectory(
        nothing, nothing, nothing, *map(jnp.asarray, (reward, terminated, truncated)), nothing, valid=jnp.asarray(valid)
    )
    running, returns = discounted_returns(trajectory, jnp.asarray(before), gamma)
    for env in range(2):
        total = before[env]
        for step in range(6):
            total = reward[step, env] + gamma * total
            np.testing.assert_allclose(returns[step, env], total, rtol=1e-5)
            if terminated[step, env] or truncated[step, env] or not valid[step, env]:
                total = 0.0
        np.testing.assert_allclose(running[env], total, rtol=1e-5)


def test_stagger_cuts_each_environment_once_at_evenly_spread_times():
    env, num_envs, num_steps, limit = Long(probes.DISCRETE), 8, 5, 40
    state = reset(env, jax.random.key(0), num_envs)
    truncated = []
    for update in range(16):
        state, trajectory, _ = collect(env, uniform, state, jax.random.key(update), num_steps)
        cut = staggered_resets(num_envs, num_steps, jnp.int32(update), limit)
        state, trajectory = reset_where(env, state, trajectory, jax.random.key(100 + update), cut)
        truncated.append(trajectory.truncated)
    ends = [np.flatnonzero(column) + 1 for column in np.concatenate(truncated).T]
    first = np.array([end[0] for end in ends])
    np.testing.assert_array_equal(first, [40, 5, 10, 15, 20, 25, 30, 35])  # every phase once, and one never cut
    assert all(end[1] == end[0] + limit for end in ends)  # then each runs its full length
    np.testing.assert_array_equal(state.observation[:, 0], (num_steps * 16 - first) % limit)


def test_box_actions_reach_the_environment_in_bounds_while_log_prob_is_that_of_the_sample():
    seen = []

    class Spy(Counter):
        def outcome(self, key, state, action):
            jax.debug.callback(lambda a: seen.append(a), action)
            return super().outcome(key, state, action)

    env = Spy(jtrpo_box := probes.spaces.Box(np.float32([2.0]), np.float32([4.0])))
    policy = lambda observation, memory: (  # noqa: E731
        jtrpo.DiagGaussian(jnp.zeros((observation.shape[0], 1)), jnp.ones((1,))),
        memory,
    )
    start = reset(env, jax.random.key(0), 16)
    _, trajectory, _ = collect(env, policy, start, jax.random.key(1), 4)
    jax.effects_barrier()
    assert jtrpo_box.low.min() <= np.min(seen) <= 2.01
    assert 3.99 <= np.max(seen) <= 4.0
    assert float(jnp.abs(trajectory.action).max()) > 1.5  # stored as sampled
    density = jtrpo.DiagGaussian(jnp.zeros((4, 16, 1)), jnp.ones((1,))).log_prob(trajectory.action)
    np.testing.assert_allclose(trajectory.log_prob, density, rtol=1e-5)
