"""The surrogate objective and the divergence that bounds it (Schulman et al. 2015, equations 12 to 14)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jtrpo.core.batch import AxisName, Batch, as_weight, check_batch, check_size, mean_weights, sum_over, weighted_sum
from jtrpo.core.check import check_callable, check_number, kind_of
from jtrpo.core.distributions import Distribution, check_alike, check_distribution

Objective = Callable[[Distribution, Batch], Float[Array, " B"]]
"""What each state contributes to the objective: ``(pi(. | batch.observation), batch) -> [B]``."""


def surrogate(
    distribution: Distribution,
    batch: Batch,
    *,
    entropy_coefficient: float | Float[Array, ""] = 0.0,
    axis_name: AxisName = None,
) -> Float[Array, ""]:
    """Importance-weighted surrogate objective, to be maximised.

        L = mean(r A) + entropy_coefficient * mean(entropy),   r = exp(log pi(a|s) - log_prob)

    Args:
        distribution: pi(. | batch.observation), leading axis ``B``.
        batch: samples with ``log_prob`` set; advantages are taken as they are.
        entropy_coefficient: in units of the (normalised) advantage per nat.
        axis_name: mapped axis over which the mean is taken as well.

    Raises:
        TypeError: not a distribution, or not a batch of numbers.
        ValueError: ``batch.log_prob`` is missing, or the batch and the distribution differ in size.

    Examples:
        An action of advantage 10 whose probability rises from 0.20 to 0.25:

        >>> old, new = (jtrpo.Categorical(jnp.log(jnp.array([[p, 1 - p]]))) for p in (0.20, 0.25))
        >>> action = jnp.array([0])
        >>> batch = jtrpo.Batch(jnp.zeros((1, 1)), action, jnp.array([10.0]), log_prob=old.log_prob(action))
        >>> print(f"{jtrpo.surrogate(old, batch):.2f} {jtrpo.surrogate(new, batch):.2f}")
        10.00 12.50

    Source: Schulman et al. 2015, Trust Region Policy Optimization, https://arxiv.org/abs/1502.05477, equation 14.
    """
    check_distribution(distribution, "distribution must be")
    check_number("entropy_coefficient", entropy_coefficient, scalar=True)
    batch = check_batch(batch)
    if batch.log_prob is None:
        raise ValueError("batch.log_prob must hold log pi_old(action | observation); got None")
    size = check_size(distribution.entropy().shape)
    if batch.advantage.shape != (size,):
        raise ValueError(
            f"batch.advantage must have the distribution's shape, [B] = [{size}]; got {batch.advantage.shape}"
        )
    weight = mean_weights(batch.weight, size, axis_name)
    values = with_entropy(likelihood_ratio, entropy_coefficient)(distribution, batch)
    return sum_over(weighted_sum(values, weight), axis_name)


def mean_kl(
    old: Distribution, new: Distribution, *, weight: Float[Array, " B"] | None = None, axis_name: AxisName = None
) -> Float[Array, ""]:
    """Mean over samples of KL(old || new), in nats: the trust region's measure (equation 12 of the paper).

    Args:
        old: leading axis ``B``.
        new: of the same kind and shape.
        weight: of each sample, ``[B]``; ``None``: all equal.
        axis_name: mapped axis over which the mean is taken as well.

    Raises:
        TypeError: not a distribution.
        ValueError: distributions of different kinds or batches, or weights that do not fit.

    Examples:
        >>> old, new = (jtrpo.Categorical(jnp.log(jnp.array([[p, 1 - p]]))) for p in (0.20, 0.25))
        >>> print(f"{jtrpo.mean_kl(old, new):.4f}")
        0.0070
    """
    for name, distribution in (("old", old), ("new", new)):
        check_distribution(distribution, f"{name} must be")
    size = check_size(old.entropy().shape)
    check_alike("new", new, "old", old)
    divergence = old.kl(new)
    weight = mean_weights(as_weight(weight, (size,)), size, axis_name)
    return sum_over(weighted_sum(divergence, weight), axis_name)


def likelihood_ratio(distribution: Distribution, batch: Batch) -> Float[Array, " B"]:
    """``r A`` of each sample, r = exp(log pi(a|s) - log_prob): the objective of :func:`trpo_update`.

    Args:
        distribution: pi(. | batch.observation), leading axis ``B``.
        batch: with ``log_prob`` set.

    Examples:
        >>> new, action = jtrpo.Categorical(jnp.log(jnp.array([[0.25, 0.75]]))), jnp.array([0])
        >>> batch = jtrpo.Batch(jnp.zeros((1, 1)), action, jnp.array([10.0]), log_prob=jnp.log(jnp.array([0.2])))
        >>> jtrpo.likelihood_ratio(new, batch).round(4).tolist()
        [12.5]
    """
    assert batch.log_prob is not None
    return jnp.exp(distribution.log_prob(batch.action) - batch.log_prob) * batch.advantage


def with_entropy(objective: Objective, coefficient: float | Float[Array, ""]) -> Objective:
    """``objective + coefficient * entropy`` of each sample.

    Args:
        objective: ``(distribution, batch) -> [B]``.
        coefficient: in units of the objective per nat.

    Examples:
        >>> coin = jtrpo.Categorical(jnp.zeros((1, 2)))
        >>> objective = jtrpo.with_entropy(lambda distribution, batch: jnp.ones(1), 0.1)
        >>> print(f"{objective(coin, None)[0]:.4f}")  # 1 + 0.1 log 2
        1.0693
    """
    return lambda distribution, batch: per_sample(objective, distribution, batch) + coefficient * distribution.entropy()


def per_sample(objective: Objective, distribution: Distribution, batch: Batch) -> Float[Array, " B"]:
    """The values of an objective, checked to be one for each sample.

    Raises:
        TypeError: it is not a function of two arguments.
        ValueError: it does not return ``[B]``, floating-point.
    """
    check_callable("objective", objective, "(distribution, batch) -> [B]", takes=2)
    values, wanted = objective(distribution, batch), distribution.entropy().shape
    if getattr(values, "shape", None) != wanted or not jnp.issubdtype(values.dtype, jnp.floating):
        raise ValueError(
            f"objective must return one floating-point number for each sample, [B] = {list(wanted)}; got {kind_of(values)}"
        )
    return values


def behavior_log_prob(distribution: Distribution, batch: Batch) -> Float[Array, "B ..."]:
    """Log-probabilities of the batch's actions, in nats: those stored, or ``distribution``'s where none are."""
    if batch.log_prob is not None:
        return batch.log_prob
    return (
        log_prob_of_each(distribution, batch.action)
        if jnp.ndim(batch.advantage) == 2
        else distribution.log_prob(batch.action)
    )


def log_prob_of_each(distribution: Distribution, action: PyTree) -> Float[Array, "B K"]:
    """Log pi(a_k | s) of K actions per state, in nats; ``action`` is ``[B, K, ...]``."""
    return jax.vmap(distribution.log_prob, in_axes=1, out_axes=1)(action)
