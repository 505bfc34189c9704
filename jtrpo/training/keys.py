"""Random keys by the name of what they are for."""

import zlib

import jax
from jaxtyping import PRNGKeyArray


def keys_for(key: PRNGKeyArray, *purposes: str) -> list[PRNGKeyArray]:
    """One key for each purpose; ``key`` is consumed.

    Other purposes have other keys, whatever else ``key`` was given to: ``jax.random.split`` numbers its keys from zero, and the
    first ones of two splits are the same.

    Args:
        key: consumed.
        purposes: names.
    """
    return [jax.random.fold_in(key, zlib.crc32(purpose.encode())) for purpose in purposes]
