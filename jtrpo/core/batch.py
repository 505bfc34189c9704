"""The batch that an update learns from, and weighted means over it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jtrpo.core.check import shown

AxisName = str | tuple[str, ...] | None
"""Mapped axis, or axes, over which a batch is spread; ``None``: the batch is whole."""


class Batch(NamedTuple):
    """Samples collected by one behaviour policy, with a leading axis ``B``.

    For an objective of several actions per state (see :mod:`jtrpo.core.vine`), ``action``, ``advantage`` and ``log_prob`` have a
    second axis ``K``.

    Attributes:
        observation: any pytree of arrays, ``[B, ...]`` each.
        action: any pytree of arrays, ``[B, ...]`` each, as sampled (before any clipping by the environment).
        advantage: advantage estimates, ``[B]``, in units of return.
        log_prob: log pi_old(action | observation) as stored at collection, ``[B]``, in nats. ``None``: the policy at the
            parameters given to the update collected the batch.
        weight: non-negative weight of each sample, ``[B]``; zero leaves a sample out (padding). ``None``: all equal.
        cost_advantage: advantage estimates of what is to stay within a limit, in units of its return, see
            :func:`jtrpo.cpo_update`; ``[B]``, or ``[B, K]`` of K constraints for :func:`jtrpo.pcpo_update`. ``None``: no cost.

    Examples:
        >>> batch = jtrpo.Batch(observation=jnp.zeros((3, 4)), action=jnp.array([0, 1, 0]), advantage=jnp.ones(3))
        >>> padded = batch._replace(weight=jnp.array([1.0, 1.0, 0.0]))  # the last sample does not count
    """

    observation: PyTree
    action: PyTree
    advantage: Float[Array, "B ..."]
    log_prob: Float[Array, "B ..."] | None = None
    weight: Float[Array, " B"] | None = None
    cost_advantage: Float[Array, "B ..."] | None = None


def check_batch(batch: Batch, *, branched: bool = False) -> Batch:
    """Return the batch in arrays, its numbers in at least 32 bits, or raise by the name of the entry that does not fit.

    Args:
        batch: what to check.
        branched: whether the objective may be one of several actions per state, ``[B, K]``.

    Raises:
        TypeError: not a batch, or advantages (of rewards or costs), log-probabilities or weights that are no real numbers.
        ValueError: an entry whose leading axes differ from the advantage's.
    """
    if not isinstance(batch, Batch):
        raise TypeError(f"batch must be a jtrpo.Batch; got {shown(batch)}")
    optional = {name: getattr(batch, name) for name in ("log_prob", "weight", "cost_advantage")}
    numbers = {"advantage": batch.advantage} | {name: value for name, value in optional.items() if value is not None}
    batch = batch._replace(**{name: as_numbers(f"batch.{name}", value) for name, value in numbers.items()})
    if jnp.ndim(batch.advantage) != 1 and not (branched and jnp.ndim(batch.advantage) == 2):
        raise ValueError(
            f"batch.advantage must have shape [B], got {jnp.shape(batch.advantage)}; flatten time and environments into one axis"
        )
    size, *branches = shape = jnp.shape(batch.advantage)
    if 0 in shape:
        raise ValueError("batch.advantage is empty; an update needs at least one sample")
    for path, leaf in jax.tree_util.tree_flatten_with_path(batch._asdict())[0]:
        name = path[0].key + jax.tree_util.keystr(path[1:])
        if isinstance(leaf, str | np.ndarray | np.generic) and np.asarray(leaf).dtype.kind not in "biufcV":
            raise TypeError(f"batch.{name} must be an array of numbers; got {shown(leaf)}")
        if jnp.ndim(leaf) == 0 or jnp.shape(leaf)[0] != size:
            hint = "" if isinstance(leaf, np.ndarray | jax.Array) else "; a list of numbers must be an array"
            raise ValueError(
                f"batch.{name} must have the leading axis B = {size} of batch.advantage, got shape {jnp.shape(leaf)}{hint}"
            )
    for name, wanted in (("log_prob", list(shape)), ("weight", [size])):
        value = getattr(batch, name)
        if value is not None and list(jnp.shape(value)) != wanted:
            raise ValueError(f"batch.{name} must have shape {wanted}, got {jnp.shape(value)}")
    costs = [] if batch.cost_advantage is None else jnp.shape(batch.cost_advantage)[1:]
    if len(costs) > 1 or 0 in costs:
        raise ValueError(
            f"batch.cost_advantage must have shape {[size]}, or [B, K] of K constraints, got {(size, *costs)}"
        )
    for leaf in jax.tree.leaves(batch.action) if branches else ():
        if list(jnp.shape(leaf)[1:2]) != branches:
            raise ValueError(
                f"batch.action must have the leading axes [B, K] = {list(shape)} of batch.advantage, got shape {jnp.shape(leaf)}"
            )
    return jax.tree.map(jnp.asarray, batch)


def as_weight(weight: Any, shape: tuple[int, ...]) -> Float[Array, " B"] | None:
    """Return weights as an array, or raise where they are not one number for each sample, ``shape``."""
    if weight is None:
        return None
    weight = as_numbers("weight", weight)
    if weight.shape != shape:
        raise ValueError(f"weight must have shape {list(shape)}, one for each sample; got {weight.shape}")
    return weight


def check_size(shape: tuple[int, ...]) -> int:
    """Return ``B``, from the shape of a distribution's entropy; raise where that is not ``[B]`` with ``B`` above zero."""
    if len(shape) != 1 or 0 in shape:
        raise ValueError(
            f"a distribution over a batch, [B] with at least one sample, is needed; its entropy has shape {shape}: give "
            "observations with one leading axis"
        )
    return shape[0]


