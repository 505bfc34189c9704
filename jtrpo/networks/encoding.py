"""From an observation to the flat feature vector that a network reads."""

import jax
import jax.numpy as jnp
from gymnasium import spaces
from jaxtyping import Array, Float


def encode(space: spaces.Space, observation: Array) -> Float[Array, "... F"]:
    """Flatten a box, one-hot a discrete observation; leading axes are the batch.

    Raises:
        TypeError: a space that is not supported.
    """
    if isinstance(space, spaces.Discrete):
        return jax.nn.one_hot(observation - int(space.start), int(space.n))
    if isinstance(space, spaces.Box):
        batch_shape = observation.shape[: observation.ndim - len(space.shape)]
        return jnp.reshape(observation, (*batch_shape, -1)).astype(float)
    raise TypeError(f"observation space {space} is not supported; give a Box or a Discrete space")
