"""Generalised state-dependent exploration: Gaussian noise that is a smooth function of the state."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jtrpo.core.distributions import DiagGaussian


class StateDependentNoise(NamedTuple):
    """Action = mean + features @ W with a noise matrix W ~ N(0, exp(log_scale)^2), one for each batch element.

    Given the state, the action is Gaussian with variance features^2 @ exp(log_scale)^2. W depends on the key alone:
    the same key at successive steps gives the same matrix, so that exploration is smooth in time.

    Attributes:
        mean: ``[..., D]``.
        features: what the noise depends on, ``[..., H]``.
        log_scale: logarithm of the scale of each entry of W, ``[H, D]``.

    Examples:
        >>> distribution = jtrpo.StateDependentNoise(jnp.zeros(2), features=jnp.ones(3), log_scale=jnp.zeros((3, 2)))
        >>> print(f"{distribution.entropy():.4f}")  # of two Gaussians of variance 3
        3.9365

    Source: Raffin, Kober and Stulp 2021, Smooth Exploration for Robotic Reinforcement Learning,
    https://arxiv.org/abs/2005.05719, equations 6 to 9.
    """

    mean: Float[Array, "... D"]
    features: Float[Array, "... H"]
    log_scale: Float[Array, "H D"]

    def sample(self, key: PRNGKeyArray) -> Float[Array, "... D"]:
        """Draw mean + features @ W; the key is consumed, unless the same matrix is wanted again."""
        shape = (*self.mean.shape[:-1], *self.log_scale.shape)
        matrix = jnp.broadcast_to(jnp.exp(self.log_scale), shape) * jax.random.normal(key, shape, self.mean.dtype)
        return self.mean + jnp.einsum("...h,...hd->...d", self.features, matrix)

    def log_prob(self, action: Float[Array, "... D"]) -> Float[Array, "..."]:
        """Log-density of the action given the state, in nats."""
        return self._marginal().log_prob(action)

    def entropy(self) -> Float[Array, "..."]:
        """Entropy given the state, in nats."""
        return self._marginal().entropy()

    def mode(self) -> Float[Array, "... D"]:
        """Return the mean."""
        return self.mean

    def kl(self, other: "StateDependentNoise") -> Float[Array, "..."]:
        """KL(self || other) given the state, in nats."""
        return self._marginal().kl(other._marginal())

    def _marginal(self) -> DiagGaussian:
        variance = jnp.square(self.features) @ jnp.exp(2.0 * self.log_scale)
        return DiagGaussian(self.mean, 0.5 * jnp.log(variance + 1e-6))
