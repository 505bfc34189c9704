"""Distributions made of independent parts, whose log-probabilities, entropies and divergences add up."""

from collections.abc import Callable
from functools import reduce
from operator import add
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from jtrpo.core.distributions import Categorical, Distribution, check_action_shape


class MultiCategorical(NamedTuple):
    """Independent categorical components, possibly of unequal sizes: the distribution of a MultiDiscrete action.

    A logit of ``-inf`` masks its choice, as in :class:`Categorical`.

    Attributes:
        logits: one array ``[..., A_i]`` for each of the ``K`` components.

    Examples:
        >>> distribution = jtrpo.MultiCategorical((jnp.zeros(2), jnp.zeros(3)))
        >>> distribution.sample(jax.random.key(0)).shape, f"{distribution.entropy():.4f}"  # log 6
        ((2,), '1.7918')
    """

    logits: tuple[Float[Array, "... A"], ...]

    def sample(self, key: PRNGKeyArray) -> Int[Array, "... K"]:
        """Draw a choice for each component; the key is consumed."""
        keys = jax.random.split(key, len(self.logits))
        return jnp.stack([part.sample(k) for part, k in zip(self._parts(), keys, strict=True)], axis=-1)

    def log_prob(self, action: Int[Array, "... K"]) -> Float[Array, "..."]:
        """Sum over components of log p_i[action_i], in nats.

        Raises:
            ValueError: the action has another shape than ``[..., K]``, or a component as in :class:`Categorical`.
        """
        check_action_shape(action, (*self.logits[0].shape[:-1], len(self.logits)))
        return reduce(add, (part.log_prob(action[..., i]) for i, part in enumerate(self._parts())))

    def entropy(self) -> Float[Array, "..."]:
        """Sum of the components' entropies, in nats."""
        return reduce(add, (part.entropy() for part in self._parts()))

    def mode(self) -> Int[Array, "... K"]:
        """Return the most probable choice of each component."""
        return jnp.stack([part.mode() for part in self._parts()], axis=-1)

    def kl(self, other: "MultiCategorical") -> Float[Array, "..."]:
        """KL(self || other): the sum of the components' divergences, in nats."""
        return reduce(add, (p.kl(q) for p, q in zip(self._parts(), other._parts(), strict=True)))

    def _parts(self) -> list[Categorical]:
        return [Categorical(logits) for logits in self.logits]


class Bernoulli(NamedTuple):
    """Independent coins, p(1) = sigmoid(logits): the distribution of a MultiBinary action.

    Attributes:
        logits: log-odds of 1, ``[..., D]``; ``-inf`` masks the 1.

    Examples:
        >>> print(f"{jtrpo.Bernoulli(jnp.zeros(3)).log_prob(jnp.array([0, 1, 1])):.4f}")  # 3 log(1/2)
        -2.0794
    """

    logits: Float[Array, "... D"]

    def sample(self, key: PRNGKeyArray) -> Int[Array, "... D"]:
        """Draw 0 or 1 for each coin; the key is consumed."""
        return self._coins().sample(key)

    def log_prob(self, action: Int[Array, "... D"]) -> Float[Array, "..."]:
        """Sum over coins of log p(action_d), in nats."""
        return jnp.sum(self._coins().log_prob(action), axis=-1)

    def entropy(self) -> Float[Array, "..."]:
        """Sum of the coins' entropies, in nats."""
        return jnp.sum(self._coins().entropy(), axis=-1)

    def mode(self) -> Int[Array, "... D"]:
        """Return the more probable side of each coin."""
        return (self.logits > 0).astype(jnp.int32)

    def kl(self, other: "Bernoulli") -> Float[Array, "..."]:
        """KL(self || other): the sum of the coins' divergences, in nats."""
        return jnp.sum(self._coins().kl(other._coins()), axis=-1)

    def _coins(self) -> Categorical:
        return Categorical(jnp.stack([jnp.zeros_like(self.logits), self.logits], axis=-1))


class Product(NamedTuple):
    """Independent parts in a dictionary or tuple: the distribution of a Dict or Tuple action.

    Attributes:
        parts: dictionary or tuple (nested at will) of distributions; an action has the same structure.

    Examples:
        >>> parts = {"aim": jtrpo.DiagGaussian(jnp.zeros(2), jnp.zeros(2)), "fire": jtrpo.Categorical(jnp.zeros(2))}
        >>> action = jtrpo.Product(parts).sample(jax.random.key(0))
        >>> action["aim"].shape, action["fire"].shape
        ((2,), ())
    """

    parts: PyTree

    def sample(self, key: PRNGKeyArray) -> PyTree:
        """Draw an action for each part; the key is consumed."""
        leaves, structure = jax.tree.flatten(self.parts, is_leaf=is_part)
        keys = jax.random.split(key, len(leaves))
        return jax.tree.unflatten(structure, [part.sample(k) for part, k in zip(leaves, keys, strict=True)])

    def log_prob(self, action: PyTree) -> Float[Array, "..."]:
        """Sum of the parts' log-probabilities, in nats."""
        return self._sum(lambda part, a: part.log_prob(a), action)

    def entropy(self) -> Float[Array, "..."]:
        """Sum of the parts' entropies, in nats."""
        return self._sum(lambda part: part.entropy())

    def mode(self) -> PyTree:
        """Return the parts' modes."""
        return jax.tree.map(lambda part: part.mode(), self.parts, is_leaf=is_part)

    def kl(self, other: "Product") -> Float[Array, "..."]:
        """KL(self || other): the sum of the parts' divergences, in nats."""
        return self._sum(lambda p, q: p.kl(q), other.parts)

    def _sum(self, function: Callable[..., Array], *others: PyTree) -> Float[Array, "..."]:
        terms = jax.tree.map(function, self.parts, *others, is_leaf=is_part)
        return reduce(add, jax.tree.leaves(terms))


def is_part(node: Any) -> bool:
    """Whether a node of a tree is a distribution, so that the tree ends there."""
    return isinstance(node, Distribution)
