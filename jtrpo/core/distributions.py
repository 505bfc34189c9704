"""Action distributions: the closed-form quantities that a trust region needs.

A distribution is a pytree whose leaves are its own parameters. Leading axes are the batch; the last axis is the event.
Anything with the same five methods, registered as a pytree, can stand in their place.
"""

from typing import Any, NamedTuple, Protocol, Self, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jtrpo.core.check import kind_of


@runtime_checkable
class Distribution(Protocol):
    """What the core asks of a policy's output. Shapes: ``...`` is the batch.

    Examples:
        >>> isinstance(jtrpo.Categorical(jnp.zeros(2)), jtrpo.Distribution)
        True
    """

    def sample(self, key: PRNGKeyArray) -> Array:
        """Draw one action for each batch element; the key is consumed."""
        ...

    def log_prob(self, action: Array) -> Float[Array, "..."]:
        """Log-probability (or log-density) of the action, in nats."""
        ...

    def entropy(self) -> Float[Array, "..."]:
        """Entropy, in nats."""
        ...

    def mode(self) -> Array:
        """Return the most probable action."""
        ...

    def kl(self, other: Self) -> Float[Array, "..."]:
        """KL(self || other), in nats."""
        ...


def check_distribution(distribution: Any, what: str = "policy(params, observation) must return") -> Distribution:
    """Return a policy's output, or raise ``TypeError`` where it is not a distribution."""
    if not isinstance(distribution, Distribution) or isinstance(distribution, type):
        raise TypeError(
            f"{what} a distribution (a pytree with sample, log_prob, entropy, mode and kl, such as jtrpo.Categorical); "
            f"got {kind_of(distribution)}"
        )
    return distribution


def check_alike(name: str, given: Distribution, like_name: str, like: Distribution) -> None:
    """Raise ``ValueError`` unless two distributions are of one kind, over one batch and the same choices."""
    kind, wanted = (
        (type(each).__name__, jnp.shape(each.entropy()), [jnp.shape(leaf) for leaf in jax.tree.leaves(each)])
        for each in (given, like)
    )
    fits = kind[:2] == wanted[:2] and len(kind[2]) == len(wanted[2])
    for pair in zip(kind[2], wanted[2], strict=True) if fits else ():
        fits &= all(a == b or 1 in (a, b) for a, b in zip(*(shape[::-1] for shape in pair), strict=False))
    if not fits:
        raise ValueError(f"{name} must be of the kind, batch and choices of {like_name}, {wanted}; got {kind}")


class Categorical(NamedTuple):
    """Categorical distribution, p = softmax(logits).

    A logit of ``-inf`` masks its action: probability exactly zero, and no NaN in any quantity or derivative, as long
    as at least one action stays legal.

    Attributes:
        logits: unnormalised log-probabilities, ``[..., A]``.

    Examples:
        >>> distribution = jtrpo.Categorical(jnp.array([0.0, 0.0, -jnp.inf]))  # the third action is masked
        >>> print(f"{distribution.entropy():.4f} {jnp.exp(distribution.log_prob(2)):.4f}")
        0.6931 0.0000
    """

    logits: Float[Array, "... A"]

    def sample(self, key: PRNGKeyArray) -> Int[Array, "..."]:
        """Draw actions in ``0 .. A-1``; the key is consumed."""
        return jax.random.categorical(key, self.logits)

    def log_prob(self, action: Int[Array, "..."]) -> Float[Array, "..."]:
        """Log p[action], in nats; NaN for an action that is only known at run time to be none of ``0 .. A-1``.

        Raises:
            ValueError: the action has another shape than the batch, or is none of ``0 .. A-1``.
        """
        check_action_shape(action, self.logits.shape[:-1])
        actions = self.logits.shape[-1]
        if not isinstance(action, jax.core.Tracer):
            known = np.asarray(action)
            wrong = known[(known < 0) | (known >= actions)]
            if wrong.size:
                raise ValueError(f"action must be in 0 .. {actions - 1}, of {actions} logits; got {wrong.flat[0]}")
        index = jnp.asarray(action, jnp.int32)[..., None]
        index = jnp.where(index < 0, actions, index)  # a negative index would count from the end
        return jnp.take_along_axis(_log_softmax(self.logits), index, axis=-1)[..., 0]

    def entropy(self) -> Float[Array, "..."]:
        """Entropy -sum p log p, in nats."""
        log_p = _log_softmax(self.logits)
        return -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)

    def mode(self) -> Int[Array, "..."]:
        """Return the most probable action."""
        return jnp.argmax(self.logits, axis=-1)

    def kl(self, other: "Categorical") -> Float[Array, "..."]:
        """KL(self || other) = sum p (log p - log q), in nats.

        Evaluated as sum p (exp(d) - 1 - d) with d = log q - log p, which is equal because p and q both sum to one:
        every term is non-negative and small where d is small, so no digits cancel between the terms.
        """
        log_p, log_q = _log_softmax(self.logits), _log_softmax(other.logits)
        p, q, d = jnp.exp(log_p), jnp.exp(log_q), log_q - log_p
        small = jnp.abs(d) < _SERIES_RADIUS
        # Away from zero the product is expanded: p exp(d) is q even where p is zero and d is huge.
        return jnp.sum(jnp.where(small, p * _series(jnp.where(small, d, 0.0)), q - p - p * d), axis=-1)


