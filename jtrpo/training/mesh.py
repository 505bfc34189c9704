"""A training spread over the devices of a mesh: each has its share of the environments, and all the same parameters.

Collection needs no word between devices: XLA divides it by the environment axis. Learning runs under ``shard_map``, and each of
its means is a sum over the mesh, so the update, its KL and its line search are those of the whole batch. Random numbers belong to
environments and samples, not to devices: their number changes the results by rounding only.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

SEEDS = "seeds"
"""Name of the mesh axis that environments are not divided by: ``jax.vmap(train, spmd_axis_name="seeds")`` puts seeds there."""


def environment_axes(mesh: Mesh) -> tuple[str, ...]:
    """The mesh's axes that environments are divided by: all but ``"seeds"``."""
    return tuple(name for name in mesh.axis_names if name != SEEDS)


def shardings(mesh: Mesh, tree: PyTree, specs: PyTree) -> PyTree:
    """Where each array of ``tree`` lies, as ``specs``, a prefix of it, says."""

    def here(spec: PartitionSpec, part: PyTree) -> PyTree:
        return jax.tree.map(lambda _: NamedSharding(_automatic(mesh), spec), part)

    return jax.tree.map(here, specs, tree, is_leaf=lambda x: isinstance(x, PartitionSpec))


def on_each_device(mesh: Mesh, function: Callable[..., Any], in_specs: PyTree, out_specs: PyTree) -> Callable[..., Any]:
    """Run ``function`` on every device, on its share of what the specs divide."""
    # Under vmap with spmd_axis_name JAX 0.10 and 0.11 lose track of what varies over which axis.
    checked = SEEDS not in mesh.axis_names
    return jax.shard_map(function, mesh=_automatic(mesh), in_specs=in_specs, out_specs=out_specs, check_vma=checked)


def _automatic(mesh: Mesh) -> Mesh:
    """The same devices, with axes that XLA divides the environments' own program by, whatever kind the user chose."""
    return Mesh(mesh.devices, mesh.axis_names)
