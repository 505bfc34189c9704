import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from jtrpo import (
    Bernoulli,
    Beta,
    Categorical,
    DiagGaussian,
    MultiCategorical,
    Product,
    StateDependentNoise,
    TanhGaussian,
    fisher_vector_product,
)


def multi(seed, batch=()):
    keys = jax.random.split(jax.random.key(seed), 3)
    return MultiCategorical(tuple(jax.random.normal(k, (*batch, n)) for k, n in zip(keys, (2, 3, 4), strict=True)))


def coins(seed, batch=()):
    return Bernoulli(jax.random.normal(jax.random.key(seed), (*batch, 3)))


def every_multi():
    return jnp.array(list(itertools.product(range(2), range(3), range(4))))


def every_coin():
    return jnp.array(list(itertools.product(range(2), repeat=3)))


@pytest.mark.parametrize(("make", "actions"), [(multi, every_multi), (coins, every_coin)], ids=["multi", "coins"])
def test_probabilities_sum_to_one_and_entropy_and_kl_are_the_sums_over_all_actions(make, actions):
    p, q = make(0), make(1)
    log_p, log_q = (jax.vmap(d.log_prob)(actions()) for d in (p, q))
    np.testing.assert_allclose(jnp.exp(log_p).sum(), 1.0, rtol=1e-6)
    np.testing.assert_allclose(p.entropy(), -jnp.sum(jnp.exp(log_p) * log_p), rtol=1e-5)
    np.testing.assert_allclose(p.kl(q), jnp.sum(jnp.exp(log_p) * (log_p - log_q)), rtol=1e-5)
    np.testing.assert_array_equal(p.mode(), actions()[jnp.argmax(log_p)])


def test_bernoulli_agrees_with_scipy():
    logits = jnp.array([-1.5, 0.3, 2.0])
    coin = stats.bernoulli(1 / (1 + np.exp(-np.asarray(logits, float))))
    action = np.array([1, 0, 1])
    np.testing.assert_allclose(Bernoulli(logits).log_prob(action), coin.logpmf(action).sum(), rtol=1e-6)
    np.testing.assert_allclose(Bernoulli(logits).entropy(), coin.entropy().sum(), rtol=1e-6)


@pytest.mark.parametrize("make", [multi, coins], ids=["multi", "coins"])
def test_samples_have_the_right_frequencies(make):
    count = 20_000
    distribution = make(2)
    samples = distribution._replace(
        logits=jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), distribution.logits)
    )
    samples = np.asarray(samples.sample(jax.random.key(9)))
    actions = np.asarray(every_multi() if make is multi else every_coin())
    p = np.exp(jax.vmap(distribution.log_prob)(actions))
    seen = np.array([(samples == action).all(axis=1).mean() for action in actions])
    assert np.all(np.abs(seen - p) < 5 * np.sqrt(p * (1 - p) / count))


def test_a_product_adds_up_over_a_nested_structure():
    def make(seed):
        return Product({"move": Categorical(jax.random.normal(jax.random.key(seed), (5, 4))),
                        "aim": (DiagGaussian(jnp.full((5, 2), 0.1 * seed), jnp.zeros(2)), coins(seed, (5,)))})  # fmt: skip

    p, q = make(0), make(1)
    action = p.sample(jax.random.key(3))
    parts = [(p.parts["move"], q.parts["move"], action["move"])]
    parts += [(p.parts["aim"][i], q.parts["aim"][i], action["aim"][i]) for i in (0, 1)]
    np.testing.assert_allclose(p.log_prob(action), sum(a.log_prob(x) for a, _, x in parts), rtol=1e-6)
    np.testing.assert_allclose(p.entropy(), sum(a.entropy() for a, _, _ in parts), rtol=1e-6)
    np.testing.assert_allclose(p.kl(q), sum(a.kl(b) for a, b, _ in parts), rtol=1e-6)
    assert jax.tree.structure(p.mode()) == jax.tree.structure(action)


def test_tanh_gaussian_density_integrates_to_one_and_entropy_is_its_integral():
    distribution = TanhGaussian(jnp.array([0.7]), jnp.array([-0.4]))
    log_prob = jax.jit(lambda u: distribution.log_prob(u[None]))
    u = np.linspace(-5.0, 6.0, 20_001)
    logs = np.asarray(jax.vmap(log_prob)(jnp.asarray(u, jnp.float32)), float)
    density = np.exp(logs) * (1 - np.tanh(u) ** 2)  # da = (1 - a^2) du
    np.testing.assert_allclose(integrate.trapezoid(density, u), 1.0, rtol=1e-5)
    np.testing.assert_allclose(distribution.entropy(), integrate.trapezoid(-logs * density, u), rtol=1e-3)


