"""Running mean and variance, merged exactly, for observations and returns."""

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
        m2: sum of squared deviations from the mean, shaped like ``mean``.
    """

    samples: Float[Array, ""]
    mean: PyTree
    m2: PyTree


def init_statistics(example: PyTree) -> RunningStatistics:
    """No samples yet; components shaped like ``example``."""
    zeros = jax.tree.map(lambda x: jnp.zeros(jnp.shape(x), float), example)
    return RunningStatistics(jnp.zeros(()), zeros, zeros)


def update_statistics(
    statistics: RunningStatistics, samples: PyTree, valid: Bool[Array, "..."] | None = None, axis_name: AxisName = None
) -> RunningStatistics:
    """Merge samples, whose leading axes (beyond the components' own) all count as samples, and ``axis_name`` as well.

    n = n_a + n_b,  mean = mean_a + d n_b / n,  m2 = m2_a + m2_b + d^2 n_a n_b / n,  with d = mean_b - mean_a

    Args:
        statistics: of the samples before.
        samples: leading axes are the batch.
        valid: which samples count, over the leading axes; ``None``: all. Where the moments would overflow in spite of it, the
            whole batch is left out: statistics never heal.
        axis_name: mapped axis over which the batch is spread.

    Source: Chan, Golub and LeVeque 1979, Updating Formulae and a Pairwise Algorithm for Computing Sample Variances.
    """
    rows = jax.tree.map(lambda mean, x: jnp.reshape(x, (-1, *mean.shape)), statistics.mean, samples)
    size = jax.tree.leaves(rows)[0].shape[0]
    counts = jnp.ones((size,), bool) if valid is None else jnp.reshape(valid, (-1,))

    def total(x: Array) -> Array:
        mask = jnp.reshape(counts, (-1, *[1] * (x.ndim - 1)))
        return jnp.sum(jnp.where(mask, x, jnp.zeros_like(x)), axis=0, dtype=jnp.result_type(x, float))

    added, sums = sum_over((jnp.sum(counts, dtype=float), jax.tree.map(total, rows)), axis_name)
    samples_now = statistics.samples + added
    share = added / jnp.where(samples_now > 0, samples_now, 1.0)
    batch_mean = jax.tree.map(lambda x: x / jnp.maximum(added, 1.0), sums)
    squares = jax.tree.map(lambda x, mean: total(jnp.square(x - mean[None])), rows, batch_mean)
    batch_m2 = sum_over(squares, axis_name)
    difference = jax.tree.map(jnp.subtract, batch_mean, statistics.mean)
    mean = jax.tree.map(lambda m, d: m + d * share, statistics.mean, difference)
    m2 = jax.tree.map(
        lambda a, b, d: a + b + jnp.square(d) * (statistics.samples * share), statistics.m2, batch_m2, difference
    )
    updated = RunningStatistics(samples_now, mean, m2)
    return jax.tree.map(partial(jnp.where, (added > 0) & all_finite(updated)), updated, statistics)


def all_finite(tree: PyTree) -> Bool[Array, ""]:
    """Whether every number in a pytree is finite."""
    return jnp.array([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree)]).all()


def standard_deviation(statistics: RunningStatistics) -> PyTree:
    """Population standard deviation of each component, whatever its unit.

    A component that is constant to rounding has the size of its mean instead, or one where that is zero: what it is divided by is
    never zero and never mere rounding.
    """

    def deviation(mean: Array, m2: Array) -> Array:
        std, size = jnp.sqrt(m2 / jnp.where(statistics.samples > 0, statistics.samples, 1.0)), jnp.abs(mean)
        scale = jnp.where(std > 100.0 * jnp.finfo(std.dtype).eps * size, std, size)
        return jnp.where(scale > 0, scale, 1.0)

    return jax.tree.map(deviation, statistics.mean, statistics.m2)


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
