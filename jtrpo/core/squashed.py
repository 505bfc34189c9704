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
    """Distribution of tanh(u), u ~ N(mean, exp(log_std)^2), on (-1, 1)^D.

    Attributes:
        mean: of u, ``[..., D]``.
        log_std: of u, ``[..., D]`` or anything that broadcasts to it.

    Examples:
        >>> distribution = jtrpo.TanhGaussian(mean=jnp.zeros(2), log_std=jnp.ones(2))
        >>> action = distribution.sample(jax.random.key(0))
        >>> bool((abs(action) < 1).all())
        True
    """

    mean: Float[Array, "... D"]
    log_std: Float[Array, "... D"]

    def sample(self, key: PRNGKeyArray) -> Float[Array, "... D"]:
        """Draw tanh(mean + std * noise), kept off the border by a rounding step; the key is consumed."""
        return _inside(jnp.tanh(self._base().sample(key)))

    def log_prob(self, action: Float[Array, "... D"]) -> Float[Array, "..."]:
        """Log N(u; mean, std) - sum log(1 - tanh(u)^2) with u = artanh(action), in nats."""
        u = jnp.arctanh(_inside(action))
        return self._base().log_prob(u) - jnp.sum(_log_slope(u), axis=-1)

    def entropy(self) -> Float[Array, "..."]:
        """Entropy of the Gaussian plus E[sum log(1 - tanh(u)^2)], by Gauss-Hermite quadrature, in nats."""
        std = jnp.exp(jnp.broadcast_to(self.log_std, self.mean.shape))
        terms = (w * _log_slope(self.mean + std * x) for x, w in zip(_NODES, _WEIGHTS, strict=True))
        return self._base().entropy() + jnp.sum(sum(terms) / _TOTAL, axis=-1)

    def mode(self) -> Float[Array, "... D"]:
        """Return tanh(mean): the median, and the action of the mean."""
        return jnp.tanh(self.mean)

    def kl(self, other: "TanhGaussian") -> Float[Array, "..."]:
        """KL(self || other) in nats: that of the Gaussians, since tanh is one-to-one."""
        return self._base().kl(other._base())

    def _base(self) -> DiagGaussian:
        return DiagGaussian(self.mean, self.log_std)


def _inside(action: Float[Array, "... D"]) -> Float[Array, "... D"]:
    limit = 1.0 - jnp.finfo(action.dtype).eps
    return jnp.clip(action, -limit, limit)


def _log_slope(u: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """log(1 - tanh(u)^2) without cancellation, by 2 (log 2 - u - softplus(-2 u))."""
    return 2.0 * (np.log(2.0) - u - jax.nn.softplus(-2.0 * u))
