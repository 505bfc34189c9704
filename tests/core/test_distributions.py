import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
from hypothesis import strategies as st

import jtrpo
from jtrpo import Categorical, DiagGaussian

INF = np.inf


def categorical_numpy(logits):
    return scipy.special.softmax(np.asarray(logits, np.float64), axis=-1)


def gaussian_kl_numpy(mean, log_std, other_mean, other_log_std):
    variance, other_variance = np.exp(2 * log_std), np.exp(2 * other_log_std)
    terms = other_log_std - log_std + (variance + (mean - other_mean) ** 2) / (2 * other_variance) - 0.5
    return terms.sum(-1)


def random_gaussians(rng, shape, dtype=np.float64):
    return (rng.normal(size=shape).astype(dtype), (0.5 * rng.normal(size=shape)).astype(dtype))


@pytest.mark.usefixtures("x64")
def test_categorical_log_prob_and_entropy_agree_with_scipy():
    logits = np.random.default_rng(0).normal(size=(3, 4, 5)) * 3
    p = categorical_numpy(logits)
    distribution = Categorical(jnp.asarray(logits))
    np.testing.assert_allclose(distribution.entropy(), scipy.stats.entropy(p, axis=-1), rtol=1e-12)
    for action in range(5):
        actual = distribution.log_prob(jnp.full((3, 4), action))
        np.testing.assert_allclose(actual, np.log(p[..., action]), rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_gaussian_log_prob_and_entropy_agree_with_scipy():
    rng = np.random.default_rng(1)
    mean, log_std = random_gaussians(rng, (3, 4, 2))
    action = rng.normal(size=(3, 4, 2))
    distribution, reference = DiagGaussian(mean, log_std), scipy.stats.norm(mean, np.exp(log_std))
    np.testing.assert_allclose(distribution.log_prob(action), reference.logpdf(action).sum(-1), rtol=1e-12)
    np.testing.assert_allclose(distribution.entropy(), reference.entropy().sum(-1), rtol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("spread", [1e-3, 0.05, 0.2, 1.0, 10.0])  # on either side of the series' radius
def test_categorical_kl_agrees_with_scipy(spread):
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(20, 6))
    other = logits + spread * rng.normal(size=(20, 6))
    expected = scipy.stats.entropy(categorical_numpy(logits), categorical_numpy(other), axis=-1)
    actual = Categorical(jnp.asarray(logits)).kl(Categorical(jnp.asarray(other)))
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=3e-16)


@pytest.mark.usefixtures("x64")
def test_gaussian_kl_agrees_with_numerical_integration_and_sums_over_dimensions():
    rng = np.random.default_rng(3)
    (mean, log_std), (other_mean, other_log_std) = random_gaussians(rng, (4, 2)), random_gaussians(rng, (4, 2))
    expected = np.zeros(4)
    for i, j in np.ndindex(4, 2):
        p = scipy.stats.norm(mean[i, j], np.exp(log_std[i, j]))
        q = scipy.stats.norm(other_mean[i, j], np.exp(other_log_std[i, j]))
        reach = 12 * p.std()
        integrand = lambda x, p=p, q=q: p.pdf(x) * (p.logpdf(x) - q.logpdf(x))  # noqa: E731
        expected[i] += scipy.integrate.quad(integrand, p.mean() - reach, p.mean() + reach, epsabs=1e-12)[0]
    actual = DiagGaussian(mean, log_std).kl(DiagGaussian(other_mean, other_log_std))
    np.testing.assert_allclose(actual, expected, rtol=1e-9)


@pytest.mark.parametrize("kind", ["categorical", "gaussian"])
def test_kl_is_the_mean_log_ratio_of_own_samples(kind):
    rng = np.random.default_rng(4)
    if kind == "categorical":
        p, q = (Categorical(jnp.asarray(rng.normal(size=3), jnp.float32)) for _ in range(2))
    else:
        p, q = (DiagGaussian(*map(jnp.asarray, random_gaussians(rng, (2,), np.float32))) for _ in range(2))

    @jax.jit
    def sampled_log_ratio(key):
        action = jax.vmap(p.sample)(jax.random.split(key, 50_000))
        return jax.vmap(lambda a: p.log_prob(a) - q.log_prob(a))(action)

    log_ratio = np.asarray(sampled_log_ratio(jax.random.key(0)), np.float64)
    standard_error = log_ratio.std() / np.sqrt(len(log_ratio))
    assert abs(log_ratio.mean() - p.kl(q)) < 5 * standard_error
    assert abs(log_ratio.mean() - q.kl(p)) > 5 * standard_error  # the direction matters, and is seen


