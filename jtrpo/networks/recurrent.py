"""Memory: a GRU or LSTM over sequences that may span several episodes."""

from dataclasses import dataclass, field
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

CELLS: dict[str, Any] = {"gru": nn.GRUCell, "lstm": nn.OptimizedLSTMCell}
"""Cells by the names that settings use."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Sequences:
    """What a recurrent network sees: sequences of one length, one after another along the leading axis ``B``.

    The same samples, the same shapes and the same code serve acting (``length`` 1) and learning from whole sequences.

    Attributes:
        observation: pytree, ``[B, ...]`` each; step ``t`` of sequence ``n`` stands at ``n * length + t``.
        start: whether the observation is the first of an episode: the memory is cleared before it, ``[B]``.
        carry: memory before the first step of the sequence, repeated along it, ``[B, H]`` each.
        length: steps of each sequence; static.
    """

    observation: PyTree
    start: Bool[Array, " B"]
    carry: PyTree
    length: int = field(default=1, metadata={"static": True})


def by_time(x: Array, length: int) -> Array:
    """``[B, ...] -> [length, N, ...]``: step by step, all sequences side by side."""
    return jnp.swapaxes(jnp.reshape(x, (-1, length, *x.shape[1:])), 0, 1)


def flatten_sequences(x: Array) -> Array:
    """``[length, N, ...] -> [B, ...]``: back from :func:`by_time`."""
    return jax.lax.collapse(jnp.swapaxes(x, 0, 1), 0, 2)


class Memory(nn.Module):
    """A recurrent layer, run along each sequence and cleared at the start of each episode.

    Attributes:
        cell: ``"gru"`` or ``"lstm"``.
        size: width of the carry and of the output.
    """

    cell: str
    size: int

    @nn.compact
    def __call__(self, features: Float[Array, "B F"], seen: Sequences) -> tuple[Float[Array, "B H"], PyTree]:
        """Return the output and the carry after each step."""
        carry = jax.tree.map(lambda x: by_time(x, seen.length)[0], seen.carry)
        scan = nn.scan(_Step, variable_broadcast="params", split_rngs={"params": False})
        _, outputs = scan(self.cell, self.size)(
            carry, (by_time(features, seen.length), by_time(seen.start, seen.length))
        )
        return jax.tree.map(flatten_sequences, outputs)


class _Step(nn.Module):
    cell: str
    size: int

    @nn.compact
    def __call__(self, carry: PyTree, step: tuple[Array, Array]) -> tuple[PyTree, tuple[Array, PyTree]]:
        features, start = step
        carry = jax.tree.map(lambda c: jnp.where(start[:, None], jnp.zeros_like(c), c), carry)
        carry, output = CELLS[self.cell](self.size)(carry, features)
        return carry, (output, carry)


def empty_carry(cell: str, size: int, batch: int) -> PyTree:
    """Memory of nothing, ``[batch, size]`` each."""
    zeros = jnp.zeros((batch, size))
    return (zeros, zeros) if cell == "lstm" else zeros
