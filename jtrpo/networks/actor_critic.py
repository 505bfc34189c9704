"""Policies and critics: a torso with a head."""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from gymnasium import spaces
from jaxtyping import Array, Float, PyTree

from jtrpo.core.distributions import Distribution
from jtrpo.networks.heads import Head
from jtrpo.networks.torso import Torso, action_mask


class PolicyNetwork(nn.Module):
    """Policy: observation to the distribution over actions, illegal ones masked out where the environment says so.

    Attributes:
        observation_space: see :class:`Torso`.
        action_space: see :class:`Head`.
        hidden_sizes: width of each hidden layer.
        activation: applied after each hidden layer.
        box_distribution: see :class:`Head`.
        initial_log_std: see :class:`Head`.
    """

    observation_space: spaces.Space
    action_space: spaces.Space
    hidden_sizes: tuple[int, ...] = (64, 64)
    activation: Callable[[Array], Array] = jnp.tanh
    box_distribution: str = "gaussian"
    initial_log_std: float = 0.0

    @nn.compact
    def __call__(self, observation: PyTree) -> Distribution:
        features = Torso(self.observation_space, self.hidden_sizes, self.activation)(observation)
        head = Head(self.action_space, self.box_distribution, self.initial_log_std)
        return head(features, action_mask(self.observation_space, observation))


class CriticNetwork(nn.Module):
    """State-value function: observation to one number, in units of (scaled) return.

    Attributes:
        observation_space: see :class:`Torso`.
        hidden_sizes: width of each hidden layer.
        activation: applied after each hidden layer.
    """

    observation_space: spaces.Space
    hidden_sizes: tuple[int, ...] = (64, 64)
    activation: Callable[[Array], Array] = jnp.tanh

    @nn.compact
    def __call__(self, observation: PyTree) -> Float[Array, "..."]:
        features = Torso(self.observation_space, self.hidden_sizes, self.activation)(observation)
        return nn.Dense(1, kernel_init=nn.initializers.orthogonal(1.0))(features)[..., 0]
