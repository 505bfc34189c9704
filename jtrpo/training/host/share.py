"""Environments that several processes step: each acts in a share of them by itself, and learning is from all.

Acting needs no word from another process. Random numbers are those that one process would draw: they are drawn for all
environments, and each process takes those of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from jtrpo.core.distributions import Distribution
from jtrpo.training.mesh import SEEDS, divided, shardings


@dataclass(frozen=True)
class Share:
    """The environments of this process: one of equal blocks, in the order of the mesh's devices. Without a mesh: all.

    Attributes:
        mesh: the devices of all processes.
        count: number of processes.
        index: of this one, from 0.
    """

    mesh: Mesh | None
    count: int = 1
    index: int = 0

    def rows(self, num_envs: int) -> slice:
        """Where this process's ``num_envs`` environments are among all."""
        return slice(self.index * num_envs, (self.index + 1) * num_envs)

    def here(self, tree: PyTree) -> PyTree:
        """The part of this process, on its first device, of arrays that are the same everywhere or divided by environments."""
        return tree if self.mesh is None else jax.tree.map(self._here, tree)

    def _here(self, x: Array) -> Array:
        if x.is_fully_replicated:
            return x.addressable_data(0)
        parts = {shard.index[0].start: np.asarray(shard.data) for shard in x.addressable_shards}
        assert self.mesh is not None
        return jax.device_put(np.concatenate([parts[start] for start in sorted(parts)]), self.mesh.local_devices[0])

    def join(self, tree: PyTree, axis: int = 0) -> PyTree:
        """Arrays of all environments, along ``axis``, from those of each process's own; each device keeps its part."""
        mesh = self.mesh
        if mesh is None:
            return tree
        canonical = lambda x: np.asarray(x, jax.dtypes.canonicalize_dtype(x.dtype))  # noqa: E731
        where = shardings(mesh, tree, divided(mesh, axis))
        return jax.tree.map(lambda x, s: jax.make_array_from_process_local_data(s, canonical(x)), tree, where)

    def gather(self, tree: PyTree, lengths: Int[np.ndarray, " processes"]) -> PyTree:
        """Arrays of all processes, one after the other, in each of them.

        Args:
            tree: this process's, of its own length.
            lengths: of each process's.
        """
        mesh, longest = self.mesh, max(lengths)
        if mesh is None:
            return tree
        devices = len(mesh.local_devices)

        def one_for_each_device(x: np.ndarray) -> np.ndarray:
            padded = np.zeros((longest, *x.shape[1:]), x.dtype)
            padded[: len(x)] = x
            return np.broadcast_to(padded, (devices, *padded.shape))

        def in_turn(x: Array) -> np.ndarray:
            return np.concatenate(
                [part[:length] for part, length in zip(np.asarray(x)[::devices], lengths, strict=True)]
            )

        everywhere = NamedSharding(mesh, PartitionSpec())
        joined = self.join(jax.tree.map(one_for_each_device, tree))
        return jax.tree.map(in_turn, jax.jit(lambda x: x, out_shardings=everywhere)(joined))

    def sample(
        self, distribution: Distribution, key: PRNGKeyArray, policy: Callable[[PyTree], Distribution], seen: PyTree
    ) -> PyTree:
        """Actions of ``distribution``, which is ``policy(seen)``, by these environments' part of the noise for all."""
        if self.count == 1:
            return distribution.sample(key)

        def repeat(x: Array, like: Any) -> Array:  # not all of a distribution's parameters are of single environments
            return jnp.tile(x, [size // own for size, own in zip(like.shape, x.shape, strict=True)])

        of_all = jax.eval_shape(lambda: policy(jax.tree.map(lambda x: jnp.repeat(x, self.count, axis=0), seen)))
        rows = self.rows(jax.tree.leaves(seen)[0].shape[0])
        return jax.tree.map(lambda x: x[rows], jax.tree.map(repeat, distribution, of_all).sample(key))


def share_of(mesh: Mesh | None) -> Share:
    """Share of the environments that this process steps.

    Raises:
        ValueError: an axis for seeds, or devices that do not give each process one block of environments.
    """
    if mesh is None:
        return Share(None)
    if SEEDS in mesh.axis_names:
        raise ValueError(
            f"mesh must have no axis {SEEDS!r} where environments are stepped in Python: one seed at a time"
        )
    owners = [device.process_index for device in mesh.devices.flat]
    processes = list(dict.fromkeys(owners))
    if owners != [process for process in processes for _ in range(len(owners) // len(processes))]:
        raise ValueError(
            f"mesh must have equally many devices of each process, side by side, where environments are stepped in Python; got "
            f"devices of the processes {owners}: Mesh(np.array(jax.devices()), ('envs',)) would do"
        )
    if jax.process_index() not in processes:
        raise ValueError(f"mesh must have devices of this process, {jax.process_index()}; got those of {processes}")
    return Share(mesh, len(processes), processes.index(jax.process_index()))
