"""A trained policy, ready to act."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from gymnasium import spaces
from jaxtyping import PRNGKeyArray, PyTree

from jtrpo.envs.actions import environment_action
from jtrpo.networks.network import Network
from jtrpo.tools.checkpoint import load
from jtrpo.training.agent import Memories, make_agent
from jtrpo.training.keys import one_key


def load_policy(
    directory: str | Path, env: Any = None, policy_network: Network | None = None, critic_network: Network | None = None
) -> Callable[..., tuple[Any, PyTree]]:
    """Load the policy of a run: its best checkpoint by evaluation, or its newest where none was evaluated.

        policy = jtrpo.load_policy("runs/cartpole")
        action, memory = policy(observation)                    # the most likely action
        action, memory = policy(observation, memory, key=key)   # goes on with a memory; samples

    Args:
        directory: what was given as ``checkpoint_dir``.
        env: environment, where the run's was an object, or an id that imports a module (``gymnasium:module:Id-v0``).
        policy_network: the run's, where it had one of your own.
        critic_network: likewise.

    Returns:
        A pure function ``(observation, memory=None, *, key=None) -> (action, memory)`` that calls a compiled one. Observations
        are raw, as the environment gives them, lists and numbers included: one, or a batch ``[N, ...]``; actions lie within the
        environment's bounds. Where no part of the observation is JAX's, the action is NumPy's, of the space's type, for
        ``env.step``. The memory is that of a recurrent policy; ``None`` begins an episode. An observation of another shape is
        refused with ``ValueError``.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: none is whole, or the environment is not known, or has other spaces, or a network is missing.
    """
    config, restored = load(directory, env, policy_network, critic_network)
    agent = make_agent(config)
    observation_space, action_space = config.environment.observation_space, config.environment.action_space

    @jax.jit
    def act(observation: PyTree, memory: PyTree, key: PRNGKeyArray | None) -> tuple[Any, PyTree]:
        distribution, memory = agent.policy(restored.state, observation, memory)
        action = distribution.mode() if key is None else distribution.sample(key)
        return environment_action(action_space, action, config.squash), memory

    def policy(observation: PyTree, memory: PyTree = None, *, key: PRNGKeyArray | None = None) -> tuple[Any, PyTree]:
        in_jax = any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(observation)) or isinstance(
            key, jax.core.Tracer
        )
        if key is not None:
            key = one_key(key)
        if memory is not None and not isinstance(memory, Memories):
            raise TypeError(
                f"memory must be what the policy returned beside its last action, or None; got {type(memory).__name__}"
            )
        observation = _as_arrays(observation_space, observation, "observation")
        batch = _batch_size(observation_space, observation)
        if batch is None:
            observation = jax.tree.map(lambda x: x[None], observation)
        elif batch == 0:  # act on one observation of zeros, to get the shape of an answer
            observation = jax.tree.map(lambda x: np.zeros((1, *x.shape[1:]), x.dtype), observation)
        action, memory = act(observation, memory, key)
        if batch is None:
            action = jax.tree.map(lambda x: x[0], action)
        elif batch == 0:
            action, memory = jax.tree.map(lambda x: x[:0], (action, memory))
        return action if in_jax else to_numpy(action_space, action), memory

    return policy


def _as_arrays(space: spaces.Space, observation: PyTree, name: str) -> PyTree:
    """The observation with an array for each part, of the type that the policy learned from.

    Raises:
        ValueError: it is not made like the space.
    """
    if isinstance(space, spaces.Dict):
        if not hasattr(observation, "keys") or set(observation.keys()) != set(space.spaces):
            given = sorted(map(str, observation.keys())) if hasattr(observation, "keys") else type(observation).__name__
            raise ValueError(f"{name} must be a dictionary with {', '.join(space.spaces)}; got {given}")
        return {part: _as_arrays(child, observation[part], f"{name}[{part!r}]") for part, child in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        if not isinstance(observation, tuple | list) or len(observation) != len(space.spaces):
            raise ValueError(f"{name} must be a tuple of {len(space.spaces)}; got {type(observation).__name__}")
        return tuple(
            _as_arrays(c, o, f"{name}[{i}]") for i, (c, o) in enumerate(zip(space.spaces, observation, strict=True))
        )
    dtype = jax.dtypes.canonicalize_dtype(space.dtype)
    try:
        return (
            observation.astype(dtype) if isinstance(observation, jax.Array) else np.asarray(observation).astype(dtype)
        )
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} must be numbers of shape {space.shape}, or a batch of them; got {observation!r}"
        ) from error


def _batch_size(space: spaces.Space, observation: PyTree, name: str = "observation") -> int | None:
    """How many observations; ``None``: one without a leading axis.

    Raises:
        ValueError: of another shape, or parts of which some are batches and some are not.
    """
    if isinstance(space, spaces.Dict | spaces.Tuple):
        parts = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
        sizes = {_batch_size(child, observation[part], f"{name}[{part!r}]") for part, child in parts}
        if len(sizes) > 1:
            raise ValueError(
                f"{name} must be one, or a batch in all its parts; got leading axes {sorted(map(str, sizes))}"
            )
        return sizes.pop() if sizes else None
    shape, wanted = np.shape(observation), tuple(space.shape or ())
    if shape == wanted:
        return None
    if shape[1:] == wanted and len(shape) == len(wanted) + 1:
        return shape[0]
    raise ValueError(f"{name} must have the shape {list(wanted)}, or [N, ...] for a batch of N; got {list(shape)}")


def to_numpy(space: spaces.Space, action: PyTree) -> PyTree:
    """The action as NumPy has it, of its space's own type."""
    if isinstance(space, spaces.Dict):
        return {name: to_numpy(child, action[name]) for name, child in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(to_numpy(child, part) for child, part in zip(space.spaces, action, strict=True))
    return np.array(action, space.dtype)[()]  # a NumPy scalar rather than an array without axes: it can be a key
