"""Objectives of several actions per state, whose values were estimated by branching from it: the vine procedure.

A batch then holds K actions for each of its B states: ``action`` ``[B, K, ...]``, ``log_prob`` ``[B, K]``, and in ``advantage``
the estimated action values Q ``[B, K]``. No baseline is needed: a number added to all values of one state adds the same number
to its objective, whatever the policy.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jtrpo.core.batch import AxisName, Batch, sum_over, weighted_sum
from jtrpo.core.distributions import Distribution
from jtrpo.core.objective import log_prob_of_each


def normalize_values(
    value: Float[Array, "B K"], weight: Float[Array, " B"], axis_name: AxisName = None
) -> Float[Array, "B K"]:
    """Action values less their state's mean, divided by the spread within states: (Q - mean_k Q) / (std + 1e-8).

    Only the unit changes, see above; values that are constant within states to rounding become exactly zero.

    Args:
        value: Q of K actions for each of B states.
        weight: of the states, as :func:`jtrpo.core.batch.mean_weights` gives it.
        axis_name: mapped axis over which the states are spread.
    """
    _check_branches(value)
    size = sum_over(weighted_sum(jnp.mean(jnp.abs(value), axis=1), weight), axis_name)
    size = jnp.where(size > 0, size, 1.0)
    scaled = value / size  # squares of the values themselves may overflow
    centred = scaled - jnp.mean(scaled, axis=1, keepdims=True)
    squares = jnp.mean(jnp.square(centred), axis=1), jnp.mean(jnp.square(scaled), axis=1)
    std, scale = jnp.sqrt(sum_over(jnp.stack([weighted_sum(x, weight) for x in squares]), axis_name))
    constant = std <= 10.0 * jnp.finfo(std.dtype).eps * scale
    return jnp.where(constant, 0.0, centred / (std + 1e-8 / size))


def all_actions_objective(distribution: Distribution, batch: Batch) -> Float[Array, " B"]:
    """Expected action value of each state, where every action of a finite space was tried.

        L_s = sum_k pi(a_k | s) Q(s, a_k)

    Give it to :func:`trpo_update` as ``objective``, which maximises the mean over states. The value of an action that the policy
    cannot take does not matter, not even a NaN.

    Args:
        distribution: pi(. | batch.observation), leading axis ``B``.
        batch: with all actions of the space in ``action``, ``[B, K]``, and their values in ``advantage``.

    Source: Schulman et al. 2015, Trust Region Policy Optimization, https://arxiv.org/abs/1502.05477, equation 15.
    """
    _check_branches(batch.advantage)
    probability = jnp.exp(log_prob_of_each(distribution, batch.action))
    return jnp.sum(probability * jnp.where(probability > 0, batch.advantage, 0.0), axis=1)


def self_normalized_objective(distribution: Distribution, batch: Batch) -> Float[Array, " B"]:
    """Self-normalised importance sampling estimate of each state's expected action value, from K samples of the old policy.

        L_s = sum_k r_k Q(s, a_k) / sum_k r_k,   r_k = exp(log pi(a_k | s) - log_prob_k)

    Give it to :func:`trpo_update` as ``objective``. At the old policy its gradient is, in expectation, (K - 1) / K times that of
    the expected action value: the mean over the state's own samples is its baseline.

    Args:
        distribution: pi(. | batch.observation), leading axis ``B``.
        batch: with K sampled actions per state, ``[B, K, ...]``, and their values in ``advantage``.

    Source: Schulman et al. 2015, Trust Region Policy Optimization, https://arxiv.org/abs/1502.05477, equation 16.
    """
    _check_branches(batch.advantage)
    assert batch.log_prob is not None
    share = jax.nn.softmax(log_prob_of_each(distribution, batch.action) - batch.log_prob, axis=1)
    return jnp.sum(share * batch.advantage, axis=1)


def _check_branches(value: Array) -> None:
    if jnp.ndim(value) != 2:
        raise ValueError(
            f"batch.advantage must hold the values of K actions for each state, [B, K]; got shape {jnp.shape(value)}"
        )
