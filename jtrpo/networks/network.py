"""The contract that policies and critics meet, whatever library they come from."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree

from jtrpo.networks.recurrent import Sequences, by_time, flatten_sequences


class Network(NamedTuple):
    """A policy or a critic of your own: pure functions of its parameters, which are a pytree of arrays.

    Observations come in batches, ``[B, ...]`` for each part, normalised where the settings say so. A policy gives a distribution
    over ``B`` actions (:class:`Distribution`), a critic ``[B]`` values. With a memory they give it back too, one step on:
    the library steps them through time, begins each episode with an empty memory, and takes derivatives through all of it.

    Attributes:
        init: ``(key, observation) -> params``, from a batch of one observation.
        apply: ``(params, observation) -> output``; with a memory ``(params, observation, memory) -> (output, memory)``.
        empty_memory: ``(B) -> memory`` before an episode's first step, a pytree with leading axis ``B``; ``None``: no memory.

    Examples:
        >>> linear = jtrpo.Network(
        ...     init=lambda key, observation: jnp.zeros((4, 2)),
        ...     apply=lambda params, observation: jtrpo.Categorical(observation @ params),
        ... )
        >>> config = jtrpo.TrainConfig("CartPole-v1", policy_network=linear)  # with the critic that is built in
        >>> trainer = jtrpo.make_trainer(config)
        >>> jax.eval_shape(trainer.init, jax.random.key(0)).policy_params.shape
        (4, 2)
    """

    init: Callable[[PRNGKeyArray, PyTree], PyTree]
    apply: Callable[..., Any]
    empty_memory: Callable[[int], PyTree] | None = None


class SequenceNetwork(NamedTuple):
    """The same for whole sequences: what the agent calls. Built-in networks have it in one pass over all but the recurrent layer.

    Its input is a batch of observations, or with a memory :class:`Sequences` of them.

    Attributes:
        init: ``(key, input) -> params``.
        apply: ``(params, input) -> (output, memory after each step)``; memory ``()`` without.
        empty_memory: ``(B) -> memory``; ``()`` without.
    """

    init: Callable[[PRNGKeyArray, PyTree], PyTree]
    apply: Callable[[PyTree, PyTree], tuple[Any, PyTree]]
    empty_memory: Callable[[int], PyTree]

    @property
    def has_memory(self) -> bool:
        """Whether something is carried from step to step."""
        return bool(jax.tree.leaves(jax.eval_shape(lambda: self.empty_memory(1))))


def no_memory(batch: int) -> tuple[()]:
    """The memory of a network that has none."""
    return ()


def over_sequences(network: Network) -> SequenceNetwork:
    """Step a network through time, with its empty memory at each start of an episode.

    Beside the memory it keeps a one for each environment that has taken a step: memory that was set to zero is an empty one,
    whatever the network's own looks like.
    """
    if network.empty_memory is None:
        return SequenceNetwork(network.init, lambda params, seen: (network.apply(params, seen), ()), no_memory)
    empty_memory = network.empty_memory

    def apply(params: PyTree, seen: Sequences) -> tuple[Any, PyTree]:
        def step(carry: tuple[Array, PyTree], inputs: tuple[PyTree, Array]) -> tuple[tuple, tuple]:
            (used, memory), (observation, start) = carry, inputs
            fresh = start | (used == 0)
            memory = jax.tree.map(
                lambda empty, x: jnp.where(fresh.reshape(-1, *[1] * (x.ndim - 1)), empty, x),
                empty_memory(start.shape[0]),
                memory,
            )
            output, memory = network.apply(params, observation, memory)
            carry = (jnp.ones_like(used), memory)
            return carry, (output, carry)

        if seen.length == 1:
            return step(seen.carry, (seen.observation, seen.start))[1]
        steps = jax.tree.map(lambda x: by_time(x, seen.length), (seen.observation, seen.start))
        carry = jax.tree.map(lambda x: by_time(x, seen.length)[0], seen.carry)
        return jax.tree.map(flatten_sequences, jax.lax.scan(step, carry, steps)[1])

    return SequenceNetwork(
        lambda key, seen: network.init(key, seen.observation),
        apply,
        lambda batch: (jnp.zeros((batch,)), empty_memory(batch)),
    )
