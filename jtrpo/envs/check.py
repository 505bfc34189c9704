"""Checks of what an environment really returns against what it promises; shapes alone, at no cost at run time."""

from typing import Any

import jax.numpy as jnp
from gymnasium import spaces
from jaxtyping import PyTree

from jtrpo.envs.protocol import EnvStep


def check_observations(space: spaces.Space, observation: PyTree, name: str) -> None:
    """Raise unless a batch of observations ``[N, ...]`` has the shapes of its space.

    Raises:
        ValueError: another structure or shape.
    """
    if isinstance(space, spaces.Dict | spaces.Tuple):
        children = dict(space.spaces) if isinstance(space, spaces.Dict) else dict(enumerate(space.spaces))
        kind = dict if isinstance(space, spaces.Dict) else tuple
        given = dict(enumerate(observation)) if isinstance(observation, tuple) else observation
        if not isinstance(observation, kind) or set(given) != set(children):
            found = sorted(observation) if isinstance(observation, dict) else type(observation).__name__
            raise ValueError(
                f"the environment's {name} must be a {kind.__name__} of {list(children)}, as observation_space says; got {found}"
            )
        for key, child in children.items():
            check_observations(child, given[key], f"{name}[{key!r}]")
        return
    shape = jnp.shape(observation)[1:] if hasattr(observation, "shape") else None
    if shape != space.shape:
        got = f"shape {shape}" if shape is not None else f"{type(observation).__name__}"
        raise ValueError(
            f"the environment's {name} has {got}, but its observation_space says {space.shape}: mend one of them"
        )


def check_step(space: spaces.Space, result: Any) -> None:
    """Raise unless a batch of steps is an :class:`EnvStep` with the shapes that the protocol asks for.

    Raises:
        TypeError: not an :class:`EnvStep`.
        ValueError: another shape or kind of number.
    """
    if not isinstance(result, EnvStep):
        raise TypeError(f"the environment's step must return a jtrpo.EnvStep; got {type(result).__name__}")
    check_observations(space, result.observation, "observation")
    check_observations(space, result.final_observation, "final_observation")
    for name in ("reward", "terminated", "truncated"):
        value = jnp.asarray(getattr(result, name))
        if value.ndim != 1:
            raise ValueError(f"the environment's {name} must be a scalar; got an array of shape {value.shape[1:]}")
        if name != "reward" and value.dtype != bool:
            raise ValueError(
                f"the environment's {name} must be a bool; got {value.dtype}: compare, or use .astype(bool)"
            )
