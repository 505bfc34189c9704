"""Adapter for gymnax environments (gymnax >= 1.0.1)."""

import difflib
from typing import Any

import jax
import numpy as np
from gymnasium import spaces
from jaxtyping import PRNGKeyArray, PyTree

from jtrpo.envs.protocol import EnvStep


class GymnaxEnvironment:
    """A gymnax environment with its parameters, behind the :class:`Environment` protocol.

    Args:
        env: gymnax environment (or wrapper) with the six-value ``step``.
        params: its parameters; ``None``: its default ones.
    """

    def __init__(self, env: Any, params: Any = None):
        self.env = env
        self.params = env.default_params if params is None else params
        self.observation_space = gymnasium_space(env.observation_space(self.params))
        self.max_episode_steps = int(self.params.max_steps_in_episode)
        self.action_space = gymnasium_space(env.action_space(self.params))

    def __repr__(self) -> str:
        return f"GymnaxEnvironment({self.env.name})"

    def reset(self, key: PRNGKeyArray) -> tuple[PyTree, PyTree]:
        """Begin an episode: ``(observation, state)``."""
        return self.env.reset(key, self.params)

    def step(self, key: PRNGKeyArray, state: PyTree, action: Any) -> EnvStep:
        """Act once; gymnax resets by itself and hands the final observation over in ``info``."""
        observation, state, reward, terminated, truncated, info = self.env.step(key, state, action, self.params)
        return EnvStep(observation, state, reward, terminated, truncated, info["final_observation"])


def environment_ids() -> list[str]:
    """All ids that gymnax knows, those registered by the user included."""
    import gymnax

    return list(gymnax.registered_envs)


def make_gymnax(env_id: str) -> GymnaxEnvironment:
    """Make an environment by its id.

    Raises:
        ValueError: an unknown id (the nearest right ones are named), or one that cannot be made.
    """
    import gymnax

    if env_id not in gymnax.registered_envs:
        folded = {known.lower(): known for known in gymnax.registered_envs}
        near = [folded[name] for name in difflib.get_close_matches(env_id.lower(), folded, n=3, cutoff=0.5)]
        hint = f"did you mean {' or '.join(near)}?" if near else "`jtrpo envs` lists all ids."
        raise ValueError(f"env={env_id!r} is not an environment id; {hint}")
    try:
        return GymnaxEnvironment(*gymnax.make(env_id))
    except OSError as error:  # an environment that downloads its data
        raise ValueError(
            f"env={env_id!r} cannot be made: it loads data from outside, which failed ({error})"
        ) from error


def gymnasium_space(space: Any) -> spaces.Space:
    """Turn a gymnax space into the gymnasium space of the same meaning.

    Raises:
        TypeError: a space of an unknown kind.
    """
    kind = type(space).__name__
    if isinstance(space, spaces.Space):
        return space
    if kind == "Discrete":
        return spaces.Discrete(int(space.n))
    if kind == "Box":
        dtype = np.dtype(space.dtype)
        low, high = (
            np.broadcast_to(np.asarray(jax.device_get(x), dtype), space.shape) for x in (space.low, space.high)
        )
        return spaces.Box(low, high, tuple(space.shape), dtype)
    if kind == "Dict":
        return spaces.Dict({name: gymnasium_space(child) for name, child in space.spaces.items()})
    if kind == "Tuple":
        return spaces.Tuple([gymnasium_space(child) for child in space.spaces])
    raise TypeError(f"space {space!r} of type {kind} is not supported; give Box, Discrete, Dict or Tuple")
