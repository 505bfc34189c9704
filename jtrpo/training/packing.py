"""Pytrees as a single array: what goes to the device or comes from it at every step is quicker in one piece."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree


class Packing:
    """How the numbers of a pytree lie side by side, bit for bit, in one array for each width of their types.

    Args:
        like: arrays, or their shapes and types.
        batch: leading axes that all have in common, and keep.

    Attributes:
        like: shapes and types of the pytree.
        packed: shapes and types of what :meth:`pack` gives.
    """

    def __init__(self, like: PyTree, batch: int = 0):
        leaves, self._structure = jax.tree.flatten(like)
        self._shapes, self._types, self._places = [], [], []
        ends: dict[Any, int] = {}
        for leaf in leaves:
            shape = tuple(leaf.shape[batch:])
            width = np.dtype(f"u{leaf.dtype.itemsize}") if _is_plain(leaf.dtype) else None
            begin = ends.get(width, 0)
            ends[width] = begin + (1 if width is None else int(np.prod(shape)))
            self._places.append((width, begin, ends[width]))
            self._shapes.append(shape)
            self._types.append(leaf.dtype)
        self._batch, self._widths = batch, [width for width in ends if width is not None]
        self.like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), like)
        self.packed = jax.eval_shape(self.pack, self.like)

    def pack(self, tree: PyTree) -> list[Array]:
        """Side by side: an array ``[*batch, size]`` for each width, and what is no plain number as it is."""
        leaves = jax.tree.leaves(tree)
        parts: dict[Any, list[Array]] = {width: [] for width in [*self._widths, None]}
        for leaf, (width, *_) in zip(leaves, self._places, strict=True):
            parts[width].append(leaf if width is None else _bits(leaf, width).reshape(*leaf.shape[: self._batch], -1))
        return [jnp.concatenate(parts[width], axis=-1) for width in self._widths] + parts[None]

    def unpack(self, packed: list[Any]) -> PyTree:
        """The pytree again: of JAX's arrays, or of views where these are NumPy's. Further leading axes stay, too."""
        arrays, others = dict(zip(self._widths, packed, strict=False)), packed[len(self._widths) :]
        leaves = []
        for (width, begin, end), shape, kind in zip(self._places, self._shapes, self._types, strict=True):
            if width is None:
                leaves.append(others[begin])
                continue
            part = arrays[width][..., begin:end]
            part = part.view(kind) if isinstance(part, np.ndarray) else _from_bits(part, kind)
            leaves.append(part.reshape((*part.shape[:-1], *shape)))
        return jax.tree.unflatten(self._structure, leaves)


def _is_plain(kind: Any) -> bool:
    return isinstance(kind, np.dtype) and kind.kind in "biuf"


def _bits(x: Array, width: np.dtype) -> Array:
    return x.astype(width) if x.dtype.kind == "b" else jax.lax.bitcast_convert_type(x, width)


def _from_bits(x: Array, kind: np.dtype) -> Array:
    return x.astype(bool) if kind.kind == "b" else jax.lax.bitcast_convert_type(x, kind)
