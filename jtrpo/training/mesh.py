"""A training spread over the devices of a mesh: each has its share of the environments, and all the same parameters.

Collection needs no communication between devices: XLA divides it along the environment axis. Learning runs under ``shard_map``,
and each of its means is a sum over the mesh, so the update, its KL and its line search are those of the whole batch. Random
numbers belong to environments and samples, not to devices: the number of devices changes the results by rounding only.
"""

import math
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


def divided(mesh: Mesh, axis: int) -> Any:
    """How arrays lie whose environments are along ``axis``."""
    return PartitionSpec(*[None] * axis, environment_axes(mesh))


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


def check_mesh(mesh: Any, num_envs: int, sampling: str) -> int:
    """Return the number of devices that environments are divided by, 1 without a mesh, or raise.

    Raises:
        TypeError: not a mesh.
        ValueError: no devices, vine sampling, or environments that cannot be divided equally.
    """
    if mesh is None:
        return 1
    if not isinstance(mesh, Mesh):
        raise TypeError(f"mesh must be a jax.sharding.Mesh, such as jax.make_mesh((2,), ('envs',)); got {mesh!r}")
    axes = environment_axes(mesh)
    if mesh.size == 0 or not axes:
        raise ValueError(
            f"mesh needs devices along at least one axis beside {SEEDS!r}; got {dict(mesh.shape)}: an axis 'envs', say"
        )
    if sampling == "vine":
        raise ValueError("sampling='vine' draws its states from the whole collection, on one device; leave mesh out")
    devices = math.prod(mesh.shape[axis] for axis in axes)
    if num_envs % devices:
        below = num_envs // devices * devices
        near = f"{below} or {below + devices}" if below else f"{devices}"
        raise ValueError(
            f"num_envs must be divisible by the mesh's {devices} devices along {', '.join(axes)}; got {num_envs}: {near} would do"
        )
    return devices
