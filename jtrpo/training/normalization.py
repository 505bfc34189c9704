"""Running mean and variance, merged exactly, for observations and returns."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from jtrpo.core.batch import AxisName, axis_size, sum_over


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


def update_statistics(statistics: RunningStatistics, samples: PyTree, axis_name: AxisName = None) -> RunningStatistics:
    """Merge samples, whose leading axes (beyond the components' own) all count as samples, and ``axis_name`` as well.

    n = n_a + n_b,  mean = mean_a + d n_b / n,  m2 = m2_a + m2_b + d^2 n_a n_b / n,  with d = mean_b - mean_a

    Samples that would make the moments infinite or NaN are left out, the whole batch of them: statistics never heal.

    Source: Chan, Golub and LeVeque 1979, Updating Formulae and a Pairwise Algorithm for Computing Sample Variances.
    """
    rows = jax.tree.map(lambda mean, x: jnp.reshape(x, (-1, *mean.shape)), statistics.mean, samples)
    added = jax.tree.leaves(rows)[0].shape[0] * axis_size(axis_name)
    total = statistics.samples + added
    sums = jax.tree.map(lambda x: jnp.sum(x, axis=0, dtype=jnp.result_type(x, float)), rows)
    batch_mean = jax.tree.map(lambda x: x / added, sum_over(sums, axis_name))
    squares = jax.tree.map(lambda x, mean: jnp.sum(jnp.square(x - mean[None]), axis=0), rows, batch_mean)
    batch_m2 = sum_over(squares, axis_name)
    difference = jax.tree.map(jnp.subtract, batch_mean, statistics.mean)
    mean = jax.tree.map(lambda m, d: m + d * (added / total), statistics.mean, difference)
    m2 = jax.tree.map(
        lambda a, b, d: a + b + jnp.square(d) * (statistics.samples * added / total),
        statistics.m2,
        batch_m2,
        difference,
    )
    updated = RunningStatistics(total, mean, m2)
    return jax.tree.map(partial(jnp.where, all_finite(updated)), updated, statistics)


def all_finite(tree: PyTree) -> Bool[Array, ""]:
    """Whether every number in a pytree is finite."""
    return jnp.array([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree)]).all()


def standard_deviation(statistics: RunningStatistics) -> PyTree:
    """Population standard deviation of each component; one until there are samples."""
    count = statistics.samples
    return jax.tree.map(
        lambda m2: jnp.where(count > 0, jnp.sqrt(m2 / jnp.maximum(count, 1.0) + 1e-8), 1.0), statistics.m2
    )


def normalize(statistics: RunningStatistics, x: PyTree, clip: float = 10.0) -> PyTree:
    """(x - mean) / std, clipped to [-clip, clip]; leading axes of ``x`` are the batch."""
    return jax.tree.map(
        lambda mean, std, leaf: jnp.clip((leaf - _over(mean, leaf)) / _over(std, leaf), -clip, clip),
        statistics.mean,
        standard_deviation(statistics),
        x,
    )


def rescale(statistics: RunningStatistics, x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Mean + std x: back from normalised units; the identity until there are samples."""
    return statistics.mean + standard_deviation(statistics) * x


def _over(component: Array, leaf: Array) -> Array:
    return jnp.broadcast_to(component, jnp.shape(leaf))