def test_kl_is_of_self_from_other_and_not_the_reverse():
    p, q = (Categorical(jnp.log(jnp.array(x))) for x in ([0.2, 0.8], [0.6, 0.4]))
    np.testing.assert_allclose(p.kl(q), 0.2 * np.log(1 / 3) + 0.8 * np.log(2), rtol=1e-5)
    np.testing.assert_allclose(q.kl(p), 0.6 * np.log(3) + 0.4 * np.log(1 / 2), rtol=1e-5)
    narrow, wide = (DiagGaussian(jnp.zeros(1), jnp.log(jnp.array([std]))) for std in (1.0, 2.0))
    np.testing.assert_allclose(narrow.kl(wide), np.log(2) + 1 / 8 - 1 / 2, rtol=1e-5)
    np.testing.assert_allclose(wide.kl(narrow), -np.log(2) + 2 - 1 / 2, rtol=1e-5)


number = st.floats(-30, 30, width=32)
vectors = st.lists(number, min_size=4, max_size=4).map(lambda x: np.asarray(x, np.float32))
categorical_kl = jax.jit(lambda p, q: Categorical(p).kl(Categorical(q)))
gaussian_kl = jax.jit(lambda m, s, n, t: DiagGaussian(m, s).kl(DiagGaussian(n, t)))


@hypothesis.given(p=vectors, q=vectors)
def test_categorical_kl_is_never_negative_and_zero_of_itself(p, q):
    assert categorical_kl(p, q) >= 0
    assert categorical_kl(p, p) == 0
    expected = scipy.special.rel_entr(categorical_numpy(p), categorical_numpy(q)).sum()
    np.testing.assert_allclose(categorical_kl(p, q), expected, rtol=1e-4, atol=1e-5)


@hypothesis.given(mean=vectors, log_std=vectors, other_mean=vectors, other_log_std=vectors)
def test_gaussian_kl_is_never_negative_and_zero_of_itself(mean, log_std, other_mean, other_log_std):
    log_std, other_log_std = log_std / 10, other_log_std / 10
    actual = gaussian_kl(mean, log_std, other_mean, other_log_std)
    assert actual >= 0
    assert gaussian_kl(mean, log_std, mean, log_std) == 0
    expected = gaussian_kl_numpy(*(x.astype(np.float64) for x in (mean, log_std, other_mean, other_log_std)))
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)


def test_float32_categorical_kl_keeps_its_digits_near_zero_where_the_textbook_formula_loses_them():
    rng = np.random.default_rng(5)
    logits = rng.normal(size=(200, 6)).astype(np.float32)
    other = (logits + 1e-4 * rng.normal(size=(200, 6))).astype(np.float32)
    d = np.longdouble(other) - np.longdouble(logits)
    p = categorical_numpy(logits)
    log_ratio = d - np.log((p * np.exp(d)).sum(-1, keepdims=True))  # log q - log p
    exact = np.float64((p * (np.expm1(log_ratio) - log_ratio)).sum(-1))
    actual = np.float64(Categorical(jnp.asarray(logits)).kl(Categorical(jnp.asarray(other))))
    log_p, log_q = jax.nn.log_softmax(logits), jax.nn.log_softmax(other)
    textbook = np.float64(jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1))
    assert np.median(exact) < 1e-8
    assert np.max(np.abs(actual / exact - 1)) < 2e-2
    assert np.median(np.abs(textbook / exact - 1)) > 0.5


def test_float32_gaussian_kl_keeps_its_digits_near_zero_where_the_textbook_formula_loses_them():
    rng = np.random.default_rng(6)
    mean, log_std = random_gaussians(rng, (200, 3), np.float32)
    other_mean, other_log_std = ((x + 1e-4 * rng.normal(size=x.shape)).astype(np.float32) for x in (mean, log_std))
    exact = np.float64(gaussian_kl_numpy(*map(np.longdouble, (mean, log_std, other_mean, other_log_std))))
    actual = np.float64(DiagGaussian(mean, log_std).kl(DiagGaussian(other_mean, other_log_std)))
    textbook = gaussian_kl_numpy(mean, log_std, other_mean, other_log_std)
    assert textbook.dtype == np.float32
    assert np.max(np.abs(actual / exact - 1)) < 1e-5
    assert np.median(np.abs(textbook / exact - 1)) > 0.5


