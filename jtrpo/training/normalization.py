"""Running mean and variance, merged exactly, for observations and returns."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from jtrpo.core.batch import AxisName, sum_over


class RunningStatistics(NamedTuple):
    """Moments of everything seen so far.

    Attributes:
        samples: how many.
        mean: mean of each component; pytree of floating-point arrays.
        std: population standard deviation of each component, shaped like ``mean``: squares of large numbers would overflow.
    """

    samples: Float[Array, ""]
    mean: PyTree
    std: PyTree


def init_statistics(example: PyTree, samples: float = 0.0) -> RunningStatistics:
    """No samples yet, or a number of mean 0 and variance 1; components shaped like ``example``."""
    zeros = jax.tree.map(lambda x: jnp.zeros(jnp.shape(x), float), example)
    return RunningStatistics(jnp.zeros(()) + samples, zeros, jax.tree.map(lambda x: x + float(samples > 0), zeros))


def moments(
    like: RunningStatistics, samples: PyTree, valid: Bool[Array, "..."], axis_name: AxisName = None
) -> RunningStatistics:
    """Statistics of these samples alone.

    Args:
        like: with the components' shapes.
        samples: leading axes (beyond the components' own) all count as samples.
        valid: which samples count, over the leading axes.
        axis_name: mapped axis over which the samples are spread.
    """
    rows = jax.tree.map(
        lambda mean, x: jax.lax.collapse(jnp.asarray(x), 0, jnp.ndim(x) - mean.ndim), like.mean, samples
    )
    counts = jnp.reshape(valid, (-1,))

    def total(x: Array, mean: Array) -> Array:
        mask = jnp.reshape(counts, (-1, *[1] * (x.ndim - 1)))
        wide = jnp.promote_types(x.dtype, mean.dtype)  # sums in 16 bits would overflow
        return jnp.sum(jnp.where(mask, x, jnp.zeros_like(x)), axis=0, dtype=wide)

    def size(x: Array, mean: Array) -> Array:
        return total(jnp.abs(x.astype(jnp.promote_types(x.dtype, mean.dtype))), mean)

    sums = (jnp.sum(counts, dtype=float), *(jax.tree.map(each, rows, like.mean) for each in (total, size)))
    number, *sums = sum_over(sums, axis_name)
    mean, unit = (jax.tree.map(lambda x: x / jnp.maximum(number, 1.0), x) for x in sums)
    unit = jax.tree.map(lambda x: jnp.where(x > 0, x, 1.0), unit)
    squares = jax.tree.map(
        lambda x, mean, unit: total(jnp.square((x - mean[None]) / unit[None]), mean), rows, mean, unit
    )
    std = jax.tree.map(
        lambda unit, x: unit * jnp.sqrt(x / jnp.maximum(number, 1.0)), unit, sum_over(squares, axis_name)
    )
    return RunningStatistics(number, mean, std)


def merge(
    statistics: RunningStatistics, new: RunningStatistics, weight: float | Float[Array, ""] = 1.0
) -> RunningStatistics:
    """Statistics of both, with each of the new samples counting as ``weight`` samples.

    n = n_a + n_b,  mean = mean_a + d n_b / n,  with d = mean_b - mean_a
    std^2 = std_a^2 n_a / n + std_b^2 n_b / n + d^2 n_a n_b / n^2

    Where that would not be finite the old ones come back: a NaN in running statistics would stay for good.

    Source: Chan, Golub and LeVeque 1979, Updating Formulae and a Pairwise Algorithm for Computing Sample Variances.
    """
    added = weight * new.samples
    samples = statistics.samples + added
    share = added / jnp.where(samples > 0, samples, 1.0)
    difference = jax.tree.map(jnp.subtract, new.mean, statistics.mean)
    mean = jax.tree.map(lambda m, d: m + d * share, statistics.mean, difference)

    def spread(a: Array, b: Array, d: Array) -> Array:
        unit = jnp.maximum(jnp.maximum(a, b), jnp.abs(d))
        a, b, d = (jnp.square(x / jnp.where(unit > 0, unit, 1.0)) for x in (a, b, d))
        return unit * jnp.sqrt((1.0 - share) * a + share * b + share * (1.0 - share) * d)

    merged = RunningStatistics(samples, mean, jax.tree.map(spread, statistics.std, new.std, difference))
    return jax.tree.map(partial(jnp.where, (added > 0) & all_finite(merged)), merged, statistics)


def merge_within(
    statistics: RunningStatistics,
    new: RunningStatistics,
    drift: Callable[[RunningStatistics], Float[Array, ""]],
    most: float | Float[Array, ""],
) -> RunningStatistics:
    """:func:`merge`, or so much of it that ``drift(merged)`` is about ``most``; none where the drift is not finite."""

    def partly(part: Float[Array, ""]) -> RunningStatistics:
        """A part of the way to the merged statistics, which is the share n_b / (n_a + n_b) of that to the new ones."""
        return merge(statistics, new, part * statistics.samples / (statistics.samples + new.samples * (1.0 - part)))

    part = jnp.ones(())
    for _ in range(2):  # the drift is about quadratic in the part, the more so the smaller it is
        moved = drift(partly(part))
        part = jnp.where(moved > most, part * jnp.sqrt(most / moved), part)
    return partly(jnp.where(jnp.isfinite(moved), part, 0.0))


def update_statistics(
    statistics: RunningStatistics, samples: PyTree, valid: Bool[Array, "..."] | None = None, axis_name: AxisName = None
) -> RunningStatistics:
    """:func:`merge` with the :func:`moments` of samples; ``valid`` left out: all count."""
    if valid is None:
        some, mean = jax.tree.leaves(samples)[0], jax.tree.leaves(statistics.mean)[0]
        valid = jnp.ones(some.shape[: some.ndim - mean.ndim], bool)
    return merge(statistics, moments(statistics, samples, valid, axis_name))


def all_finite(tree: PyTree) -> Bool[Array, ""]:
    """Whether every number in a pytree is finite."""
    return jnp.array([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree)]).all()


def standard_deviation(statistics: RunningStatistics) -> PyTree:
    """Population standard deviation of each component, whatever its unit.

    A component that is constant to rounding has the size of its mean instead, or one where that is zero: what it is divided by is
    never zero and never mere rounding.
    """

    def deviation(mean: Array, std: Array) -> Array:
        size = jnp.abs(mean)
        scale = jnp.where(std > 100.0 * jnp.finfo(std.dtype).eps * size, std, size)
        return jnp.where(scale > 0, scale, 1.0)

    return jax.tree.map(deviation, statistics.mean, statistics.std)


def normalize(statistics: RunningStatistics, x: PyTree) -> PyTree:
    """(x - mean) / std; leading axes of ``x`` are the batch."""
    return jax.tree.map(
        lambda mean, std, leaf: (leaf - _over(mean, leaf)) / _over(std, leaf),
        statistics.mean,
        standard_deviation(statistics),
        x,
    )


def rescale(statistics: RunningStatistics, x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Mean + std x: back from normalised units; the identity until there are samples."""
    return statistics.mean + standard_deviation(statistics) * x


def _over(component: Array, leaf: Array) -> Array:
    return jnp.broadcast_to(component, jnp.shape(leaf))
