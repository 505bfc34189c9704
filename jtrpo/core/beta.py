"""The Beta distribution, stretched over a box.

Logarithms of the gamma function are split as log Gamma(x) = x log x - x - log(x) / 2 + r(x). The first terms of a density or a
divergence join to divergences between two coins, which keep their digits; what is left of r is small for large x.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from numpy.polynomial import Polynomial

from jtrpo.core.distributions import check_action_shape

_STIRLING = {1: 1 / 12, 3: -1 / 360, 5: 1 / 1260, 7: -1 / 1680, 9: 1 / 1188}
"""r(x) is log(2 pi) / 2 and the sum of these factors divided by these powers of x; good to 1e-11 from :data:`_SHIFT` on."""

_SHIFT = 6


class Beta(NamedTuple):
    """Distribution of 2 x - 1 with x ~ Beta(alpha, beta), on (-1, 1)^D. Its actions are u = artanh(2 x - 1).

    As with :class:`TanhGaussian`, u is what is sampled, stored and given to ``log_prob``, since near the bounds tanh(u) = 2 x - 1
    is rounded to one; and ``jnp.tanh(u)`` is what an environment is given. Densities are those of tanh(u).

    With alpha = beta = 1 it is uniform; with both at least 1 no density is infinite, and there is one mode.

    Attributes:
        alpha: positive, ``[..., D]``; the larger, the nearer to 1.
        beta: positive, ``[..., D]``; the larger, the nearer to -1.

    Examples:
        >>> distribution = jtrpo.Beta(alpha=jnp.ones(2), beta=jnp.ones(2))
        >>> u = distribution.sample(jax.random.key(0))
        >>> print(f"{distribution.log_prob(u):.4f}")  # log(1/2) for each of two numbers between -1 and 1
        -1.3863

    Source: Chou, Maturana and Scherer 2017, Improving Stochastic Policy Gradients in Continuous Control with Deep Reinforcement
    Learning using the Beta Distribution, https://proceedings.mlr.press/v70/chou17a.html, section 4.
    """

    alpha: Float[Array, "... D"]
    beta: Float[Array, "... D"]

    def sample(self, key: PRNGKeyArray) -> Float[Array, "... D"]:
        """Draw u = (log G - log G') / 2 with G ~ Gamma(alpha), G' ~ Gamma(beta); the key is consumed."""
        one, other = jax.random.loggamma(key, jnp.stack([self.alpha, self.beta]))
        return 0.5 * (one - other)

    def log_prob(self, action: Float[Array, "... D"]) -> Float[Array, "..."]:
        """Sum of (alpha - 1) log x + (beta - 1) log(1 - x) - log B(alpha, beta) - log 2, x = 1 / (1 + exp(-2 u)), in nats.

        Raises:
            ValueError: the action has another shape than alpha.
        """
        check_action_shape(action, self.alpha.shape)
        x = self._sums()
        alpha, beta, _ = x
        log_odds, own = 2.0 * action, jnp.log(alpha / beta)
        # How far x is from alpha / total, as a divergence between two coins; without cancellation where they are near.
        between = log_odds - own
        near = jnp.abs(between) < 1.0
        step = jnp.where(near, between, 0.0)
        spread = alpha * _excess(jax.nn.sigmoid(-log_odds) * jnp.expm1(step))
        spread += beta * _excess(jax.nn.sigmoid(log_odds) * jnp.expm1(-step))
        far = jnp.where(near, own, log_odds)
        direct = alpha * (jax.nn.softplus(-far) - jax.nn.softplus(-own)) + beta * (
            jax.nn.softplus(far) - jax.nn.softplus(own)
        )
        slope = jax.nn.softplus(log_odds) + jax.nn.softplus(-log_odds)  # -log x - log(1 - x)
        scale = _signed(0.5 * jnp.log(x) - _rest(x))
        return jnp.sum(scale + slope - np.log(2.0) - jnp.where(near, spread, direct), axis=-1)

    def entropy(self) -> Float[Array, "..."]:
        """Sum of log 2 B(a, b) - (a - 1) psi(a) - (b - 1) psi(b) + (a + b - 2) psi(a + b), in nats; a: alpha, b: beta."""
        x = self._sums()
        less = jnp.reshape(jnp.array([1.0, 1.0, 2.0], x.dtype), (3,) + (1,) * (x.ndim - 1))
        terms = _rest(x) - (x - less) * _rest_slope(x) - 0.5 * less / x + 0.5 * jnp.log(x)
        return jnp.sum(_signed(terms) - jnp.log(x[2]) + 0.5 + np.log(2.0), axis=-1)

    def mode(self) -> Float[Array, "... D"]:
        """Return u where tanh(u) = (alpha - beta) / (alpha + beta - 2), its most probable value; at the mean where none is."""
        least = jnp.finfo(self.alpha.dtype).tiny
        inside = (self.alpha > 1.0) | (self.beta > 1.0)
        one, other = (jnp.where(inside, jnp.maximum(x - 1.0, least), x) for x in (self.alpha, self.beta))
        return 0.5 * (jnp.log(one) - jnp.log(other))

    def kl(self, other: "Beta") -> Float[Array, "..."]:
        """KL(self || other) = log B(a', b') / B(a, b) + (a - a') psi(a) + (b - b') psi(b) - (a + b - a' - b') psi(a + b).

        Evaluated as the divergence between two coins with the means of both, a' + b' times, and terms of second order in the
        differences, so that it keeps its digits near zero and for sharp distributions. In nats.
        """
        x, new_total = self._sums(), other.alpha + other.beta
        alpha, beta, total = x
        a, b = other.alpha - alpha, other.beta - beta
        turned = a * beta - b * alpha
        coins = jnp.stack([turned / (alpha * new_total), -turned / (beta * new_total)])
        coins = jnp.sum(x[:2] * _gain(coins), axis=0) * new_total / total
        gap = jnp.stack([a, b, a + b])
        return jnp.sum(coins + _signed(0.5 * _excess(gap / x) + _rest_gap(x, gap)), axis=-1)

    def _sums(self) -> Float[Array, "3 ... D"]:
        return jnp.stack([self.alpha, self.beta, self.alpha + self.beta])


def _signed(terms: Float[Array, "3 ..."]) -> Float[Array, "..."]:
    """What belongs to alpha and to beta less what belongs to their sum."""
    return terms[0] + terms[1] - terms[2]


@jax.custom_jvp
def _excess(e: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return e - log(1 + e), by its series near zero."""
    return _near_zero(e, lambda e: e - jnp.log1p(e), lambda k: 1.0 / k)


@_excess.defjvp
def _(primals: Any, tangents: Any) -> Any:
    (e,), (de,) = primals, tangents
    return _excess(e), e / (1.0 + e) * de


@jax.custom_jvp
def _gain(e: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return (1 + e) log(1 + e) - e, by its series near zero."""
    return _near_zero(e, lambda e: (1.0 + e) * jnp.log1p(e) - e, lambda k: 1.0 / (k * (k - 1.0)))


@_gain.defjvp
def _(primals: Any, tangents: Any) -> Any:
    (e,), (de,) = primals, tangents
    return _gain(e), jnp.log1p(e) * de


def _near_zero(
    e: Float[Array, "..."], function: Callable[[Array], Array], coefficient: Callable[[int], float]
) -> Float[Array, "..."]:
    """A function of e, where e is small the sum over k of (-e)^k times a coefficient, whose terms do not cancel."""
    small = jnp.abs(e) < 0.05
    near, series = jnp.where(small, -e, 0.0), jnp.zeros_like(e)
    for k in range(12, 1, -1):
        series = coefficient(k) + near * series
    return jnp.where(small, jnp.square(near) * series, function(jnp.where(small, 1.0, e)))


def _rest(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """r(x), to rounding of one."""
    tail = sum(factor * (x + _SHIFT) ** -power for power, factor in _STIRLING.items())
    steps = ((z + 0.5) * jnp.log1p(1.0 / z) - 1.0 for z in (x + k for k in range(_SHIFT)))
    return sum(steps, start=0.5 * np.log(2 * np.pi) + tail)


def _rest_slope(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """r'(x), to rounding of 1 / x."""
    tail = sum(-power * factor * (x + _SHIFT) ** -(power + 1) for power, factor in _STIRLING.items())
    steps = (jnp.log1p(1.0 / z) - (z + 0.5) / (z * (z + 1.0)) for z in (x + k for k in range(_SHIFT)))
    return sum(steps, start=jnp.asarray(tail))


def _rest_gap(x: Float[Array, "..."], a: Float[Array, "..."]) -> Float[Array, "..."]:
    """r(x + a) - r(x) - a r'(x), from terms of second order in a.

    Large arguments take Stirling's series as they are, since a shift would cancel there. The others are shifted by
    Gamma(x + 1) = x Gamma(x).
    """
    low = jnp.minimum(x, x + a) < _SHIFT
    far = jnp.where(low, x + _SHIFT, x)
    e, tail = a / far, jnp.zeros_like(x)
    for power, factor in _STIRLING.items():
        # (1 + e)^-power - 1 + power e = e^2 polynomial(e) / (1 + e)^power
        polynomial = (1.0 - Polynomial([1.0, -power]) * Polynomial([1.0, 1.0]) ** power).coef[:1:-1]
        tail += factor * jnp.polyval(polynomial.astype(x.dtype), e) / (far * (1.0 + e)) ** power
    near, by = (jnp.where(low, each, one) for each, one in ((x, 1.0), (a, 0.0)))
    ends = 0.5 * (_excess(by / near) + _excess(by / (near + _SHIFT)))
    inner = sum(_excess(by / (near + k)) for k in range(1, _SHIFT))
    leading = (near + _SHIFT) * _gain(by / (near + _SHIFT)) - near * _gain(by / near)
    return jnp.square(e) * tail + jnp.where(low, ends + inner + leading, 0.0)
