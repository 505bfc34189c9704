from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.flatten_util import ravel_pytree

from jtrpo import Categorical, DiagGaussian, fisher_vector_product

B, OBSERVATION, HIDDEN, K = 5, 2, 3, 2
WEIGHT = np.array([1.0, 0.0, 2.0, 0.5, 0.0])


class Case(NamedTuple):
    policy: object
    params: object
    log_density: object  # (distribution's own parameters of one sample, action) -> log density
    kl: object  # of one sample's own parameters, by the textbook
    nodes: object  # one sample's own parameters -> (probability, action) pairs that make expectations exact


def hidden(params, observation):
    return jnp.tanh(observation @ params["w1"] + params["b1"][None])


def categorical_policy(params, observation):
    return Categorical(hidden(params, observation) @ params["w2"])


def gaussian_policy(params, observation):  # log_std depends on the state
    h = hidden(params["body"], observation)
    return DiagGaussian(h @ params["mean"], h @ params["log_std"])


def shared_gaussian_policy(params, observation):  # log_std of shape [D]
    h = hidden(params[0], observation)
    return DiagGaussian(h @ params[0]["w2"], params[1])


def categorical_log_density(d, action):
    return d.logits[action] - jax.nn.logsumexp(d.logits)


def categorical_kl(old, new):
    log_p, log_q = old.logits - jax.nn.logsumexp(old.logits), new.logits - jax.nn.logsumexp(new.logits)
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q))


def categorical_nodes(d):
    return jax.nn.softmax(d.logits), jnp.arange(d.logits.shape[-1])


def gaussian_log_density(d, action):
    return jnp.sum(-0.5 * ((action - d.mean) / jnp.exp(d.log_std)) ** 2 - d.log_std)


def gaussian_kl(old, new):
    numerator = jnp.exp(2 * old.log_std) + (old.mean - new.mean) ** 2
    return jnp.sum(new.log_std - old.log_std + numerator / (2 * jnp.exp(2 * new.log_std)) - 0.5)


def gaussian_nodes(d):
    """Gauss-Hermite quadrature: exact, because the score is a polynomial of degree two in the noise."""
    x, w = np.polynomial.hermite_e.hermegauss(4)
    noise = np.stack(np.meshgrid(*[x] * K), axis=-1).reshape(-1, K)
    probability = np.prod(np.stack(np.meshgrid(*[w] * K), axis=-1).reshape(-1, K) / w.sum(), axis=-1)
    return jnp.asarray(probability), d.mean[None] + jnp.exp(d.log_std)[None] * noise


def body(rng, out):
    shapes = {"w1": (OBSERVATION, HIDDEN), "b1": (HIDDEN,)} | ({"w2": (HIDDEN, out)} if out else {})
    return {name: rng.normal(size=shape) for name, shape in shapes.items()}


def make_case(name):
    rng = np.random.default_rng(0)
    gaussian = (gaussian_log_density, gaussian_kl, gaussian_nodes)
    if name == "categorical":
        return Case(categorical_policy, body(rng, 4), categorical_log_density, categorical_kl, categorical_nodes)
    if name == "gaussian":
        heads = {"mean": rng.normal(size=(HIDDEN, K)), "log_std": 0.5 * rng.normal(size=(HIDDEN, K))}
        return Case(gaussian_policy, {"body": body(rng, 0), **heads}, *gaussian)
    return Case(shared_gaussian_policy, (body(rng, K), 0.5 * rng.normal(size=K)), *gaussian)


def own_parameters(policy, params, observation):
    """Distribution's own parameters for one sample, with a log_std of its own."""
    d = jax.tree.map(lambda x: x[0] if x.ndim > 1 else x, policy(params, observation[None]))
    return d


def fisher_from_scores(case, params, observation, weight):
    """sum_a p_a grad log p_a grad log p_a^T, sample by sample and action by action."""
    flat, unravel = ravel_pytree(params)

    def one(observation):
        at_old = own_parameters(case.policy, params, observation)
        probability, actions = case.nodes(at_old)

        def score(action):
            return jax.grad(lambda x: case.log_density(own_parameters(case.policy, unravel(x), observation), action))(
                flat
            )

        scores = jax.vmap(score)(actions)
        return (scores * probability[:, None]).T @ scores

    return jnp.tensordot(weight / weight.sum(), jax.vmap(one)(observation), 1)


def fisher_from_hessian(case, params, observation, weight):
    """Second derivative of the mean KL(old || new), through the network and all."""
    flat, unravel = ravel_pytree(params)

    def mean_kl(x):
        def one(observation):
            old, new = (own_parameters(case.policy, p, observation) for p in (params, unravel(x)))
            return case.kl(old, new)

        return weight @ jax.vmap(one)(observation) / weight.sum()

    return jax.hessian(mean_kl)(flat)


def fisher_matrix(policy, params, observation, **settings):
    flat, unravel = ravel_pytree(params)

    def column(v):
        return ravel_pytree(fisher_vector_product(policy, params, observation, unravel(v), **settings))[0]

    return jax.vmap(column)(jnp.eye(flat.size, dtype=flat.dtype)).T


