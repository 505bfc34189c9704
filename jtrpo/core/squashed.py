"""A Gaussian squashed into a box by tanh."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jtrpo.core.distributions import DiagGaussian

_NODES, _WEIGHTS = (x.tolist() for x in np.polynomial.hermite_e.hermegauss(16))
_TOTAL = sum(_WEIGHTS)


class TanhGaussian(NamedTuple):
    """Distribution of tanh(u), u ~ N(mean, exp(log_std)^2), on (-1, 1)^D. Its actions are the values u before the squashing.

    Near the bounds tanh(u) is rounded to one, and u cannot be recovered from it; so u is what is sampled, stored and given to
    ``log_prob``, and ``jnp.tanh(u)`` is what an environment is given. Densities are those of tanh(u).

    Attributes:
        mean: of u, ``[..., D]``.
        log_std: of u, ``[..., D]`` or anything that broadcasts to it.

    Examples:
        >>> distribution = jtrpo.TanhGaussian(mean=jnp.full(2, 9.0), log_std=jnp.zeros(2))
        >>> u = distribution.sample(jax.random.key(0))
        >>> action = jnp.tanh(u)  # for the environment
        >>> bool((abs(action) <= 1).all()), bool(jnp.isfinite(distribution.log_prob(u)))
        (True, True)
    """

    mean: Float[Array, "... D"]
    log_std: Float[Array, "... D"]

    def sample(self, key: PRNGKeyArray) -> Float[Array, "... D"]:
        """Draw u = mean + std * noise; the key is consumed."""
        return self._base().sample(key)

    def log_prob(self, action: Float[Array, "... D"]) -> Float[Array, "..."]:
        """Log N(u; mean, std) - sum log(1 - tanh(u)^2) with u = action, in nats: the log-density of tanh(u)."""
        return self._base().log_prob(action) - jnp.sum(_log_slope(action), axis=-1)

    def entropy(self) -> Float[Array, "..."]:
        """Entropy of the Gaussian plus E[sum log(1 - tanh(u)^2)], by Gauss-Hermite quadrature, in nats."""
        std = jnp.exp(jnp.broadcast_to(self.log_std, self.mean.shape))
        terms = (w * _log_slope(self.mean + std * x) for x, w in zip(_NODES, _WEIGHTS, strict=True))
        return self._base().entropy() + jnp.sum(sum(terms) / _TOTAL, axis=-1)

    def mode(self) -> Float[Array, "... D"]:
        """Return the mean of u: the median."""
        return self.mean

    def kl(self, other: "TanhGaussian") -> Float[Array, "..."]:
        """KL(self || other) in nats: that of the Gaussians, since tanh is one-to-one."""
        return self._base().kl(other._base())

    def _base(self) -> DiagGaussian:
        return DiagGaussian(self.mean, self.log_std)


def _log_slope(u: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """log(1 - tanh(u)^2) without cancellation, by 2 (log 2 - u - softplus(-2 u))."""
    return 2.0 * (np.log(2.0) - u - jax.nn.softplus(-2.0 * u))