def test_categorical_samples_follow_the_probabilities_and_mode_is_the_likeliest():
    logits = jnp.array([[0.0, 1.0, -2.0], [2.0, 0.0, 0.0]])
    n = 20_000
    action = Categorical(jnp.broadcast_to(logits, (n, 2, 3))).sample(jax.random.key(1))
    assert action.shape == (n, 2)
    assert jnp.issubdtype(action.dtype, jnp.integer)
    p = categorical_numpy(logits)
    frequency = (np.asarray(action)[..., None] == np.arange(3)).mean(0)
    assert np.all(np.abs(frequency - p) < 5 * np.sqrt(p * (1 - p) / n))
    np.testing.assert_array_equal(Categorical(logits).mode(), [1, 0])


def test_gaussian_samples_have_the_mean_and_the_standard_deviation():
    mean, log_std = jnp.array([[1.0, -2.0], [0.0, 5.0]]), jnp.log(jnp.array([0.1, 3.0]))
    n = 20_000
    action = np.asarray(DiagGaussian(jnp.broadcast_to(mean, (n, 2, 2)), log_std[None, None]).sample(jax.random.key(2)))
    std = np.exp(log_std)
    assert action.shape == (n, 2, 2)
    assert np.all(np.abs(action.mean(0) - mean) < 5 * std / np.sqrt(n))
    assert np.all(np.abs(action.std(0) / std - 1) < 5 / np.sqrt(2 * n))
    correlation = np.corrcoef(action.reshape(n, 4).T) - np.eye(4)
    assert np.all(np.abs(correlation) < 5 / np.sqrt(n))
    np.testing.assert_array_equal(DiagGaussian(mean, log_std[None]).mode(), mean)


def test_sample_depends_on_the_key_alone():
    distribution = DiagGaussian(jnp.zeros(3), jnp.zeros(3))
    first, again, other = (distribution.sample(jax.random.key(k)) for k in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.any(first == other)


@pytest.mark.parametrize("shape", [(2,), (1, 2)])
@jax.numpy_rank_promotion("allow")
def test_gaussian_log_std_broadcasts_to_the_mean(shape):
    rng = np.random.default_rng(7)
    mean, other_mean, action = rng.normal(size=(3, 5, 2)).astype(np.float32)
    log_std, other_log_std = rng.normal(size=(2, 2)).astype(np.float32)
    short = DiagGaussian(mean, log_std.reshape(shape))
    full = DiagGaussian(mean, np.broadcast_to(log_std, (5, 2)))
    short_other = DiagGaussian(other_mean, other_log_std.reshape(shape))
    full_other = DiagGaussian(other_mean, np.broadcast_to(other_log_std, (5, 2)))

    @jax.jit
    def quantities(p, q):
        return p.log_prob(action), p.entropy(), p.kl(q), p.sample(jax.random.key(0))

    for actual, expected in zip(quantities(short, short_other), quantities(full, full_other), strict=True):
        assert actual.shape == expected.shape
        np.testing.assert_allclose(actual, expected, rtol=1e-6)


MASKED = np.array([[-INF, 0.3, -0.7, -INF], [1.0, -INF, 0.2, 0.1], [-INF, -INF, 4.0, -INF]], np.float32)


def test_masked_actions_have_probability_exactly_zero_and_are_never_drawn():
    distribution = Categorical(jnp.asarray(MASKED))
    legal = np.isfinite(MASKED)
    for action in range(4):
        p = np.exp(distribution.log_prob(jnp.full(3, action)))
        assert np.all(p[~legal[:, action]] == 0)
        assert np.all(p[legal[:, action]] > 0)
    draws = np.asarray(Categorical(jnp.broadcast_to(MASKED, (2000, 3, 4))).sample(jax.random.key(0)))
    assert legal[np.arange(3), draws].all()
    assert legal[np.arange(3), distribution.mode()].all()


def test_masked_quantities_and_their_gradients_equal_those_without_the_masked_actions():
    legal = np.array([0, 2, 3])
    short, short_other = np.array([1.0, 0.2, -0.5], np.float32), np.array([0.3, 0.9, 0.4], np.float32)

    def masked(x):
        return jnp.full(5, -INF).at[legal].set(x)

    def quantities(x, y, embed, action):
        p, q = Categorical(embed(x)), Categorical(embed(y))
        return jnp.stack([p.entropy(), p.kl(q), p.log_prob(action), q.log_prob(action)])

    whole, own = (masked, 3), (lambda x: x, 2)  # the same action, by its two numbers
    for transform in (lambda f: f, lambda f: jax.jacrev(f, argnums=(0, 1)), lambda f: jax.hessian(f, argnums=(0, 1))):
        actual, expected = (
            jax.jit(transform(lambda x, y, e=embed, a=action: quantities(x, y, e, a)))(short, short_other)
            for embed, action in (whole, own)
        )
        jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-6), actual, expected)


