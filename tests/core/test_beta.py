import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from jtrpo import Beta, fisher_vector_product


def drawn(count, low, high, seed=0, times=1):
    rng = np.random.default_rng(seed)
    return [Beta(*np.exp(rng.uniform(low, high, (2, count, 1)))) for _ in range(times)]


def exact_kl(p, q):
    a, b, c, d = (np.asarray(x, float)[..., 0] for x in (*p, *q))
    psi, total = special.digamma, a + b
    return (
        special.betaln(c, d) - special.betaln(a, b) + (a - c) * psi(a) + (b - d) * psi(b) - (total - c - d) * psi(total)
    )


def exact_log_prob(p, u):
    """Density of tanh(u), from logarithms that are good near the bounds."""
    log_x, log_rest = -np.logaddexp(0, -2 * u), -np.logaddexp(0, 2 * u)
    parts = (p.alpha - 1) * log_x + (p.beta - 1) * log_rest - special.betaln(p.alpha, p.beta) - np.log(2)
    return parts[..., 0]


@pytest.fixture(scope="module")
def quantities():
    """Of two distributions and an action, compiled once for each type."""
    return jax.jit(lambda p, q, u: (p.log_prob(u), p.entropy(), p.kl(q)))


def test_density_entropy_and_kl_are_scipys(quantities, x64):
    p, q = drawn(500, -2, 7, times=2)
    u = np.arctanh(np.clip(2 * np.random.default_rng(1).beta(*p) - 1, -1 + 1e-12, 1 - 1e-12))
    log_prob, entropy, kl = quantities(p, q, u)
    np.testing.assert_allclose(log_prob, exact_log_prob(p, u), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(entropy, stats.beta(*p, loc=-1, scale=2).entropy()[:, 0], rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(kl, exact_kl(p, q), rtol=1e-9)
    uniform = Beta(np.ones((1, 3)), np.ones((1, 3)))
    np.testing.assert_allclose(uniform.entropy(), 3 * np.log(2), rtol=1e-10)
    np.testing.assert_allclose(uniform.log_prob(np.array([[-9.0, 0.0, 2.0]])), -3 * np.log(2), rtol=1e-10)


@pytest.mark.parametrize("sharpness", [1.0, 1e2, 1e4, 1e6])
def test_no_digits_are_lost_in_float32(quantities, sharpness):
    """Of distributions whose KL is some 1e-4, where Stirling's terms of a sharp one are a million times as large."""
    rng = np.random.default_rng(0)
    parameters = sharpness * np.exp(rng.uniform(0, 1, (2, 500, 1)))
    moved = parameters * np.exp(0.02 * rng.normal(size=parameters.shape) / np.sqrt(sharpness))
    p, q = (Beta(*each.astype(np.float32)) for each in (parameters, moved))
    u = np.asarray(p.sample(jax.random.key(0)))
    found = quantities(p, q, u)
    p, q, u = jax.tree.map(lambda x: np.asarray(x, float), (p, q, u))
    with jax.enable_x64(True):
        exact = quantities(p, q, u)
    assert all(x.dtype == jnp.float32 for x in found)
    np.testing.assert_allclose(found[0], exact[0], atol=5e-7 * sharpness**0.5, rtol=5e-6)
    np.testing.assert_allclose(found[1], exact[1], atol=5e-6)
    np.testing.assert_allclose(found[2], exact[2], rtol=1e-4)
    np.testing.assert_allclose(
        exact[2], exact_kl(p, q), rtol=1e-6, atol=1e-13 * sharpness
    )  # scipy's difference loses digits
    np.testing.assert_allclose(exact[0], exact_log_prob(p, u), rtol=1e-6)


def test_samples_follow_the_distribution_and_actions_beyond_rounding_count():
    sample = jax.jit(lambda p: p.sample(jax.random.key(0)))
    score = jax.jit(jax.grad(lambda a, p, u: p._replace(alpha=p.alpha + a).log_prob(u).mean()))
    log_prob = jax.jit(lambda p, u: p.log_prob(u))
    for alpha, beta in ((1.0, 1.0), (1.7, 4.0), (300.0, 2.0)):
        shape = jnp.full((5_000, 1), 1.0)
        p = Beta(alpha * shape, beta * shape)
        u = sample(p)
        x = 1 / (1 + np.exp(-2 * np.asarray(u, float)))
        assert stats.kstest(x[:, 0], stats.beta(alpha, beta).cdf).pvalue > 1e-3
        # The score: E[d log p] = 0.
        slope = score(0.0, p, u)
        spread = (special.polygamma(1, alpha) - special.polygamma(1, alpha + beta)) ** 0.5
        assert abs(slope) < 4 * spread / 5_000**0.5
    far = jnp.full((5_000, 1), 30.0)  # tanh(u) is one, and 1 - x below the smallest number that is told from 1
    assert jnp.isfinite(log_prob(p, far)).all()
    assert jnp.isfinite(log_prob(p, -far)).all()


def test_the_mode_is_where_the_density_is_largest():
    p = Beta(jnp.array([[1.5, 40.0, 1.0, 0.5, 1.0]]), jnp.array([[3.0, 1.2, 1.0, 0.5, 3.0]]))
    place = np.tanh(np.asarray(p.mode(), float))[0]
    np.testing.assert_allclose(place[:2], [2 * 0.5 / 2.5 - 1, 2 * 39 / 39.2 - 1], rtol=1e-5)
    assert place[2] == place[3] == 0  # no mode inside: the mean
    assert place[4] == -1  # at the bound itself
    assert np.isfinite(p.mode()).all()


@pytest.mark.parametrize("alpha", [1.0, 1e3])
def test_fisher_product_is_that_of_trigammas(alpha, x64):
    """F = [[psi'(a) - t, -t], [-t, psi'(b) - t]], t = psi'(a + b)."""
    beta, v = 2.5, np.array([[0.3, -1.1]])
    policy = lambda params, observation: Beta(observation * params["w"][:, :1], observation * params["w"][:, 1:])  # noqa: E731
    params = {"w": jnp.array([[alpha, beta]])}
    products = jax.jit(fisher_vector_product, static_argnums=0)
    product = products(policy, params, jnp.ones((4, 1)), {"w": jnp.asarray(v)})["w"]
    one, other, both = special.polygamma(1, [alpha, beta, alpha + beta])
    expected = np.array([[one - both, -both], [-both, other - both]]) @ v[0]
    np.testing.assert_allclose(product[0], expected, rtol=1e-8)


def test_an_action_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"action must have shape \(4, 2\); got \(4, 1, 2\)"):
        Beta(jnp.ones((4, 2)), jnp.ones((4, 2))).log_prob(jnp.zeros((4, 1, 2)))
