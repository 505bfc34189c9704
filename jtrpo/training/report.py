"""Calling the host from within a compiled training: once for each update, however many trainings are mapped over."""

import logging
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree

OnUpdate = Callable[[int, Any], None]
"""``(update, metrics)``: the number of an update, from 1, and what it reports, as NumPy arrays."""


def undefined() -> float:
    """What is reported where there is nothing to report: NaN, or infinity where JAX is told to stop at every NaN."""
    return jnp.inf if jax.config.jax_debug_nans else jnp.nan


def guarded(on_update: OnUpdate, name: str = "on_update") -> OnUpdate:
    """The same, but it never raises: its first exception is logged, and from then on it is left alone.

    A broken picture must not end a training.
    """
    broken = False

    def call(update: int, metrics: Any) -> None:
        nonlocal broken
        if broken:
            return
        try:
            on_update(update, metrics)
        except Exception:
            broken = True
            logging.getLogger("jtrpo").exception(f"{name} failed and is not called again; training goes on")

    return call


def make_report(on_update: OnUpdate) -> Callable[[Int[Array, ""], PyTree], None]:
    """Build ``(update, metrics)`` for use under ``jit``: it calls ``on_update`` on the host while training goes on.

    Under ``vmap`` it is called once for the whole batch, with metrics of leading axes as the batch has them; always
    :func:`guarded`.

    Args:
        on_update: called on another thread, with metrics whose leaves are scalars without ``vmap``.
    """
    call = guarded(on_update)

    def host(structure: Any, kinds: list[np.dtype], *packed: Any) -> None:
        columns = {array.dtype: iter(np.moveaxis(array, -1, 0)) for array in map(np.asarray, packed)}
        update, metrics = jax.tree.unflatten(structure, [next(columns[kind]) for kind in kinds])
        call(int(update.max()), metrics)

    def report(update: Int[Array, ""], metrics: PyTree) -> None:
        leaves, structure = jax.tree.flatten((update, metrics))
        kinds = [np.dtype(leaf.dtype) for leaf in leaves]
        # One array for each type: the runtime takes longer over thirty scalars than a small network over an update.
        packed = [jnp.stack([x for x in leaves if x.dtype == kind]) for kind in dict.fromkeys(kinds)]

        @jax.custom_batching.custom_vmap
        def send(*packed: Array) -> tuple[()]:
            jax.debug.callback(lambda *arrays: host(structure, kinds, *arrays), *packed)
            return ()

        @send.def_vmap
        def send_once(size: int, batched: list[bool], *packed: Array) -> tuple[tuple[()], tuple[()]]:
            return send(*packed), ()

        send(*packed)

    return report
