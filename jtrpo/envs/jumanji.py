"""Adapter for Jumanji (``pip install "jtrpo[jumanji]"``)."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jaxtyping import PRNGKeyArray, PyTree

from jtrpo.envs.protocol import EnvStep, time_limit
from jtrpo.envs.resetting import ResettingEnvironment, check_known, check_stays, missing

PREFIX = "jumanji:"
MOST_CATEGORIES = 32
"""Whole numbers of no more values than this are categories, seen one-hot: what is on a board, say."""


class JumanjiEnvironment(ResettingEnvironment):
    """An environment of Jumanji behind the :class:`Environment` protocol.

    A last step of discount 0 ends an episode, of another discount cuts it off; nearly all of Jumanji's time limits are coded as
    ends. Several agents are one: their choices are one action, their rewards are summed. Where a mask is over combinations of
    choices, an action is one of all combinations.

    Args:
        env: made by ``jumanji.make(id)``.

    Raises:
        ValueError: an environment that resets itself.
    """

    metrics_by_name = True

    def __init__(self, env: Any):
        check_stays(env, "leave the wrapper out")
        self.env = env
        self.max_episode_steps = time_limit(getattr(env, "time_limit", None))
        observed, self.action_space = _space(env.observation_spec), _space(env.action_spec)
        self._masked = isinstance(observed, spaces.Dict) and "action_mask" in observed.spaces
        self._choices: tuple[int, ...] | None = None
        if isinstance(observed, spaces.Dict) and self._masked:
            shape = env.observation_spec.action_mask.shape
            observed = spaces.Dict({**observed.spaces, "action_mask": spaces.MultiBinary(math.prod(shape))})
            if isinstance(self.action_space, spaces.MultiDiscrete) and shape == tuple(self.action_space.nvec):
                self._choices, self.action_space = shape, spaces.Discrete(math.prod(shape))
            elif shape[:-1] == self.action_space.shape and shape[:-1]:  # MultiCVRP's numbers go one too far
                self.action_space = spaces.MultiDiscrete(np.full(shape[:-1], shape[-1]))
        self.observation_space = observed

    def __repr__(self) -> str:
        return f"JumanjiEnvironment({type(self.env).__name__})"

    def reset(self, key: PRNGKeyArray) -> tuple[PyTree, PyTree]:
        """Begin an episode: ``(observation, state)``."""
        state, timestep = self.env.reset(key)
        return self._seen(timestep.observation), state

    def step_without_reset(self, key: PRNGKeyArray, state: PyTree, action: Any) -> EnvStep:
        """Act once, and stay where an episode ended."""
        if self._choices is not None:
            action = jnp.stack(jnp.unravel_index(action, self._choices))
        state, timestep = self.env.step(state, action)
        observation, over = self._seen(timestep.observation), jnp.max(timestep.discount) == 0
        ends = (timestep.last() & over, timestep.last() & ~over)
        return EnvStep(observation, state, jnp.sum(timestep.reward), *ends, observation)

    def _seen(self, observation: Any) -> Any:
        if not self._masked:
            return observation
        return {**observation._asdict(), "action_mask": jnp.ravel(observation.action_mask)}


def make_jumanji(env_id: str) -> JumanjiEnvironment:
    """Make an environment by its id, such as ``jumanji:Game2048-v1``.

    Raises:
        ValueError: Jumanji is not installed, an unknown id, or data that cannot be loaded from outside.
    """
    try:
        import jumanji
    except ImportError as error:
        raise missing(env_id, "Jumanji", "jumanji", error) from error
    name = env_id.removeprefix(PREFIX)
    check_known(env_id, name, jumanji.registered_environments(), "Jumanji")
    try:
        return JumanjiEnvironment(jumanji.make(name))
    except OSError as error:  # Sokoban downloads its levels
        raise ValueError(f"env={env_id!r} loads data from outside, which failed ({error})") from error


def _space(spec: Any) -> spaces.Space:
    kind = type(spec).__name__
    if kind == "DiscreteArray":
        return spaces.Discrete(int(spec.num_values))
    if kind == "MultiDiscreteArray":
        return spaces.MultiDiscrete(np.asarray(spec.num_values))
    if kind not in ("Array", "BoundedArray"):  # several parts
        parts = {name: part for name, part in vars(spec).items() if hasattr(part, "generate_value")}
        return spaces.Dict({name: _space(part) for name, part in parts.items()})
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "b":
        return spaces.MultiBinary(spec.shape)
    whole = dtype.kind in "iu"
    ends = (np.iinfo(dtype).min, np.iinfo(dtype).max) if whole else (-np.inf, np.inf)
    bounds = (getattr(spec, name, end) for name, end in zip(("minimum", "maximum"), ends, strict=True))
    low, high = (np.broadcast_to(np.asarray(bound, dtype), spec.shape) for bound in bounds)
    values = high.astype(float) - low + 1
    if whole and spec.shape and np.all(values <= MOST_CATEGORIES):
        return spaces.MultiDiscrete(values.astype(int), start=low.astype(int))
    return spaces.Box(low, high, spec.shape, dtype)
