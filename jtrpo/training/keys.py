"""Random keys: what users give, and keys by the name of what they are for."""

import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from jtrpo.core.check import shown


def keys_for(key: PRNGKeyArray, *purposes: str) -> list[PRNGKeyArray]:
    """One key for each purpose; ``key`` is consumed.

    Other purposes have other keys, whatever else ``key`` was given to: ``jax.random.split`` numbers its keys from zero, and the
    first ones of two splits are the same.

    Args:
        key: consumed.
        purposes: names.

    Raises:
        TypeError: not a key.
        ValueError: several keys.
    """
    key = one_key(key)
    return [jax.random.fold_in(key, zlib.crc32(purpose.encode())) for purpose in purposes]


def one_key(key: Any) -> PRNGKeyArray:
    """Return one typed key, ``jax.random.key(0)`` or the numbers of ``jax.random.PRNGKey(0)``, or raise."""
    if isinstance(key, jax.Array | np.ndarray) and key.dtype == np.uint32 and key.ndim > 0:
        try:
            key = jax.random.wrap_key_data(jnp.asarray(key))
        except TypeError as error:
            raise ValueError(
                f"key of shape {key.shape} does not belong to JAX's default implementation; make it by "
                "jax.random.key(seed, impl=...), which tells its own"
            ) from error
    if not isinstance(key, jax.Array) or not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        raise TypeError(f"key must be a random key, such as jax.random.key(0); got {shown(key)}")
    if key.shape != ():
        raise ValueError(f"key must be one key; got an array of them, of shape {key.shape}: jax.vmap over it")
    return key


def held_keys(key: PRNGKeyArray, num_steps: int, interval: int) -> PRNGKeyArray:
    """One key for each step, ``[num_steps]``, the same for ``interval`` steps in a row; ``key`` is consumed."""
    return jnp.repeat(jax.random.split(key, -(-num_steps // interval)), interval)[:num_steps]
