"""From a policy's action to the one that reaches the environment."""

import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jaxtyping import Array


def environment_action(space: spaces.Space, action: Array) -> Array:
    """Map a policy's action into the action space.

    A Box with finite bounds: [-1, 1] is stretched to [low, high], then clipped. A Box with an infinite bound: clipped.
    The policy's log-probability stays that of the action before this map. Discrete actions pass.
    """
    if not isinstance(space, spaces.Box):
        return action
    low, high = np.asarray(space.low), np.asarray(space.high)
    bounded = np.isfinite(low) & np.isfinite(high)
    middle = np.where(bounded, (np.where(bounded, high, 1) + np.where(bounded, low, -1)) / 2, 0)
    half_width = np.where(bounded, (np.where(bounded, high, 1) - np.where(bounded, low, -1)) / 2, 1)
    shift, scale, least, most = (jnp.broadcast_to(x, action.shape) for x in (middle, half_width, low, high))
    return jnp.clip(shift + scale * action, least, most).astype(space.dtype)