def as_numbers(name: str, value: Any) -> Array:
    """Return an array of real numbers in at least 32 bits: a sum over a batch soon leaves the range of 16.

    Raises:
        TypeError: neither numbers nor truth values.
    """
    leaf = jnp.asarray(value) if any(isinstance(x, jax.Array) for x in jax.tree.leaves(value)) else np.asarray(value)
    dtype = leaf.dtype
    real = any(jnp.issubdtype(dtype, kind) for kind in (np.bool_, np.integer, np.floating))
    if not real:
        raise TypeError(f"{name} must be an array of real numbers; got {shown(value)}")
    return jnp.asarray(leaf, jax.dtypes.canonicalize_dtype(jnp.promote_types(dtype, np.float32)))


def stratified(
    tree: Any,
    weight: Float[Array, " B"] | None,
    size: int,
    fraction: float,
    sequence_length: int = 1,
    axis_name: AxisName = None,
) -> tuple[Any, Float[Array, " b"] | None]:
    """Take ``round(fraction * size)`` (at least one) entries along the leading axis of every leaf, one from each equal stretch.

    Leaves without that axis, such as a log_std that all samples share, stay as they are.

    The position within a stretch advances by the golden ratio from one stretch to the next: with every n-th entry, a batch of
    time steps times environments would always give the same environments. Where the entries come in sequences of
    ``sequence_length``, whole sequences are taken. Spread over ``axis_name``, the entries are those that one device would take of
    the whole batch; devices that hold fewer of them fill up with entries of weight zero.

    Args:
        tree: any pytree, leading axis ``B`` or none of that size.
        weight: of the entries, ``[B]``; ``None``: all equal.
        size: ``B``.
        fraction: share to take, in (0, 1].
        sequence_length: entries that stay together.
        axis_name: mapped axis over which the batch is spread, in order.

    Returns:
        ``(tree, weight)`` of what was taken.
    """
    devices, sequences = axis_size(axis_name), size // sequence_length
    count = max(1, round(fraction * sequences * devices))
    if count == sequences * devices:
        return tree, weight
    edges = np.arange(count + 1, dtype=np.int64) * (sequences * devices) // count
    place = np.arange(count) * (np.sqrt(5) - 1) / 2 % 1
    taken = edges[:-1] + (place * np.diff(edges)).astype(np.int64)
    rows = [taken[taken // sequences == device] % sequences for device in range(devices)]
    longest = max(map(len, rows))
    index: Any = np.stack([np.pad(row, (0, longest - len(row))) for row in rows])
    counts: Any = np.stack([np.arange(longest) < len(row) for row in rows])
    uneven = not counts.all()
    device = 0 if axis_name is None else jax.lax.axis_index(axis_name)
    index, counts = jnp.asarray(index)[device], jnp.asarray(counts)[device]
    if sequence_length > 1:
        index = (index[:, None] * sequence_length + jnp.arange(sequence_length)[None]).reshape(-1)
        counts = jnp.repeat(counts, sequence_length)
    take = lambda x: jnp.take(x, index, axis=0) if jnp.shape(x)[:1] == (size,) else x  # noqa: E731
    tree, weight = jax.tree.map(take, (tree, weight))
    if uneven:
        weight = counts.astype(float) if weight is None else jnp.where(counts, weight, 0)
    return tree, weight


def mean_weights(weight: Float[Array, " B"] | None, size: int, axis_name: AxisName = None) -> Float[Array, " B"]:
    """Weights that sum to one over the whole batch (and over ``axis_name``), so that a mean is a plain weighted sum.

    All weights zero gives all zeros, and so every mean is zero; a weight that is not finite makes every mean NaN.
    """
    if weight is None:
        return jnp.full((size,), 1.0 / (size * axis_size(axis_name)))
    weight = jnp.asarray(weight)
    total = sum_over(jnp.sum(weight), axis_name)
    return jnp.where(total == 0, 0.0, weight / jnp.where(total == 0, 1.0, total))


def weighted_sum(x: Float[Array, " B"], weight: Float[Array, " B"]) -> Float[Array, ""]:
    """Local part of the mean: sum of ``weight * x`` in which a weight of zero leaves out even a NaN."""
    return jnp.sum(jnp.where(weight == 0, 0.0, weight * x))


def replace_invalid(tree: Any, weight: Float[Array, " B"] | None, *, keep_finite: bool = False) -> Any:
    """Put the first sample that counts in the place of those of weight zero, so that what they hold reaches no derivative.

    Their share of a derivative is 0 times that at their place: NaN where they hold a NaN, and also at a zero where a policy or a
    density has no derivative there, as a logarithm. Where no sample counts, all become zero.

    With ``keep_finite`` only what is not finite is replaced, by zero: a recurrent policy still remembers a step of weight zero.
    """
    if weight is None:
        return tree
    valid = jnp.asarray(weight) != 0
    first, some = jnp.argmax(valid), jnp.any(valid)

    def replace(x: Array) -> Array:
        keep = valid.reshape(-1, *[1] * (x.ndim - 1))
        if keep_finite:
            return jnp.where(keep | jnp.isfinite(x), x, jnp.zeros_like(x))
        return jnp.where(keep, x, jnp.where(some, x[first], jnp.zeros_like(x[0])))

    return jax.tree.map(replace, tree)


def sum_over(tree: Any, axis_name: AxisName) -> Any:
    """Sum over a mapped axis (devices), or the identity where there is none.

    A pytree is sent as one message for each dtype in it: between devices the number of messages takes time, not their length.
    """
    if axis_name is None:
        return tree
    leaves, structure = jax.tree.flatten(tree)
    sums: dict[Any, Any] = {}
    for kind in dict.fromkeys(leaf.dtype for leaf in leaves):  # not a set: every process must send in the same order
        some = [leaf for leaf in leaves if leaf.dtype == kind]
        message = jax.lax.psum(jnp.concatenate([jnp.ravel(leaf) for leaf in some]), axis_name)
        ends = np.cumsum([leaf.size for leaf in some])[:-1]
        sums[kind] = iter([part.reshape(leaf.shape) for part, leaf in zip(jnp.split(message, ends), some, strict=True)])
    return jax.tree.unflatten(structure, [next(sums[leaf.dtype]) for leaf in leaves])


def largest_over(x: Float[Array, ""], axis_name: AxisName) -> Float[Array, ""]:
    """Largest over a mapped axis (devices), or the identity where there is none."""
    return x if axis_name is None else jax.lax.pmax(x, axis_name)


def axis_size(axis_name: AxisName) -> int:
    """Number of devices along a mapped axis; one where there is none.

    Raises:
        TypeError: not a name, or several.
        ValueError: an axis that is not mapped here.
    """
    if axis_name is None:
        return 1
    names = axis_name if isinstance(axis_name, tuple) else (axis_name,)
    if not all(isinstance(name, str) for name in names):
        raise TypeError(f"axis_name must be the name of a mapped axis, or a tuple of them; got {axis_name!r}")
    try:
        return jax.lax.axis_size(axis_name)
    except NameError:
        raise ValueError(
            f"axis_name must be an axis that is mapped where this is called, by jax.vmap or jax.shard_map; got {axis_name!r}"
        ) from None


def per_sample_keys(key: PRNGKeyArray, size: int, axis_name: AxisName = None) -> PRNGKeyArray:
    """One key for each of ``size`` entries, by its index in the whole batch: the same for any number of devices."""
    first = 0 if axis_name is None else size * jax.lax.axis_index(axis_name)
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, first + jnp.arange(size))


def normalize_advantages(
    advantage: Float[Array, " B"], weight: Float[Array, " B"], axis_name: AxisName = None
) -> Float[Array, " B"]:
    """(A - mean) / (std + 1e-8) over the valid samples; ``weight`` as :func:`mean_weights` gives it.

    Advantages that are constant to rounding become exactly zero: their spread is rounding noise, which would be amplified.
    """
    sums = jnp.stack([weighted_sum(x, weight) for x in (advantage, jnp.abs(advantage))])
    mean, size = sum_over(sums, axis_name)
    size = jnp.where(size > 0, size, 1.0)
    centred = (advantage - mean) / size  # squares of the advantages themselves may overflow
    std = jnp.sqrt(sum_over(weighted_sum(jnp.square(centred), weight), axis_name))
    constant = std <= 10.0 * jnp.finfo(std.dtype).eps * jnp.abs(mean / size)
    return jnp.where(constant, 0.0, centred / (std + 1e-8 / size))
