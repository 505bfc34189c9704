"""Returns, lengths and the environment's own numbers of the episodes that finish while a batch is collected."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jtrpo.training.report import undefined


class EpisodeMetric(NamedTuple):
    """One of the environment's own numbers over an episode; the mean over the episodes that finished, or their sum.

    Attributes:
        mean: over the episode's steps: of a velocity, say.
        sum: over the episode's steps: of a term of the reward, say, next to the return.
        last: at the episode's last step: of a success, say.
    """

    mean: Float[Array, "..."]
    sum: Float[Array, "..."]
    last: Float[Array, "..."]


class EpisodeSummary(NamedTuple):
    """The episodes that finished during one collection; means and extremes are NaN where none did (infinite with
    ``jax_debug_nans``).

    Attributes:
        finished: number of episodes.
        return_mean: mean undiscounted return.
        return_min: smallest return.
        return_max: largest return.
        length_mean: mean number of steps.
        cost_mean: mean undiscounted sum of the costs, one for each constraint where the cost is a vector; ``()`` without costs.
        metrics: the environment's own numbers, an :class:`EpisodeMetric` for each name.
    """

    finished: Int[Array, ""]
    return_mean: Float[Array, ""]
    return_min: Float[Array, ""]
    return_max: Float[Array, ""]
    length_mean: Float[Array, ""]
    cost_mean: Any = ()
    metrics: Mapping[str, EpisodeMetric] = {}  # never written to


class EpisodeTotals(NamedTuple):
    """Sums and extremes over the episodes that finished so far, of each environment: ``[N]`` each.

    Attributes:
        finished: number of episodes.
        return_sum: of their returns.
        return_min: smallest return.
        return_max: largest return.
        length_sum: of their lengths.
        cost_sum: of their costs, ``[N, K]`` where the cost is a vector; ``()`` without costs.
        metrics: of each metric's mean, sum and last value.
    """

    finished: Int[Array, " N"]
    return_sum: Float[Array, " N"]
    return_min: Float[Array, " N"]
    return_max: Float[Array, " N"]
    length_sum: Int[Array, " N"]
    cost_sum: Any = ()
    metrics: Mapping[str, EpisodeMetric] = {}  # never written to


def no_episodes(num_envs: int, xp: Any = jnp, cost: Any = (), metrics: Mapping[str, Any] = {}) -> EpisodeTotals:
    """Totals before any episode finished, in ``jax.numpy`` or ``numpy``; ``cost`` and ``metrics`` are of an episode under way."""
    nothing, none = xp.zeros((num_envs,)), xp.zeros((num_envs,), xp.int32)
    own = {name: EpisodeMetric(nothing, nothing, nothing) for name in metrics}
    return EpisodeTotals(
        none, nothing, nothing + xp.inf, nothing - xp.inf, none, jax.tree.map(xp.zeros_like, cost), own
    )


def add_finished(
    totals: EpisodeTotals,
    done: Bool[Array, " N"],
    episode_return: Float[Array, " N"],
    episode_length: Int[Array, " N"],
    xp: Any = jnp,
    cost: Any = (),
    sums: Mapping[str, Float[Array, " N"]] = {},
    last: Mapping[str, Float[Array, " N"]] = {},
) -> EpisodeTotals:
    """Count the episodes that ended with this step.

    Args:
        totals: before it.
        done: which ended.
        episode_return: up to and with this step, as are the next ones.
        episode_length: number of steps.
        xp: ``jax.numpy`` or ``numpy``.
        cost: sum of the costs.
        sums: of the metrics.
        last: the metrics of this step.
    """

    def add(total: Any, value: Any) -> Any:
        ended = xp.reshape(done, done.shape + (1,) * (value.ndim - 1))
        return total + xp.where(ended, value, 0.0)

    own = {
        name: EpisodeMetric(
            sums[name] / xp.maximum(episode_length, 1), sums[name], last[name]
        )  # 0 before a NEXT_STEP reset
        for name in sums
    }
    return EpisodeTotals(
        totals.finished + done,
        totals.return_sum + xp.where(done, episode_return, 0.0),
        xp.where(done, xp.minimum(totals.return_min, episode_return), totals.return_min),
        xp.where(done, xp.maximum(totals.return_max, episode_return), totals.return_max),
        totals.length_sum + xp.where(done, episode_length, 0),
        jax.tree.map(add, totals.cost_sum, cost),
        jax.tree.map(add, totals.metrics, own),
    )


def summarize(totals: EpisodeTotals) -> EpisodeSummary:
    """Means and extremes over all environments."""
    finished = jnp.sum(totals.finished)
    known, count = finished > 0, jnp.maximum(finished, 1)

    def mean(total: Array) -> Array:
        return jnp.where(known, jnp.sum(total, dtype=float) / count, undefined())

    cost = totals.cost_sum
    return EpisodeSummary(
        finished=finished,
        return_mean=mean(totals.return_sum),
        return_min=jnp.where(known, jnp.min(totals.return_min), undefined()),
        return_max=jnp.where(known, jnp.max(totals.return_max), undefined()),
        length_mean=mean(totals.length_sum),
        cost_mean=tuple(map(mean, cost.T)) if getattr(cost, "ndim", 1) == 2 else jax.tree.map(mean, cost),
        metrics=jax.tree.map(mean, totals.metrics),
    )
