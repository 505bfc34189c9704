"""Returns and lengths of the episodes that finish while a batch is collected."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jtrpo.training.report import undefined


class EpisodeSummary(NamedTuple):
    """The episodes that finished during one collection; means and extremes are NaN where none did (infinite with
    ``jax_debug_nans``).

    Attributes:
        finished: number of episodes.
        return_mean: mean undiscounted return.
        return_min: smallest return.
        return_max: largest return.
        length_mean: mean number of steps.
    """

    finished: Int[Array, ""]
    return_mean: Float[Array, ""]
    return_min: Float[Array, ""]
    return_max: Float[Array, ""]
    length_mean: Float[Array, ""]


class EpisodeTotals(NamedTuple):
    """Sums and extremes over the episodes that finished so far, of each environment: ``[N]`` each.

    Attributes:
        finished: number of episodes.
        return_sum: of their returns.
        return_min: smallest return.
        return_max: largest return.
        length_sum: of their lengths.
    """

    finished: Int[Array, " N"]
    return_sum: Float[Array, " N"]
    return_min: Float[Array, " N"]
    return_max: Float[Array, " N"]
    length_sum: Int[Array, " N"]


def no_episodes(num_envs: int, xp: Any = jnp) -> EpisodeTotals:
    """Totals before any episode finished, in ``jax.numpy`` or ``numpy``."""
    nothing, none = xp.zeros((num_envs,)), xp.zeros((num_envs,), xp.int32)
    return EpisodeTotals(none, nothing, nothing + xp.inf, nothing - xp.inf, none)


def add_finished(
    totals: EpisodeTotals,
    done: Bool[Array, " N"],
    episode_return: Float[Array, " N"],
    episode_length: Int[Array, " N"],
    xp: Any = jnp,
) -> EpisodeTotals:
    """Count the episodes that ended with this step."""
    return EpisodeTotals(
        totals.finished + done,
        totals.return_sum + xp.where(done, episode_return, 0.0),
        xp.where(done, xp.minimum(totals.return_min, episode_return), totals.return_min),
        xp.where(done, xp.maximum(totals.return_max, episode_return), totals.return_max),
        totals.length_sum + xp.where(done, episode_length, 0),
    )


def summarize(totals: EpisodeTotals) -> EpisodeSummary:
    """Means and extremes over all environments."""
    finished = jnp.sum(totals.finished)
    known, count = finished > 0, jnp.maximum(finished, 1)
    return EpisodeSummary(
        finished=finished,
        return_mean=jnp.where(known, jnp.sum(totals.return_sum, dtype=float) / count, undefined()),
        return_min=jnp.where(known, jnp.min(totals.return_min), undefined()),
        return_max=jnp.where(known, jnp.max(totals.return_max), undefined()),
        length_mean=jnp.where(known, jnp.sum(totals.length_sum, dtype=float) / count, undefined()),
    )