@pytest.mark.parametrize("mean", [0.0, 9.0, -30.0])
def test_tanh_gaussian_loses_nothing_of_an_action_near_the_bounds(mean):
    """By the score: E[grad log_prob] = 0, whose spread is 1 / std; from tanh(u) itself it was off by twice that."""
    p = TanhGaussian(jnp.full((20_000, 1), mean), jnp.log(0.37)[None])
    action = p.sample(jax.random.key(0))
    slope = jax.grad(lambda shift: p._replace(mean=p.mean + shift).log_prob(action).mean())(0.0)
    assert abs(slope) < 4 / 0.37 / 20_000**0.5
    expected = stats.norm(mean, 0.37).logpdf(np.asarray(action, float)) - log_slope(np.asarray(action, float))
    np.testing.assert_allclose(p.log_prob(action), expected[:, 0], rtol=1e-4, atol=1e-4)


def log_slope(u):
    return 2 * (np.log(2) - np.abs(u) - np.log1p(np.exp(-2 * np.abs(u))))  # log(1 - tanh(u)^2)


def test_tanh_gaussian_kl_is_that_before_the_squashing_and_extremes_stay_finite():
    p, q = TanhGaussian(jnp.array([[9.0]]), jnp.array([0.0])), TanhGaussian(jnp.array([[-9.0]]), jnp.array([0.5]))
    np.testing.assert_allclose(p.kl(q), DiagGaussian(*p).kl(DiagGaussian(*q)), rtol=1e-6)
    action = p.sample(jax.random.key(0))
    assert jnp.isfinite(p.log_prob(action)).all()
    assert jnp.isfinite(q.log_prob(action)).all()
    assert jnp.isfinite(p.entropy()).all()


def test_state_dependent_noise_is_gaussian_given_the_state_and_held_by_the_key():
    features = jnp.array([[1.0, -2.0], [0.5, 0.1]])
    distribution = StateDependentNoise(jnp.array([[0.3], [-0.2]]), features, jnp.array([[0.0], [-1.0]]))
    std = np.sqrt(np.asarray(features) ** 2 @ np.exp(2 * np.array([0.0, -1.0])))
    action = jnp.array([[0.9], [0.0]])
    expected = stats.norm(np.array([0.3, -0.2]), std).logpdf([0.9, 0.0])
    np.testing.assert_allclose(distribution.log_prob(action), expected, rtol=1e-5)
    key = jax.random.key(4)
    doubled = distribution._replace(features=2 * features)
    noise, twice = distribution.sample(key) - distribution.mean, doubled.sample(key) - doubled.mean
    np.testing.assert_allclose(twice, 2 * noise, rtol=1e-5)  # the same matrix, a smooth function of the features
    draws = jax.vmap(distribution.sample)(jax.random.split(key, 20_000))[..., 0]
    assert np.all(np.abs(draws.std(axis=0) - std) < 5 * std / np.sqrt(2 * 20_000))


def linear(make):
    """A policy of a few linear parameters, whose distribution is made from ``[B, 9]`` numbers."""
    return lambda params, observation: make(observation @ params["w"])


POLICIES = {
    "multi": linear(lambda x: MultiCategorical((x[:, :2], x[:, 2:5], x[:, 5:]))),
    "coins": linear(Bernoulli),
    "masked coins": linear(lambda x: Bernoulli(x.at[:, 3].set(-jnp.inf))),
    "masked multi": linear(lambda x: MultiCategorical((x[:, :2], x[:, 2:5].at[:, 0].set(-jnp.inf), x[:, 5:]))),
    "product": linear(lambda x: Product({"a": Categorical(x[:, :4]), "b": DiagGaussian(x[:, 4:6], x[:, 6:8])})),
    "tanh": linear(lambda x: TanhGaussian(x[:, :4], 0.1 * x[:, 4:8])),
    "beta": linear(lambda x: Beta(jnp.exp(x[:, :4]), jnp.exp(x[:, 4:8]))),
    "gsde": linear(lambda x: StateDependentNoise(x[:, :3], x[:, 3:5], 0.1 * jnp.ones((2, 3)))),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", POLICIES)
def test_fisher_product_equals_the_dense_hessian_of_the_mean_kl(name):
    policy = POLICIES[name]
    observation = jax.random.normal(jax.random.key(0), (6, 2), float)
    w, v = jax.random.normal(jax.random.key(1), (2, 2, 9), float)

    @jax.jit
    def both(w, v):
        old = policy({"w": w}, observation)
        hessian = jax.hessian(lambda w: jnp.mean(old.kl(policy({"w": w}, observation))))(w).reshape(18, 18)
        return hessian, fisher_vector_product(policy, {"w": w}, observation, {"w": v})["w"]

    hessian, product = both(w, v)
    np.testing.assert_allclose(product.ravel(), hessian @ v.ravel(), rtol=1e-9, atol=1e-12)
    assert np.linalg.norm(product) > 1e-3