def test_gradients_towards_masked_logits_are_zero():
    def total(logits, other):
        p, q = Categorical(logits), Categorical(other)
        return jnp.sum(p.entropy() + p.kl(q) + p.log_prob(jnp.array([1, 0, 2])))

    for gradient in jax.jit(jax.grad(total, argnums=(0, 1)))(jnp.asarray(MASKED), jnp.asarray(MASKED) * 0.5):
        assert np.all(np.isfinite(gradient))
        assert np.all(np.asarray(gradient)[~np.isfinite(MASKED)] == 0)


def test_kl_between_different_masks_is_not_nan():
    p, q = jnp.array([0.0, 0.0, -INF]), jnp.array([0.0, 0.0, 0.0])
    np.testing.assert_allclose(Categorical(p).kl(Categorical(q)), np.log(1.5), rtol=1e-5)
    assert Categorical(q).kl(Categorical(p)) > 1e30  # a legal action has become impossible


@pytest.mark.parametrize("size", [50.0, 1e4, 1e30])
def test_near_deterministic_categorical_has_finite_quantities_and_derivatives(size):
    logits, other = jnp.array([size, 0.0, -size]), jnp.array([0.9 * size, 0.0, -size])

    def quantities(x):
        p, q = Categorical(x), Categorical(other)
        return jnp.stack([p.entropy(), p.kl(q), p.log_prob(jnp.int32(0))])

    values, derivatives = jax.jit(lambda x: (quantities(x), jax.jacrev(quantities)(x)))(logits)
    assert np.all(np.isfinite(values))
    assert np.all(np.isfinite(derivatives))


def test_a_nan_parameter_stays_visible():
    assert np.isnan(Categorical(jnp.array([0.0, np.nan])).entropy())
    assert np.isnan(Categorical(jnp.array([0.0, np.nan])).kl(Categorical(jnp.zeros(2))))
    assert np.isnan(jax.jit(Categorical(jnp.zeros(2)).log_prob)(2))  # no such action
    assert np.isnan(DiagGaussian(jnp.array([np.nan]), jnp.zeros(1)).log_prob(jnp.zeros(1)))


@pytest.mark.parametrize(
    "distribution", [Categorical(np.zeros((3, 4), np.float32)), DiagGaussian(*np.zeros((2, 3, 4), np.float32))]
)
def test_distributions_are_pytrees_of_their_own_parameters(distribution):
    leaves, treedef = jax.tree.flatten(distribution)
    assert len(leaves) == len(distribution)
    rebuilt = jax.tree.unflatten(treedef, leaves)
    assert type(rebuilt) is type(distribution)
    assert isinstance(rebuilt, jtrpo.Distribution)
    through = jax.jit(jax.vmap(lambda d: d))(distribution)
    jax.tree.map(np.testing.assert_array_equal, through, distribution)


def test_an_array_is_not_a_distribution():
    assert not isinstance(jnp.zeros(3), jtrpo.Distribution)


def test_gaussian_refuses_an_action_of_another_rank_instead_of_pairing_all_samples():
    distribution = DiagGaussian(jnp.zeros((5, 1)), jnp.zeros((5, 1)))
    with jax.numpy_rank_promotion("allow"), pytest.raises(ValueError, match="action"):  # JAX's default
        distribution.log_prob(jnp.zeros(5))
