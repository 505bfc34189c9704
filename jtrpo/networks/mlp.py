"""Multilayer perceptrons for policies and critics."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from gymnasium import spaces
from jaxtyping import Array, Float

from jtrpo.core.distributions import Categorical, DiagGaussian, Distribution
from jtrpo.networks.encoding import encode

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "elu": jax.nn.elu,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
}
"""Activations by the names that settings use."""


class MLP(nn.Module):
    """Dense layers with an activation after each, orthogonal weights of gain sqrt(2), zero biases.

    Attributes:
        hidden_sizes: width of each layer.
        activation: applied after each layer.
    """

    hidden_sizes: tuple[int, ...] = (64, 64)
    activation: Callable[[Array], Array] = jnp.tanh

    @nn.compact
    def __call__(self, features: Float[Array, "... F"]) -> Float[Array, "... H"]:
        for size in self.hidden_sizes:
            features = self.activation(nn.Dense(size, kernel_init=nn.initializers.orthogonal(2**0.5))(features))
        return features


class MLPPolicy(nn.Module):
    """Policy: an MLP to the distribution that fits the action space, its last layer scaled by 0.01.

    The Gaussian's log_std is a parameter of its own, independent of the state.

    Attributes:
        observation_space: a Box or Discrete space.
        action_space: a Discrete space, or a Box, whose actions are then in units of :func:`environment_action`.
        hidden_sizes: width of each hidden layer.
        activation: applied after each hidden layer.
        initial_log_std: of the Gaussian.
    """

    observation_space: spaces.Space
    action_space: spaces.Space
    hidden_sizes: tuple[int, ...] = (64, 64)
    activation: Callable[[Array], Array] = jnp.tanh
    initial_log_std: float = 0.0

    @nn.compact
    def __call__(self, observation: Array) -> Distribution:
        hidden = MLP(self.hidden_sizes, self.activation)(encode(self.observation_space, observation))
        last_layer = nn.initializers.orthogonal(0.01)
        if isinstance(self.action_space, spaces.Discrete):
            return Categorical(nn.Dense(int(self.action_space.n), kernel_init=last_layer)(hidden))
        if isinstance(self.action_space, spaces.Box) and len(self.action_space.shape) == 1:
            size = self.action_space.shape[0]
            mean = nn.Dense(size, kernel_init=last_layer)(hidden)
            log_std = self.param("log_std", nn.initializers.constant(self.initial_log_std), (size,))
            return DiagGaussian(mean, jnp.broadcast_to(log_std, mean.shape))
        raise TypeError(
            f"action space {self.action_space} is not supported; give a Discrete space or a Box of one dimension"
        )


class MLPCritic(nn.Module):
    """State-value function: an MLP to one number, in units of (scaled) return.

    Attributes:
        observation_space: a Box or Discrete space.
        hidden_sizes: width of each hidden layer.
        activation: applied after each hidden layer.
    """

    observation_space: spaces.Space
    hidden_sizes: tuple[int, ...] = (64, 64)
    activation: Callable[[Array], Array] = jnp.tanh

    @nn.compact
    def __call__(self, observation: Array) -> Float[Array, "..."]:
        hidden = MLP(self.hidden_sizes, self.activation)(encode(self.observation_space, observation))
        return nn.Dense(1, kernel_init=nn.initializers.orthogonal(1.0))(hidden)[..., 0]