class DiagGaussian(NamedTuple):
    """Gaussian with independent components, N(mean, exp(log_std)^2).

    Attributes:
        mean: ``[..., D]``.
        log_std: logarithm of the standard deviation, ``[..., D]`` or anything that broadcasts to it.

    Examples:
        >>> narrow, wide = jtrpo.DiagGaussian(jnp.zeros(2), jnp.zeros(2)), jtrpo.DiagGaussian(jnp.zeros(2), jnp.ones(2))
        >>> print(f"{narrow.kl(wide):.4f} {wide.kl(narrow):.4f}")
        1.1353 4.3891
    """

    mean: Float[Array, "... D"]
    log_std: Float[Array, "... D"]

    def sample(self, key: PRNGKeyArray) -> Float[Array, "... D"]:
        """Draw mean + std * noise; the key is consumed."""
        noise = jax.random.normal(key, self.mean.shape, self.mean.dtype)
        return self.mean + jnp.exp(self._log_std()) * noise

    def log_prob(self, action: Float[Array, "... D"]) -> Float[Array, "..."]:
        """Log-density -sum(z^2 / 2 + log std + log(2 pi) / 2) with z = (action - mean) / std, in nats.

        Raises:
            ValueError: the action has another shape than the mean.
        """
        check_action_shape(action, self.mean.shape)
        z = (action - self.mean) * jnp.exp(-self._log_std())
        return -jnp.sum(0.5 * jnp.square(z) + self._log_std() + _HALF_LOG_TWO_PI, axis=-1)

    def entropy(self) -> Float[Array, "..."]:
        """Entropy sum(log std + (1 + log(2 pi)) / 2), in nats."""
        return jnp.sum(self._log_std() + 0.5 + _HALF_LOG_TWO_PI, axis=-1)

    def mode(self) -> Float[Array, "... D"]:
        """Return the mean."""
        return self.mean

    def kl(self, other: "DiagGaussian") -> Float[Array, "..."]:
        """KL(self || other) = sum(log(s'/s) + (s^2 + (m - m')^2) / (2 s'^2) - 1/2), in nats.

        Evaluated as sum((exp(d) - 1 - d) / 2 + ((m - m') / s')^2 / 2) with d = 2 log(s/s'), whose terms are all
        non-negative and keep their digits near zero.
        """
        d = 2.0 * (self._log_std() - other._log_std())
        small = jnp.abs(d) < _SERIES_RADIUS
        spread = jnp.where(small, _series(jnp.where(small, d, 0.0)), jnp.expm1(d) - d)
        shift = (self.mean - other.mean) * jnp.exp(-other._log_std())
        return 0.5 * jnp.sum(spread + jnp.square(shift), axis=-1)

    def _log_std(self) -> Float[Array, "... D"]:
        return jnp.broadcast_to(self.log_std, self.mean.shape)


_HALF_LOG_TWO_PI = 0.9189385332046727
_SERIES_RADIUS = 0.1


def check_action_shape(action: Array, wanted: tuple[int, ...]) -> None:
    """Raise unless an action has the shape that a distribution's actions have.

    Raises:
        ValueError: another shape; but where the distribution has an axis of one, it is for all of the actions along it.
    """
    shape = jnp.shape(action)
    if len(shape) != len(wanted) or any(one not in (size, 1) for size, one in zip(shape, wanted, strict=True)):
        raise ValueError(f"action must have shape {wanted}; got {shape}")


def _log_softmax(logits: Float[Array, "... A"]) -> Float[Array, "... A"]:
    """Log-softmax that is finite for masked (``-inf``) logits, so that 0 * log 0 is 0 and not NaN."""
    return jax.nn.log_softmax(jnp.maximum(logits, 0.5 * jnp.finfo(logits.dtype).min), axis=-1)


def _series(d: Float[Array, "..."]) -> Float[Array, "..."]:
    """exp(d) - 1 - d by its Taylor series to d^9: below the rounding of float64 for ``|d| < _SERIES_RADIUS``."""
    total = jnp.ones_like(d)
    for k in range(9, 2, -1):
        total = 1.0 + total * d / k
    return 0.5 * jnp.square(d) * total
