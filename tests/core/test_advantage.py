import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtrpo import gae

ENDINGS = [(False, False), (True, False), (False, True), (True, True)]
T = 4


def gae_loop(reward, value, next_value, terminated, truncated, gamma, gae_lambda):
    advantage = [0.0] * len(reward)
    following = 0.0
    for t in reversed(range(len(reward))):
        bootstrap = 0.0 if terminated[t] else next_value[t]
        delta = reward[t] + gamma * bootstrap - value[t]
        if terminated[t] or truncated[t]:
            following = 0.0
        following = delta + gamma * gae_lambda * following
        advantage[t] = following
    return advantage


@pytest.fixture(scope="module")
def trajectories():
    patterns = np.array(list(itertools.product(ENDINGS, repeat=T)))  # [4^T, T, 2]
    terminated, truncated = patterns[..., 0].T, patterns[..., 1].T
    reward, value, next_value = np.random.default_rng(0).normal(size=(3, T, len(patterns)))
    return reward, value, next_value, terminated, truncated


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("gamma", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("gae_lambda", [0.0, 0.7, 1.0])
def test_agrees_with_a_plain_loop_for_every_pattern_of_endings(trajectories, gamma, gae_lambda):
    reward, value, *_ = trajectories
    advantage, target = gae(*trajectories, gamma=gamma, gae_lambda=gae_lambda)
    expected = [gae_loop(*(x[:, n] for x in trajectories), gamma, gae_lambda) for n in range(reward.shape[1])]
    np.testing.assert_allclose(advantage, np.transpose(expected), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(target, np.transpose(expected) + value, rtol=1e-12, atol=1e-14)


@pytest.mark.usefixtures("x64")
def test_lambda_one_is_the_discounted_return_minus_the_value(trajectories):
    reward, value, next_value, terminated, truncated = trajectories
    gamma = 0.9
    advantage, _ = gae(*trajectories, gamma=gamma, gae_lambda=1.0)
    # Forwards, episode by episode: rewards up to the first ending at or after t, then the bootstrap unless terminated.
    for n, start in np.ndindex(reward.shape[1], T):
        ends = np.flatnonzero(terminated[start:, n] | truncated[start:, n])
        last = start + ends[0] if len(ends) else T - 1
        steps = np.arange(start, last + 1)
        discounted = (gamma ** (steps - start) * reward[steps, n]).sum()
        if not terminated[last, n]:
            # Consistent values make the telescoping exact within an episode only if V(s'_t) is V(s_{t+1}):
            discounted += gamma ** (last + 1 - start) * next_value[last, n]
        inner = steps[:-1]
        discounted += (gamma ** (inner + 1 - start) * (next_value[inner, n] - value[inner + 1, n])).sum()
        np.testing.assert_allclose(advantage[start, n], discounted - value[start, n], rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_lambda_zero_is_the_temporal_difference_error(trajectories):
    reward, value, next_value, terminated, _ = trajectories
    advantage, _ = gae(*trajectories, gamma=0.9, gae_lambda=0.0)
    np.testing.assert_allclose(advantage, reward + 0.9 * (1 - terminated) * next_value - value, rtol=1e-12, atol=1e-14)


def test_a_truncated_step_bootstraps_and_a_terminated_one_does_not():
    one = jnp.ones(1)
    yes, no = jnp.array([True]), jnp.array([False])
    for terminated, truncated, expected in [(no, no, 5.5), (no, yes, 5.5), (yes, no, 0.5), (yes, yes, 0.5)]:
        advantage, target = gae(one, 0.5 * one, 10 * one, terminated, truncated, gamma=0.5, gae_lambda=0.9)
        np.testing.assert_allclose(advantage, [expected])
        np.testing.assert_allclose(target, [expected + 0.5])


def test_extra_axes_are_independent_trajectories(trajectories):
    reward, *_ = trajectories
    flat = gae(*trajectories, gamma=0.9, gae_lambda=0.8)
    shaped = [x.reshape(T, 4, -1) for x in trajectories]
    for actual, expected in zip(gae(*shaped, gamma=0.9, gae_lambda=0.8), flat, strict=True):
        np.testing.assert_allclose(actual, expected.reshape(T, 4, -1), rtol=1e-6)
    single = gae(*(x[:, 0] for x in trajectories), gamma=0.9, gae_lambda=0.8)
    np.testing.assert_allclose(single[0], flat[0][:, 0], rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_the_critic_says_after_a_termination_is_ignored(value):
    zeros, terminated = jnp.zeros(3), jnp.array([False, True, False])
    next_value = jnp.array([1.0, 2.0, 3.0])
    clean = gae(zeros, zeros, next_value, terminated, zeros, gamma=0.9, gae_lambda=0.8)
    dirty = gae(zeros, zeros, next_value.at[1].set(value), terminated, zeros, gamma=0.9, gae_lambda=0.8)
    jax.tree.map(np.testing.assert_array_equal, dirty, clean)


def test_gamma_and_lambda_may_be_mapped_and_zero_one_flags_mean_the_same(trajectories):
    reward, value, next_value, terminated, truncated = (jnp.asarray(x[:, 77]) for x in trajectories)
    gammas, lambdas = jnp.array([0.5, 0.9]), jnp.array([0.3, 1.0])
    flags = terminated.astype(jnp.float32), truncated.astype(jnp.float32)
    mapped = jax.vmap(lambda g, l: gae(reward, value, next_value, *flags, gamma=g, gae_lambda=l))(gammas, lambdas)
    for i in range(2):
        each = gae(reward, value, next_value, terminated, truncated, gamma=gammas[i], gae_lambda=lambdas[i])
        np.testing.assert_allclose(mapped[0][i], each[0], rtol=1e-6)


@pytest.mark.parametrize("position", range(1, 5))
def test_a_shape_unlike_the_rewards_is_named(position):
    names = ["reward", "value", "next_value", "terminated", "truncated"]
    arrays = [np.zeros((3, 2)) for _ in names]
    arrays[position] = np.zeros((3, 1))
    message = rf"^{names[position]} must have the shape of reward, \(3, 2\); got \(3, 1\)"
    with pytest.raises(ValueError, match=message):
        gae(*arrays, gamma=0.9, gae_lambda=0.9)
    with pytest.raises(ValueError, match=message):
        jax.jit(lambda *x: gae(*x, gamma=0.9, gae_lambda=0.9))(*arrays)


@pytest.mark.usefixtures("x64")
def test_with_ratios_targets_are_those_of_v_trace(trajectories):
    """Against equation 1 of the IMPALA paper, its sum over products written out, with both bounds 1 and lambda in c."""
    reward, value, next_value, terminated, truncated = (np.asarray(x)[:, :20] for x in trajectories)
    gamma, gae_lambda = 0.9, 0.8
    ratio = np.exp(np.random.default_rng(3).normal(size=reward.shape))
    steps = (reward, value, next_value, terminated, truncated)
    advantage, target = gae(*steps, gamma=gamma, gae_lambda=gae_lambda, ratio=jnp.asarray(ratio))
    cut, delta = terminated | truncated, reward + gamma * (1 - terminated) * next_value - value
    for n in range(20):
        for s in range(T):
            total, product = 0.0, 1.0
            for t in range(s, T):
                total += gamma ** (t - s) * product * min(1, ratio[t, n]) * delta[t, n]
                product *= gae_lambda * min(1, ratio[t, n]) * (1 - cut[t, n])
            np.testing.assert_allclose(target[s, n], value[s, n] + total, rtol=1e-10, atol=1e-12)
    following = np.append(target[1:] - value[1:], np.zeros((1, 20)), axis=0)
    np.testing.assert_allclose(advantage, delta + gamma * gae_lambda * (1 - cut) * following, rtol=1e-10, atol=1e-12)


def test_ratios_of_one_or_more_change_nothing(trajectories):
    plain = gae(*trajectories, gamma=0.9, gae_lambda=0.8)
    ratio = jnp.asarray(1.0 + np.random.default_rng(0).random(trajectories[0].shape))
    for actual, expected in zip(gae(*trajectories, gamma=0.9, gae_lambda=0.8, ratio=ratio), plain, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="ratio must have the shape of reward"):
        gae(*trajectories, gamma=0.9, gae_lambda=0.8, ratio=ratio[1:])
