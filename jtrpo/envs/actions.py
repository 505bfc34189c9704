"""From a policy's action to the one that reaches the environment."""

import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jaxtyping import Array, PyTree


def environment_action(space: spaces.Space, action: PyTree, squash: bool = False) -> PyTree:
    """Map a policy's action into the action space; leading axes are the batch.

    A Box with finite bounds: [-1, 1] is stretched to [low, high], then clipped. A Box with an infinite bound: clipped.
    The policy's log-probability stays that of the action before this map. Discrete choices are counted from the space's
    own start. A Dict or Tuple: each part by its own space. With ``squash``, actions over a Box are those of a
    :class:`jtrpo.TanhGaussian`, before the squashing.
    """
    if isinstance(space, spaces.Dict):
        return {name: environment_action(child, action[name], squash) for name, child in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(environment_action(child, a, squash) for child, a in zip(space.spaces, action, strict=True))
    if isinstance(space, spaces.Discrete):
        return action + int(space.start) if space.start else action
    if isinstance(space, spaces.Box):
        return _box_action(space, jnp.tanh(action) if squash else action)
    return action


def _box_action(space: spaces.Box, action: Array) -> Array:
    action = jnp.reshape(action, (*action.shape[:-1], *space.shape))
    low, high = np.asarray(space.low), np.asarray(space.high)
    bounded = np.isfinite(low) & np.isfinite(high)
    middle = np.where(bounded, (np.where(bounded, high, 1) + np.where(bounded, low, -1)) / 2, 0)
    half_width = np.where(bounded, (np.where(bounded, high, 1) - np.where(bounded, low, -1)) / 2, 1)
    shift, scale, least, most = (jnp.broadcast_to(x, action.shape) for x in (middle, half_width, low, high))
    return jnp.clip(shift + scale * action, least, most).astype(space.dtype)
