"""Sample reuse: an update that learns from the newest collection and from the ones before it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from jtrpo.training.rollout import Trajectory


def empty_window(like: Trajectory, reuse: int) -> Trajectory:
    """Room for the ``reuse - 1`` collections before the newest; ``like`` has a collection's shapes and types."""
    return jax.tree.map(lambda x: jnp.zeros((reuse - 1, *x.shape), x.dtype), like)


def slide_window(window: Trajectory, newest: Trajectory, first: Bool[Array, ""]) -> tuple[Trajectory, Trajectory]:
    """Let the oldest collection go and take the newest in.

    Each sample keeps the log-probability it was collected with, so the surrogate's ratio weighs it for the policy of today;
    the trust region is the one around today's policy, over the states of the whole window.

    Args:
        window: the ``W`` collections before the newest, oldest first: ``[W, T, N, ...]``.
        newest: ``[T, N, ...]``.
        first: whether this is the first collection of all, which then also stands in for those that are missing.

    Returns:
        ``(window, recent)``: the next window, and this one and the newest side by side as one trajectory of ``N * (W + 1)``
        environments: each environment's collections next to one another, oldest first.

    Source: Queeney, Paschalidis and Cassandras 2021, Generalized Proximal Policy Optimization with Sample Reuse,
    https://arxiv.org/abs/2111.00072.
    """

    def append(older: Array, new: Array) -> Array:
        return jnp.concatenate([jnp.where(first, new[None], older), new[None]])

    collections = jax.tree.map(append, window, newest)
    wide = jax.tree.map(
        lambda x: jnp.reshape(jnp.moveaxis(x, 0, 2), (x.shape[1], -1, *x.shape[3:])), collections._replace(memory=())
    )
    memory = jax.tree.map(lambda x: jnp.reshape(jnp.moveaxis(x, 0, 1), (-1, *x.shape[2:])), collections.memory)
    return jax.tree.map(lambda x: x[1:], collections), wide._replace(memory=memory)
