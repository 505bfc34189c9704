import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from jtrpo import Batch, Categorical, DiagGaussian, fisher_vector_product, mean_kl, surrogate, trpo_update
from jtrpo.networks.actor_critic import CriticNetwork, Encoder, PolicyNetwork
from jtrpo.networks.heads import BOX_DISTRIBUTIONS, Head

BOX = spaces.Box(-1.0, 1.0, (3,), np.float32)


def test_policy_fits_the_action_space_and_starts_uniform():
    network = PolicyNetwork(Encoder(BOX), Head(spaces.Discrete(4)))
    params = network.init(jax.random.key(0), jnp.zeros((3,)))
    distribution = network.apply(params, jax.random.normal(jax.random.key(1), (2, 5, 3)))
    assert isinstance(distribution, Categorical)
    assert distribution.logits.shape == (2, 5, 4)
    np.testing.assert_allclose(distribution.entropy(), np.log(4), atol=1e-3)  # the last layer is zero


def test_gaussian_log_std_is_one_parameter_of_the_action_not_of_the_state():
    network = PolicyNetwork(Encoder(BOX), Head(spaces.Box(-1.0, 1.0, (2,)), initial_log_std=-0.5))
    params = network.init(jax.random.key(0), jnp.zeros((3,)))
    assert params["params"]["head"]["log_std"].shape == (2,)
    distribution = network.apply(params, jax.random.normal(jax.random.key(1), (7, 3)))
    assert isinstance(distribution, DiagGaussian)
    np.testing.assert_array_equal(distribution.log_std, np.full((7, 2), -0.5, np.float32))
    assert float(jnp.abs(distribution.mean).max()) < 0.1


@pytest.mark.parametrize(("log_std", "expected"), [(-3.0, -3.0), (-1.0, -1.0), (5.0, -0.74), (-50.0, -7.25)])
def test_a_beta_begins_as_wide_as_asked_where_it_can_be(log_std, expected):
    head = Head(spaces.Box(-1.0, 1.0, (2,)), "beta", initial_log_std=log_std)
    alpha, beta = head.apply(head.init(jax.random.key(0), jnp.zeros((1, 3))), jnp.ones((1, 3)))
    np.testing.assert_array_equal(alpha, beta)
    np.testing.assert_allclose(
        -0.5 * np.log(2 * alpha + 1), expected, atol=0.01
    )  # variance on (-1, 1): 1 / (2 alpha + 1)


def test_hidden_weights_are_orthogonal_with_gain_root_two():
    params = CriticNetwork(Encoder(BOX, hidden_sizes=(8, 8))).init(jax.random.key(0), jnp.zeros((3,)))
    kernel = params["params"]["encoder"]["Torso_0"]["MLP_0"]["Dense_1"]["kernel"]
    np.testing.assert_allclose(kernel.T @ kernel, 2 * np.eye(8), atol=1e-5)


def test_discrete_observations_are_one_hot():
    network = CriticNetwork(Encoder(spaces.Discrete(5), hidden_sizes=()))
    params = network.init(jax.random.key(0), jnp.int32(0))
    values = network.apply(params, jnp.arange(5))
    np.testing.assert_allclose(values, params["params"]["value"]["kernel"][:, 0], rtol=1e-6)


@pytest.mark.parametrize(
    "kind", [pytest.param(each, marks=() if each == "gsde" else pytest.mark.slow) for each in BOX_DISTRIBUTIONS]
)
def test_the_search_measures_the_objective_and_the_kl_that_the_step_was_made_for(kind, x64):
    """The KL's second derivative along a direction is v . F v, and the surrogate's slope is g . v, for every built-in policy."""
    network = PolicyNetwork(Encoder(BOX, (8,)), Head(spaces.Box(-1.0, 1.0, (2,)), kind, initial_log_std=-0.5))
    observation = jax.random.normal(jax.random.key(0), (32, 3))
    params = jax.tree.map(lambda x: x.astype(float), network.init(jax.random.key(1), observation))
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(2), 2 * len(leaves))
    noise = [jax.random.normal(key, x.shape) for key, x in zip(keys, [*leaves, *leaves], strict=True)]
    params = structure.unflatten([x + 0.3 * y for x, y in zip(leaves, noise, strict=False)])
    v = structure.unflatten(noise[len(leaves) :])
    dot = lambda x, y: sum(jax.tree.leaves(jax.tree.map(lambda a, b: jnp.vdot(a, b), x, y)))  # noqa: E731

    @jax.jit
    def measure(params, v):
        old = network.apply(params, observation)
        action = old.sample(jax.random.key(3))
        batch = Batch(observation, action, jax.random.normal(jax.random.key(4), (32,)), old.log_prob(action))
        along = lambda t: network.apply(jax.tree.map(lambda x, u: x + t * u, params, v), observation)  # noqa: E731
        curvature = jax.grad(jax.grad(lambda t: mean_kl(old, along(t))))(0.0)
        product = fisher_vector_product(network.apply, params, observation, v)
        _, info = trpo_update(network.apply, params, batch, normalize_advantage=False, max_kl=1e-9, cg_iterations=1)
        gradient = jax.grad(lambda p: surrogate(network.apply(p, observation), batch))(params)
        return curvature, dot(v, product), dot(gradient, gradient) ** 0.5, info

    curvature, form, gradient_norm, info = measure(params, v)
    np.testing.assert_allclose(form, curvature, rtol=1e-8)
    np.testing.assert_allclose(info.gradient_norm, gradient_norm, rtol=1e-8)
    np.testing.assert_allclose(info.objective_after - info.objective_before, info.predicted_improvement, rtol=1e-3)
