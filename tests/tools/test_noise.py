import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jtrpo
from jtrpo.tools.noise import sample_by, uniforms_needed

N = 20_000


def draw(distribution, seed=0):
    """Actions of one distribution, as many as there are rows of noise."""
    batch = jax.tree.map(lambda x: jnp.broadcast_to(x, (N, *x.shape)), distribution)
    if isinstance(distribution, jtrpo.StateDependentNoise):
        batch = batch._replace(log_scale=distribution.log_scale)
    noise = np.random.default_rng(seed).random((N, uniforms_needed(batch)), np.float32)
    return jax.jit(sample_by)(batch, jnp.asarray(noise))


def follows(numbers, law):
    """Whether numbers are those of a law: Kolmogorov and Smirnov's test, of a fixed seed."""
    return stats.kstest(np.asarray(numbers, float), law.cdf).pvalue > 0.01


@pytest.mark.parametrize("kind", [jtrpo.DiagGaussian, jtrpo.TanhGaussian])
def test_gaussians(kind):
    action = draw(kind(jnp.array([0.5, -2.0]), jnp.log(jnp.array([0.1, 3.0]))))
    assert follows(action[:, 0], stats.norm(0.5, 0.1))
    assert follows(action[:, 1], stats.norm(-2.0, 3.0))
    assert abs(np.corrcoef(action.T)[0, 1]) < 0.03


def test_noise_that_depends_on_the_state_is_the_same_matrix_for_every_state():
    features, log_scale = jnp.array([1.0, -2.0]), jnp.log(jnp.array([[0.5, 1.0], [0.25, 0.1]]))
    of = lambda features: draw(jtrpo.StateDependentNoise(jnp.zeros(2), features, log_scale))  # noqa: E731
    action, other = of(features), of(jnp.array([3.0, 0.5]))
    assert follows(action[:, 0], stats.norm(0.0, 0.5**0.5))
    assert follows(action[:, 1], stats.norm(0.0, 1.04**0.5))
    np.testing.assert_allclose(action + other, of(jnp.array([4.0, -1.5])), atol=1e-5)


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (1.3, 5.0), (40.0, 1.0), (3e3, 1e3), (0.2, 0.5)])
def test_beta(alpha, beta):
    u = draw(jtrpo.Beta(jnp.array([alpha]), jnp.array([beta])))
    assert follows(0.5 * (np.tanh(np.asarray(u[:, 0], float)) + 1), stats.beta(alpha, beta))


def test_choices_and_their_masks():
    logits = jnp.array([0.0, 1.0, -jnp.inf, -1.0])
    parts = {
        "one": jtrpo.Categorical(logits),
        "two": (jtrpo.MultiCategorical((logits, logits[:2])), jtrpo.Bernoulli(logits)),
    }
    action = draw(jtrpo.Product(parts))
    p = np.asarray(jax.nn.softmax(logits), float)
    p /= p.sum()
    one, (two, coins) = action["one"], action["two"]
    for choice, expected in ((one, p), (two[:, 0], p), (two[:, 1], p[:2] / p[:2].sum())):
        counts = np.bincount(choice, minlength=len(expected))
        assert counts[expected == 0].sum() == 0
        assert stats.chisquare(counts[expected > 0], N * expected[expected > 0]).pvalue > 0.01
    np.testing.assert_allclose(coins.mean(axis=0), jax.nn.sigmoid(logits), atol=0.015)


def test_the_ends_of_the_noise_give_finite_actions_and_no_masked_ones():
    for distribution in (jtrpo.DiagGaussian(jnp.zeros((2, 3)), jnp.zeros(3)), jtrpo.Beta(*jnp.ones((2, 2, 3)))):
        for end in (0.0, 1.0):
            noise = jnp.full((2, uniforms_needed(distribution)), end)
            action = sample_by(distribution, noise)
            assert np.isfinite(action).all()
            assert abs(action).max() < 6.0 or isinstance(distribution, jtrpo.Beta)
    masked = jtrpo.Categorical(jnp.array([[-jnp.inf, 0.0, -jnp.inf, 3.0]]))
    for row in np.ndindex(2, 2, 2, 2):
        assert int(sample_by(masked, jnp.array([row], float))[0]) in (1, 3)


def test_a_distribution_of_ones_own_needs_a_key():
    class Folded(jtrpo.DiagGaussian):
        def sample(self, key):
            return abs(super().sample(key))

    class Other:
        sample = log_prob = entropy = mode = kl = lambda self: None

    jax.tree_util.register_static(Other)
    for own in (Folded(jnp.zeros((1, 2)), jnp.zeros(2)), Other(), jtrpo.Product({"one": Other()})):
        with pytest.raises(TypeError, match=r"actions of (Folded|Other) cannot be drawn from uniform numbers"):
            uniforms_needed(own)
