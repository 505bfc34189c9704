import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

import jtrpo
from jtrpo import Batch, Categorical, mean_kl, surrogate

B, A = 6, 3


@pytest.fixture
def case(x64):
    rng = np.random.default_rng(0)
    logits, other = rng.normal(size=(2, B, A))
    action, advantage = rng.integers(A, size=B), rng.normal(size=B)
    log_prob = scipy.special.log_softmax(other, -1)[np.arange(B), action]
    weight = np.array([1.0, 0.0, 2.0, 0.5, 0.0, 1.0])
    return logits, other, action, advantage, log_prob, weight


@pytest.mark.parametrize("entropy_coefficient", [0.0, 0.3])
@pytest.mark.parametrize("weighted", [False, True])
def test_surrogate_agrees_with_a_plain_loop(case, weighted, entropy_coefficient):
    logits, _, action, advantage, log_prob, weight = case
    weight = weight if weighted else np.ones(B)
    expected = 0.0
    for i in range(B):
        p = np.exp(logits[i]) / np.exp(logits[i]).sum()
        ratio = p[action[i]] / np.exp(log_prob[i])
        expected += weight[i] * (ratio * advantage[i] - entropy_coefficient * (p * np.log(p)).sum())
    expected /= weight.sum()
    batch = Batch(jnp.zeros((B, 1)), action, advantage, log_prob, weight if weighted else None)
    actual = surrogate(Categorical(jnp.asarray(logits)), batch, entropy_coefficient=entropy_coefficient)
    np.testing.assert_allclose(actual, expected, rtol=1e-12)


def test_surrogate_of_the_behaviour_policy_is_the_mean_advantage_and_its_gradient_the_policy_gradient(case):
    _, other, action, advantage, log_prob, _ = case
    batch = Batch(jnp.zeros((B, 1)), action, advantage, log_prob)
    value, gradient = jax.value_and_grad(lambda x: surrogate(Categorical(x), batch))(jnp.asarray(other))
    score = np.eye(A)[action] - scipy.special.softmax(other, -1)
    np.testing.assert_allclose(value, advantage.mean(), rtol=1e-12)
    np.testing.assert_allclose(gradient, advantage[:, None] * score / B, rtol=1e-10)


def test_mean_kl_is_the_weighted_mean_of_old_from_new(case):
    logits, other, *_, weight = case
    p, q = scipy.special.softmax(logits, -1), scipy.special.softmax(other, -1)
    each = scipy.special.rel_entr(p, q).sum(-1)
    old, new = Categorical(jnp.asarray(logits)), Categorical(jnp.asarray(other))
    np.testing.assert_allclose(mean_kl(old, new), each.mean(), rtol=1e-12)
    np.testing.assert_allclose(
        mean_kl(old, new, weight=jnp.asarray(weight)), (weight * each).sum() / weight.sum(), rtol=1e-12
    )


def test_a_weight_of_zero_silences_a_nan_and_all_zero_gives_zero(case):
    logits, other, action, advantage, log_prob, weight = case
    old, new = Categorical(jnp.asarray(logits)), Categorical(jnp.asarray(other))
    broken = Categorical(jnp.asarray(logits).at[1].set(jnp.nan))
    np.testing.assert_array_equal(mean_kl(broken, new, weight=weight), mean_kl(old, new, weight=weight))
    assert mean_kl(old, new, weight=jnp.zeros(B)) == 0
    assert surrogate(new, Batch(jnp.zeros((B, 1)), action, advantage, log_prob, jnp.zeros(B))) == 0


def test_means_over_a_mapped_axis_equal_those_over_the_whole_batch(case):
    logits, other, action, advantage, log_prob, weight = case
    batch = Batch(jnp.zeros((B, 1)), action, advantage, log_prob, weight)
    old, new = Categorical(jnp.asarray(logits)), Categorical(jnp.asarray(other))
    halves = jax.tree.map(lambda x: jnp.reshape(x, (2, B // 2, *x.shape[1:])), (old, new, batch))

    def both(old, new, batch, axis_name=None):
        objective = surrogate(new, batch, entropy_coefficient=0.1, axis_name=axis_name)
        return objective, mean_kl(old, new, weight=batch.weight, axis_name=axis_name)

    whole = both(old, new, batch)
    parts = jax.vmap(lambda *x: both(*x, axis_name="i"), axis_name="i")(*halves)
    jax.tree.map(lambda w, p: np.testing.assert_allclose(p, np.full(2, w), rtol=1e-12), whole, parts)


def test_surrogate_without_log_prob_says_what_to_give():
    with pytest.raises(ValueError, match="log_prob"):
        surrogate(Categorical(jnp.zeros((2, 3))), Batch(jnp.zeros((2, 1)), jnp.zeros(2, int), jnp.ones(2)))


@pytest.mark.parametrize(
    ("probability", "ratio", "kl", "kept"), [(0.60, 3.0, 0.335, False), (0.25, 1.25, 0.0070, True)]
)
def test_the_naive_step_breaks_the_trust_region_where_the_small_one_keeps_it(probability, ratio, kl, kept):
    old, new = (Categorical(jnp.log(jnp.array([[p, 1 - p]]))) for p in (0.20, probability))
    batch = Batch(jnp.zeros((1, 1)), jnp.array([0]), jnp.array([10.0]), old.log_prob(jnp.array([0])))
    np.testing.assert_allclose(surrogate(new, batch), 10 * ratio, rtol=1e-5)
    np.testing.assert_allclose(mean_kl(old, new), kl, rtol=1e-2)
    assert (mean_kl(old, new) <= 0.01) == kept
    assert isinstance(new, jtrpo.Distribution)
