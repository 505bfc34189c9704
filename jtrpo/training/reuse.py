"""Sample reuse: an update that learns from the newest collection and from the ones before it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jtrpo.training.rollout import Trajectory

LARGEST_WEIGHT = 2.0
"""Of a sample of an older policy, relative to one of today's."""


def empty_window(like: Trajectory, reuse: int) -> Trajectory:
    """Room for the ``reuse - 1`` collections before the newest, none valid; ``like`` has a collection's shapes and types."""
    return jax.tree.map(lambda x: jnp.zeros((reuse - 1, *x.shape), x.dtype), like)


def slide_window(window: Trajectory, newest: Trajectory) -> tuple[Trajectory, Trajectory]:
    """Let the oldest collection go and take the newest in.

    Each sample keeps the log-probability it was collected with; the trust region is the one around today's policy, over the
    states of the whole window. The samples of collections that are missing at the start of a run are not valid.

    Args:
        window: the ``W`` collections before the newest, oldest first: ``[W, T, N, ...]``.
        newest: ``[T, N, ...]``.

    Returns:
        ``(window, recent)``: the next window, and this one and the newest side by side as one trajectory of ``N * (W + 1)``
        environments: each environment's collections next to one another, oldest first.

    Source: Queeney, Paschalidis and Cassandras 2021, Generalized Proximal Policy Optimization with Sample Reuse,
    https://arxiv.org/abs/2111.00072.
    """

    def append(older: Array, new: Array) -> Array:
        return jnp.concatenate([older, new[None]])

    collections = jax.tree.map(append, window, newest)
    wide = jax.tree.map(lambda x: jax.lax.collapse(jnp.moveaxis(x, 0, 2), 1, 3), collections._replace(memory=()))
    memory = jax.tree.map(lambda x: jax.lax.collapse(jnp.moveaxis(x, 0, 1), 0, 2), collections.memory)
    return jax.tree.map(lambda x: x[1:], collections), wide._replace(memory=memory)


def truncated_log_prob(
    log_prob: Float[Array, " B"], log_prob_now: Float[Array, " B"], most: float = LARGEST_WEIGHT
) -> Float[Array, " B"]:
    """Log-probability to divide by, so that a sample's weight under today's policy is at most ``most``.

    The objective's ratio pi_new / mu is (pi_new / pi_now) (pi_now / mu); the second factor is cut off at ``most``.

    Args:
        log_prob: log mu, of the policy that acted.
        log_prob_now: log pi_now, of today's policy.
        most: bound on pi_now / mu.
    """
    return jnp.maximum(log_prob, log_prob_now - jnp.log(most))


def newest(x: Array, reuse: int, axis: int) -> Array:
    """The newest collection's entries of what :func:`slide_window` puts side by side along ``axis``."""
    return jax.lax.slice_in_dim(x, reuse - 1, None, reuse, axis)
