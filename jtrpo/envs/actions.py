"""From a policy's action to the one that reaches the environment."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jaxtyping import Array, Bool, Float, PyTree


def environment_action(space: spaces.Space, action: PyTree, squash: bool = False) -> PyTree:
    """Map a policy's action into the action space; leading axes are the batch.

    A Box with two bounds (see :func:`stretched`): [-1, 1] is stretched to [low, high], then clipped. Any other: clipped, and
    where zero lies outside the bounds, moved to the nearest of them before. Whole numbers are rounded. The policy's
    log-probability stays that of the action before this map. Discrete choices are counted from the space's own start. A Dict or
    Tuple: each part by its own space. With ``squash``, actions over a Box are those of a :class:`jtrpo.TanhGaussian` or
    :class:`jtrpo.Beta`, before the squashing.
    """
    if isinstance(space, spaces.Dict):
        return {name: environment_action(child, action[name], squash) for name, child in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(environment_action(child, a, squash) for child, a in zip(space.spaces, action, strict=True))
    if isinstance(space, spaces.Box):
        return _box_action(space, jnp.tanh(action) if squash else action)
    if isinstance(space, spaces.Discrete):
        return _count_from(space.start, space, action)
    action = jnp.reshape(action, (*action.shape[:-1], *(space.shape or ())))
    return _count_from(space.start, space, action) if isinstance(space, spaces.MultiDiscrete) else action


def _count_from(start: Any, space: spaces.Space, action: Array) -> Array:
    if np.any(start):
        action = action + jnp.broadcast_to(np.asarray(start, np.int64), action.shape)
    dtype = jax.dtypes.canonicalize_dtype(space.dtype)
    return action if action.dtype == dtype else action.astype(dtype)


def stretched(space: spaces.Box) -> Bool[np.ndarray, "..."]:
    """Which numbers of a Box have two bounds, and a distance between them that is finite.

    A bound at the limit of its floating-point type, or of an integer type of 32 bits or more, is none.
    """
    return _bounds(space)[2]


def _bounds(space: spaces.Box) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bounds in JAX's type for the space (int8 for bool), rounded inwards, and which numbers have both."""
    dtype = np.dtype(np.int8 if space.dtype == bool else jax.dtypes.canonicalize_dtype(space.dtype))
    if dtype.kind in "iu":
        limit: Any = np.iinfo(dtype)
        low, high = (np.clip(bound * 1, limit.min, limit.max).astype(dtype) for bound in (space.low, space.high))
        below = low > limit.min if dtype.kind == "i" else np.ones(low.shape, bool)  # a bound of zero is meant
        return low, high, below & (high < limit.max) | (dtype.itemsize < 4)
    real, limit = jax.dtypes.canonicalize_dtype(float), np.finfo(dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        low, high = space.low.astype(dtype), space.high.astype(dtype)
        low = np.where(low < space.low, np.nextafter(low, dtype.type(np.inf)), low)
        high = np.where(high > space.high, np.nextafter(high, dtype.type(-np.inf)), high)
        distance = high.astype(real) - low.astype(real)
    return low, high, np.isfinite(distance) & (low > limit.min) & (high < limit.max)


def _box_action(space: spaces.Box, action: Float[Array, "..."]) -> Array:
    action = jnp.reshape(action, (*action.shape[:-1], *space.shape))
    low, high, both = _bounds(space)
    least, most = low.astype(action.dtype), high.astype(action.dtype)
    left, right = np.where(both, least, -1), np.where(both, most, 1)
    middle = np.where(both, left / 2 + right / 2, np.clip(0, least, most))
    full = lambda x: jnp.broadcast_to(x, action.shape)  # noqa: E731
    action = full(middle) + full(right / 2 - left / 2) * action
    if low.dtype.kind == "f":
        return jnp.clip(action, full(least), full(most)).astype(low.dtype)
    # First into what the type can hold, whose largest number may be no floating-point one; then the bounds to the digit.
    limit = np.iinfo(low.dtype)
    most = np.array(limit.max, action.dtype)
    most = most if int(most) <= limit.max else np.nextafter(most, np.zeros_like(most))
    whole = jnp.clip(jnp.round(action), np.array(limit.min, action.dtype), most).astype(low.dtype)
    return jnp.clip(whole, full(low), full(high)).astype(jax.dtypes.canonicalize_dtype(space.dtype))
