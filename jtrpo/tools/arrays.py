"""A state as plain arrays by name, and such arrays in a folder, by orbax."""

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

KEY_IMPLEMENTATIONS = ("threefry2x32", "rbg", "unsafe_rbg")
"""Of random keys, that can be saved."""


def to_arrays(state: Any) -> dict[str, np.ndarray]:
    """The state as NumPy arrays of its own, by name; random keys as their bits."""
    return {name: np.array(value) for name, value in jax.device_get(named(state)).items()}


def named(state: Any) -> dict[str, jax.Array]:
    """The state's arrays by name; random keys as their bits."""
    return {_name(path): _bits(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state)}


def from_arrays(arrays: dict[str, np.ndarray], template: Any, where: Any = None, *, impl: str | None = None) -> Any:
    """The state again, shaped like ``template`` and lying where ``where`` says; random keys of implementation ``impl``.

    Raises:
        ValueError: an array is missing, too many, or of another shape or type: another version or precision wrote it.
    """
    check_arrays(arrays, template, "the checkpoint", "here")
    leaves = []
    for path, like in jax.tree_util.tree_leaves_with_path(template):
        value = jnp.asarray(arrays[_name(path)])
        leaves.append(jax.random.wrap_key_data(value, impl=impl) if _is_key(like) else value)
    state = jax.tree.unflatten(jax.tree.structure(template), leaves)
    return state if where is None else jax.jit(lambda x: x, out_shardings=where)(state)


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
            value_of = size == 4
            raise ValueError(
                f"{owner}'s {name} has {8 * there.itemsize} bits and this process computes with {8 * size}: {switch} (or "
                f"jax.config.update('jax_enable_x64', {value_of}) before anything else) to go on as it began"
            )
        kinds = f"{value.dtype}{tuple(value.shape)} there and {bits.dtype}{tuple(bits.shape)} {here}"
        raise ValueError(f"{owner}'s {name} is {kinds}: {remedy}")


def write_arrays(folder: Path, arrays: dict[str, Any]) -> None:
    """Write arrays into a folder that does not exist yet; several processes write together, each its own part."""
    import orbax.checkpoint as ocp

    folder.parent.mkdir(exist_ok=True)
    with _plain(folder.parent) as parent, ocp.Checkpointer(ocp.StandardCheckpointHandler()) as writer:
        writer.save(parent / folder.name, arrays)


def read_arrays(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of a folder, whatever devices wrote them. Nothing is unpickled, and nothing imported by name."""
    import orbax.checkpoint as ocp

    with _plain(folder.parent) as parent, ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        names = reader.metadata(parent / folder.name).item_metadata.tree
        plain = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in names}
        arrays = reader.restore(parent / folder.name, args=ocp.args.PyTreeRestore(restore_args=plain))
    return {name: np.asarray(value) for name, value in arrays.items()}


@contextmanager
def _plain(folder: Path) -> Iterator[Path]:
    """The same folder by a path that orbax can read: it takes some characters for patterns and others for addresses."""
    if re.fullmatch(r"[\w/ .,=+@%~-]*", str(folder)):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="jtrpo-", dir=_plain_temporary()) as place:
        link = Path(place) / "folder"
        link.symlink_to(folder, target_is_directory=True)
        yield link


def _plain_temporary() -> str | None:
    there = tempfile.gettempdir()
    return None if re.fullmatch(r"[\w/ .,=+@%~-]*", there) else os.sep + "tmp"


def sha256(content: bytes) -> str:
    """Digest of a file's content."""
    return hashlib.sha256(content).hexdigest()


def _bits(leaf: Any) -> jax.Array:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf if hasattr(leaf, "dtype") else jnp.asarray(leaf)


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")
