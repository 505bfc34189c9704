import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from jtrpo import Categorical, DiagGaussian
from jtrpo.networks.actor_critic import CriticNetwork, Encoder, PolicyNetwork
from jtrpo.networks.heads import Head

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


def test_hidden_weights_are_orthogonal_with_gain_root_two():
    params = CriticNetwork(Encoder(BOX, hidden_sizes=(8, 8))).init(jax.random.key(0), jnp.zeros((3,)))
    kernel = params["params"]["encoder"]["Torso_0"]["MLP_0"]["Dense_1"]["kernel"]
    np.testing.assert_allclose(kernel.T @ kernel, 2 * np.eye(8), atol=1e-5)


def test_discrete_observations_are_one_hot():
    network = CriticNetwork(Encoder(spaces.Discrete(5), hidden_sizes=()))
    params = network.init(jax.random.key(0), jnp.int32(0))
    values = network.apply(params, jnp.arange(5))
    np.testing.assert_allclose(values, params["params"]["value"]["kernel"][:, 0], rtol=1e-6)