class Solved(NamedTuple):
    case: Case
    observation: np.ndarray
    scores: np.ndarray
    hessian: np.ndarray
    weighted: np.ndarray
    product: np.ndarray
    product_weighted: np.ndarray
    product_subset: np.ndarray


@pytest.fixture(scope="module", params=["categorical", "gaussian", "shared_gaussian"])
def solved(request):
    with jax.enable_x64(True):
        case = make_case(request.param)
        observation = np.random.default_rng(1).normal(size=(B, OBSERVATION))
        params = jax.tree.map(jnp.asarray, case.params)

        @jax.jit
        def everything(params, observation):
            ones = jnp.ones(B)
            return (
                fisher_from_scores(case, params, observation, ones),
                fisher_from_hessian(case, params, observation, ones),
                fisher_from_scores(case, params, observation, jnp.asarray(WEIGHT)),
                fisher_matrix(case.policy, params, observation),
                fisher_matrix(case.policy, params, observation, weight=jnp.asarray(WEIGHT)),
                fisher_matrix(case.policy, params, observation[WEIGHT > 0], weight=jnp.asarray(WEIGHT[WEIGHT > 0])),
            )

        return Solved(case, observation, *map(np.asarray, everything(params, observation)))


def relative_error(actual, expected):
    return np.linalg.norm(np.asarray(actual, np.float64) - expected) / np.linalg.norm(expected)


def test_the_two_dense_references_agree(solved):
    assert relative_error(solved.hessian, solved.scores) < 1e-11
    assert np.linalg.matrix_rank(solved.scores) > 3


def test_product_agrees_with_the_dense_fisher_from_all_actions_in_float64(solved):
    assert solved.product.dtype == np.float64
    assert relative_error(solved.product, solved.scores) <= 1e-9


def test_product_agrees_with_the_dense_hessian_of_the_mean_kl_in_float64(solved):
    assert relative_error(solved.product, solved.hessian) <= 1e-9


def test_product_agrees_with_both_in_float32(solved):
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), solved.case.params)
    observation = jnp.asarray(solved.observation, jnp.float32)
    vector = np.random.default_rng(2).normal(size=solved.scores.shape[0]).astype(np.float32)
    _, unravel = ravel_pytree(params)
    product = jax.jit(lambda v: fisher_vector_product(solved.case.policy, params, observation, unravel(v)))(vector)
    assert jax.tree.map(jnp.shape, product) == jax.tree.map(jnp.shape, params)
    assert {leaf.dtype for leaf in jax.tree.leaves(product)} == {jnp.dtype(jnp.float32)}
    flat = ravel_pytree(product)[0]
    assert relative_error(flat, solved.scores @ vector) <= 1e-5
    assert relative_error(flat, solved.hessian @ vector) <= 1e-5


def test_weights_are_those_of_the_mean_and_zero_leaves_a_sample_out(solved):
    assert relative_error(solved.product_weighted, solved.weighted) <= 1e-9
    assert relative_error(solved.product_subset, solved.product_weighted) <= 1e-12
    assert relative_error(solved.product_weighted, solved.scores) > 1e-2


def test_matrix_is_symmetric_and_positive_semi_definite(solved):
    scale = np.linalg.norm(solved.product)
    np.testing.assert_allclose(solved.product, solved.product.T, atol=1e-12 * scale)
    assert np.linalg.eigvalsh(solved.product).min() > -1e-12 * scale


product_of = jax.jit(fisher_vector_product, static_argnums=0, static_argnames="axis_name")


@pytest.fixture
def small():
    case = make_case("categorical")
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), case.params)
    observation = jnp.asarray(np.random.default_rng(1).normal(size=(B, OBSERVATION)), jnp.float32)
    vector = jax.tree.map(lambda x: x + 1, params)
    return params, observation, vector


def test_damping_adds_to_the_diagonal_and_may_be_traced(small):
    params, observation, vector = small
    plain, damped = (product_of(categorical_policy, params, observation, vector, damping=d) for d in (0.0, 0.25))
    jax.tree.map(lambda p, d, v: np.testing.assert_allclose(d, p + 0.25 * v, rtol=1e-5), plain, damped, vector)


def test_all_zero_weights_leave_only_the_damping(small):
    params, observation, vector = small
    product = product_of(categorical_policy, params, observation, vector, damping=0.5, weight=jnp.zeros(B))
    jax.tree.map(lambda p, v: np.testing.assert_allclose(p, 0.5 * v, rtol=1e-6), product, vector)


def test_a_sample_of_weight_zero_may_hold_nan(small):
    params, observation, vector = small
    broken = observation.at[WEIGHT == 0].set(jnp.nan)
    weight = jnp.asarray(WEIGHT, jnp.float32)
    clean, padded = (product_of(categorical_policy, params, x, vector, weight=weight) for x in (observation, broken))
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-6), padded, clean)


