"""A training's state as plain arrays by name, and back."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jtrpo.training.config import TrainConfig
from jtrpo.training.host.trainer import trainer_for
from jtrpo.training.hyperparams import Hyperparams
from jtrpo.training.state import check_state

KEY_IMPLEMENTATIONS = ("threefry2x32", "rbg", "unsafe_rbg")
"""Of random keys, that can be saved."""


def to_arrays(state: Any) -> dict[str, np.ndarray]:
    """The state as NumPy arrays of its own, by name; random keys as their bits."""
    return {name: np.array(value) for name, value in jax.device_get(named(state)).items()}


def named(state: Any) -> dict[str, jax.Array]:
    """The state's arrays by name; random keys as their bits."""
    return {_name(path): _bits(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state)}


def from_arrays(arrays: dict[str, np.ndarray], template: Any, shardings: Any = None, *, impl: str | None = None) -> Any:
    """The state again, shaped like ``template``, on the devices of ``shardings``; random keys of implementation ``impl``.

    Raises:
        ValueError: an array is missing, too many, or of another shape or type: another version or precision wrote it.
    """
    arrays = _numbers_since(template) | arrays
    check_arrays(arrays, template, "the checkpoint", "here")
    leaves = []
    for path, like in jax.tree_util.tree_leaves_with_path(template):
        value = jnp.asarray(arrays[_name(path)])
        leaves.append(jax.random.wrap_key_data(value, impl=impl) if _is_key(like) else value)
    state = jax.tree.unflatten(jax.tree.structure(template), leaves)
    return state if shardings is None else jax.jit(lambda x: x, out_shardings=shardings)(state)


def _numbers_since(template: Any) -> dict[str, np.ndarray]:
    """The default of each number of :class:`Hyperparams`, for a checkpoint that was written before there was such a number."""
    like = getattr(template, "hyperparams", ())
    default = Hyperparams()._asdict()
    leaves = jax.tree_util.tree_leaves_with_path(like)
    return {f"hyperparams.{_name(path)}": np.asarray(default[_name(path)], x.dtype) for path, x in leaves}


def check_arrays(arrays: dict[str, Any], template: Any, owner: str, here: str) -> None:
    """Compare names, shapes and types with those of a state.

    Raises:
        ValueError: they differ.
    """
    wanted = {_name(path): like for path, like in jax.tree_util.tree_leaves_with_path(template)}
    remedy = "another version of jtrpo or of the environment wrote it; use that one"
    if owner != "the checkpoint":
        remedy = "save states of the training that the folder is for"
    if wrong := wanted.keys() ^ arrays.keys():
        raise ValueError(f"{owner} has other parts ({', '.join(sorted(wrong)[:5])}): {remedy}")
    for name, like in wanted.items():
        bits = jax.eval_shape(jax.random.key_data, like) if _is_key(like) else like
        value = arrays[name]
        if (tuple(value.shape), value.dtype) == (tuple(bits.shape), bits.dtype):
            continue
        there, size = np.dtype(value.dtype), np.dtype(bits.dtype).itemsize
        if value.shape == bits.shape and there.kind == np.dtype(bits.dtype).kind and {there.itemsize, size} == {4, 8}:
            switch = "set JAX_ENABLE_X64=1" if size == 4 else "leave JAX_ENABLE_X64 unset"
            raise ValueError(
                f"{owner}'s {name} has {8 * there.itemsize} bits and this process computes with {8 * size}: {switch} (or "
                f"jax.config.update('jax_enable_x64', {size == 4}) before anything else) to go on as it began"
            )
        kinds = f"{value.dtype}{tuple(value.shape)} there and {bits.dtype}{tuple(bits.shape)} {here}"
        raise ValueError(f"{owner}'s {name} is {kinds}: {remedy}")


def template(config: TrainConfig, impl: str | None) -> Any:
    """The shapes and types of a state, for random keys of an implementation."""
    return jax.eval_shape(trainer_for(config).init, jax.eval_shape(lambda: jax.random.key(0, impl=impl)))


def key_implementation_of(metadata: dict[str, Any]) -> str | None:
    """The implementation of a checkpoint's random key; ``None``: a raw one.

    Raises:
        ValueError: one that this version does not know.
    """
    impl = metadata.get("key")
    if impl not in (None, *KEY_IMPLEMENTATIONS):
        raise ValueError(
            f"the checkpoint has a random key of {impl!r}, which this version of jtrpo does not know: upgrade jtrpo"
        )
    return impl


def check_savable(state: Any) -> str | None:
    """Return the implementation of the state's random key, or raise where the state cannot be saved.

    Raises:
        TypeError: not a state, or traced.
        ValueError: of several trainings, donated, or with a random key of another implementation.
    """
    check_state(state)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(state)):
        raise TypeError("state must hold numbers, and these are traced; save what a jitted function returns")
    impl = str(jax.random.key_impl(state.key)) if _is_key(state.key) else None
    if impl not in (None, *KEY_IMPLEMENTATIONS):
        raise ValueError(f"state has a random key of {impl!r}; those of {', '.join(KEY_IMPLEMENTATIONS)} can be saved")
    return impl


def _bits(leaf: Any) -> jax.Array:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf if hasattr(leaf, "dtype") else jnp.asarray(leaf)


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")
