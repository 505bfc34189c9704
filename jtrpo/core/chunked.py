"""A function of a batch computed chunk by chunk, so that a chunk sets the memory that it needs."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from jtrpo.core.check import check_callable, check_count, check_static


def chunked(
    function: Callable[[PyTree, PyTree], Any], chunk_size: int, *, sequence_length: int = 1
) -> Callable[[PyTree, PyTree], Any]:
    """``function(params, inputs)`` over a batch, ``chunk_size`` samples at a time.

    The result, its ``J v`` and its ``J^T u`` are those of the whole batch, to rounding. What a network computes on its way is
    kept for one chunk and computed anew in each derivative: the memory of an update grows with the batch's inputs and outputs
    alone, and each product costs a forward pass more. For :func:`trpo_update`, say, ``chunked(policy, 4096)``.

    Args:
        function: pure, from parameters and a pytree with leading axis ``B`` to another, each sample by itself. Parts of the
            output may lack that axis.
        chunk_size: samples of a chunk; the last one may be smaller. Static.
        sequence_length: samples that stay together; a chunk is as many whole sequences as fit, and at least one. Static.

    Raises:
        TypeError: no function, or a size that is no whole number.
        ValueError: a size below 1; and, when the result is called, inputs that do not share a leading axis, or whose number is
            no multiple of ``sequence_length``.

    Examples:
        >>> policy = lambda params, observation: jtrpo.Categorical(observation @ params)
        >>> observation = jnp.arange(10.0).reshape(5, 2)
        >>> whole, same = (each(jnp.eye(2), observation) for each in (policy, jtrpo.chunked(policy, 2)))
        >>> bool((whole.logits == same.logits).all())
        True

    Source: Chen et al. 2016, Training Deep Nets with Sublinear Memory Cost, https://arxiv.org/abs/1604.06174.
    """
    check_callable("function", function, "(params, inputs) -> output", takes=2)
    for name, value in (("chunk_size", chunk_size), ("sequence_length", sequence_length)):
        check_static(name, value, int)
        check_count(name, value, at_least=1)
    size = max(1, chunk_size // sequence_length) * sequence_length

    def whole(params: PyTree, inputs: PyTree) -> Any:
        shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(inputs)]
        if len({shape[:1] for shape in shapes}) != 1 or () in shapes:
            raise ValueError(f"inputs must be arrays that share a leading axis, the batch; got shapes {shapes}")
        number = shapes[0][0]
        if number % sequence_length:
            raise ValueError(
                f"inputs hold {number} samples, no whole number of sequences of sequence_length={sequence_length}"
            )
        if number <= size:
            return function(params, inputs)
        count = number // size
        even = count * size
        chunks = jax.tree.map(lambda x: jnp.reshape(x[:even], (count, size, *x.shape[1:])), inputs)
        again = jax.checkpoint(function, prevent_cse=False)
        each = jax.lax.map(lambda chunk: again(params, chunk), chunks)
        some = (jax.tree.map(lambda x, n=n: x[: n * sequence_length], inputs) for n in (1, 2))
        one, two = (jax.eval_shape(function, params, few) for few in some)
        batched = jax.tree.map(lambda x, y: x.shape != y.shape, one, two)
        joined = jax.tree.map(lambda axis, x: jnp.reshape(x, (even, *x.shape[2:])) if axis else x[0], batched, each)
        if even == number:
            return joined
        rest = function(params, jax.tree.map(lambda x: x[even:], inputs))
        return jax.tree.map(lambda axis, x, y: jnp.concatenate([x, y]) if axis else x, batched, joined, rest)

    return whole