def test_masked_actions_do_not_poison_the_product(small):
    params, observation, vector = small
    mask = jnp.array([True, False, True, True])
    short = params | {"w2": params["w2"][:, mask]}
    short_vector = vector | {"w2": vector["w2"][:, mask]}

    def masked_policy(params, observation):
        return Categorical(jnp.where(mask[None], categorical_policy(params, observation).logits, -jnp.inf))

    actual = product_of(masked_policy, params, observation, vector)
    expected = product_of(categorical_policy, short, observation, short_vector)
    np.testing.assert_allclose(actual["w1"], expected["w1"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(actual["w2"][:, mask], expected["w2"], rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(actual["w2"][:, 1], np.zeros(HIDDEN))


def test_mean_over_a_mapped_axis_equals_that_of_the_whole_batch(small):
    params, observation, vector = small
    observation, weight = observation[:4], jnp.array([1.0, 2.0, 0.0, 3.0])
    whole = product_of(categorical_policy, params, observation, vector, weight=weight)
    halves = jax.vmap(
        lambda o, w: product_of(categorical_policy, params, o, vector, weight=w, axis_name="i"), axis_name="i"
    )(observation.reshape(2, 2, -1), weight.reshape(2, 2))
    for half in range(2):
        jax.tree.map(lambda h, w, i=half: np.testing.assert_allclose(h[i], w, rtol=1e-5, atol=1e-6), halves, whole)


class Plain:
    """A container of the user's own, registered as a pytree, without an __eq__."""

    def __init__(self, w):
        self.w = w


jax.tree_util.register_pytree_node(Plain, lambda p: ((p.w,), None), lambda _, children: Plain(*children))


def test_params_may_be_any_registered_pytree(small):
    _, observation, _ = small
    weights, vector = jnp.ones((OBSERVATION, 3)), jnp.arange(6.0).reshape(OBSERVATION, 3)
    product = product_of(lambda p, o: Categorical(o @ p.w), Plain(weights), observation, Plain(vector))
    expected = product_of(lambda p, o: Categorical(o @ p), weights, observation, vector)
    np.testing.assert_allclose(product.w, expected, rtol=1e-6)


def test_params_may_be_an_nnx_state(small):
    _, observation, _ = small
    graphdef, state = nnx.split(nnx.Linear(OBSERVATION, 3, rngs=nnx.Rngs(0)))
    product = product_of(lambda p, o: Categorical(nnx.merge(graphdef, p)(o)), state, observation, state)
    assert jax.tree.structure(product) == jax.tree.structure(state)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(product))


def test_observations_may_be_a_pytree(small):
    params, observation, vector = small
    split = {"left": observation[:, :1], "right": observation[:, 1:]}

    def policy(params, observation):
        return categorical_policy(params, jnp.concatenate([observation["left"], observation["right"]], axis=-1))

    actual = product_of(policy, params, split, vector)
    expected = product_of(categorical_policy, params, observation, vector)
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-5), actual, expected)


class NaiveBernoulli(NamedTuple):
    """A distribution of the user's own, by the textbook."""

    logits: jax.Array

    def sample(self, key):
        return jax.random.bernoulli(key, jax.nn.sigmoid(self.logits))

    def log_prob(self, action):
        return jnp.where(action, jax.nn.log_sigmoid(self.logits), jax.nn.log_sigmoid(-self.logits))

    def entropy(self):
        p = jax.nn.sigmoid(self.logits)
        return -p * jnp.log(p) - (1 - p) * jnp.log1p(-p)

    def mode(self):
        return self.logits > 0

    def kl(self, other):
        p, q = jax.nn.sigmoid(self.logits), jax.nn.sigmoid(other.logits)
        return p * jnp.log(p / q) + (1 - p) * jnp.log((1 - p) / (1 - q))


@pytest.mark.usefixtures("x64")
def test_a_distribution_of_ones_own_will_do():
    rng = np.random.default_rng(3)
    observation, params, vector = rng.normal(size=(B, 3)), rng.normal(size=3), rng.normal(size=3)
    p = 1 / (1 + np.exp(-observation @ params))
    dense = (observation * (p * (1 - p))[:, None]).T @ observation / B
    actual = product_of(lambda w, o: NaiveBernoulli(o @ w), params, observation, vector)
    np.testing.assert_allclose(actual, dense @ vector, rtol=1e-9)


@pytest.mark.parametrize("change", ["shape", "structure"])
def test_a_vector_not_shaped_like_the_params_is_refused(small, change):
    params, observation, vector = small
    wrong = vector | {"b1": jnp.ones(HIDDEN + 1)} if change == "shape" else {"w1": vector["w1"]}
    with pytest.raises(ValueError, match=r"vector must be a pytree shaped like params.*got"):
        fisher_vector_product(categorical_policy, params, observation, wrong)


def test_a_policy_that_returns_an_array_is_refused(small):
    params, observation, vector = small
    with pytest.raises(TypeError, match=r"policy.*must return a distribution.*jtrpo\.Categorical.*got float32\["):
        fisher_vector_product(lambda p, o: categorical_policy(p, o).logits, params, observation, vector)
