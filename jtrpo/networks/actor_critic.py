"""Policies and critics: an encoder with a head."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from gymnasium import spaces
from jaxtyping import Array, Float, PyTree

from jtrpo.core.distributions import Distribution
from jtrpo.networks.heads import Head
from jtrpo.networks.network import SequenceNetwork
from jtrpo.networks.recurrent import Memory, Sequences, empty_carry
from jtrpo.networks.torso import Torso, action_mask


class Encoder(nn.Module):
    """Features of what is seen: a torso, then a memory where there is one.

    Attributes:
        observation_space: see :class:`Torso`.
        hidden_sizes: width of each hidden layer; a memory has the width of the last.
        activation: applied after each hidden layer.
        flatten_images: images are not convolved, but flat.
        memory: ``None``, ``"gru"`` or ``"lstm"``; with a memory, the input is :class:`Sequences`.
    """

    observation_space: spaces.Space
    hidden_sizes: tuple[int, ...] = (64, 64)
    activation: Callable[[Array], Array] = jnp.tanh
    flatten_images: bool = False
    memory: str | None = None

    @nn.compact
    def __call__(self, seen: PyTree) -> tuple[Float[Array, "... H"], PyTree]:
        """Return the features, and the memory's carry after each step."""
        torso = Torso(self.observation_space, self.hidden_sizes, self.activation, self.flatten_images)
        if self.memory is None:
            return torso(seen), ()
        return Memory(self.memory, self.hidden_sizes[-1])(torso(seen.observation), seen)

    @nn.nowrap
    def empty_memory(self, batch: int) -> PyTree:
        """Carry before the first step of an episode; ``()`` without a memory."""
        return () if self.memory is None else empty_carry(self.memory, self.hidden_sizes[-1], batch)


class PolicyNetwork(nn.Module):
    """Policy: what is seen to the distribution over actions, illegal ones masked out where the environment says so.

    Attributes:
        encoder: features of what is seen.
        head: from features to the distribution.
    """

    encoder: Encoder
    head: Head

    def __call__(self, seen: PyTree) -> Distribution:
        return self.output_and_carry(seen)[0]

    def output_and_carry(self, seen: PyTree) -> tuple[Distribution, PyTree]:
        """Return the distribution, and the memory's carry after each step."""
        features, carry = self.encoder(seen)
        observation = seen.observation if isinstance(seen, Sequences) else seen
        return self.head(features, action_mask(self.encoder.observation_space, observation)), carry

    def features_and_carry(self, seen: PyTree) -> tuple[Float[Array, "... H"], PyTree]:
        """Return what the head reads, and the memory's carry after each step."""
        return self.encoder(seen)


class CriticNetwork(nn.Module):
    """State-value function: what is seen to one number.

    Attributes:
        encoder: features of what is seen.
    """

    encoder: Encoder

    def setup(self) -> None:
        self.value = nn.Dense(1, kernel_init=nn.initializers.orthogonal(1.0))

    def __call__(self, seen: PyTree) -> Float[Array, "..."]:
        return self.output_and_carry(seen)[0]

    def output_and_carry(self, seen: PyTree) -> tuple[Float[Array, "..."], PyTree]:
        """Return the value, and the memory's carry after each step."""
        features, carry = self.encoder(seen)
        return self.value(features)[..., 0], carry


def built_in(network: PolicyNetwork | CriticNetwork) -> SequenceNetwork:
    """A built-in network as the agent calls it."""
    apply = partial(network.apply, method="output_and_carry")
    return SequenceNetwork(network.init, apply, network.encoder.empty_memory)
