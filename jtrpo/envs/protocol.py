"""The one protocol of what can be trained on."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from gymnasium import spaces
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree


class EnvStep(NamedTuple):
    """One transition of one environment, which resets itself at an episode's end.

    Attributes:
        observation: what the policy sees next; after an episode's end, the first observation of the next episode.
        state: belongs to ``observation``; any pytree of arrays.
        reward: scalar.
        terminated: the episode ended by itself.
        truncated: the episode was cut off, by a time limit say; what would have followed still has a value.
        final_observation: what really followed the action, before any reset; equal to ``observation`` within an episode.
        metrics: numbers of the environment's own about this step, scalars by name; each episode's mean, sum and last value come
            out in ``Metrics.episode.metrics``.
        cost: of this step, a scalar, or a vector for several constraints; recorded and summed over the episode, and
            learned from with ``constraint_method`` only.
    """

    observation: PyTree
    state: PyTree
    reward: Float[Array, ""]
    terminated: Bool[Array, ""]
    truncated: Bool[Array, ""]
    final_observation: PyTree
    metrics: Mapping[str, Float[Array, ""]] = {}  # never written to
    cost: Any = None


@runtime_checkable
class Environment(Protocol):
    """A pure, jittable environment. One environment, without a batch axis: the trainer maps it over many.

    The state is any pytree of arrays and holds everything that the next step needs; shapes and dtypes never change. For a Dict,
    the observation is any mapping, NamedTuple or dataclass of its names. An environment resets itself where an episode ends, and
    says which end it was: see :class:`EnvStep`. A bounded Box of actions is stretched from the policy's [-1, 1] and clipped, so
    that ``step`` gets actions within bounds. Keys are consumed.

    Attributes:
        observation_space: of ``gymnasium.spaces``; a dictionary's ``"action_mask"`` holds the legal actions.
        action_space: of ``gymnasium.spaces``.
        max_episode_steps (int): optional: the time limit. With it, first episodes are cut at spread times (see
            ``staggered_resets``).
        policy_observation (tuple): optional: of a dictionary, the parts that the policy sees where
            ``TrainConfig(policy_observation=...)`` does not say; the critic sees all.
        step_without_reset: optional: ``step`` that stays where an episode ended, with what followed as its ``observation``; for
            ``TrainConfig(reset_pool=...)``, where a reset is expensive.

    Examples:
        Say the bit that is seen; an episode is one step:

        >>> from gymnasium import spaces
        >>> class Echo:
        ...     observation_space, action_space = spaces.Box(0.0, 1.0, (1,)), spaces.Discrete(2)
        ...
        ...     def reset(self, key):
        ...         bit = jax.random.bernoulli(key).astype(float)
        ...         return bit[None], bit
        ...
        ...     def step(self, key, state, action):
        ...         reward = (action == state).astype(float)
        ...         ended, cut_off = jnp.bool_(True), jnp.bool_(False)
        ...         return jtrpo.EnvStep(*self.reset(key), reward, ended, cut_off, state[None])
        >>> trainer = jtrpo.make_trainer(jtrpo.TrainConfig(Echo(), num_envs=4, num_steps=8))
    """

    observation_space: spaces.Space
    action_space: spaces.Space

    def reset(self, key: PRNGKeyArray) -> tuple[PyTree, PyTree]:
        """Begin an episode: ``(observation, state)``."""
        ...

    def step(self, key: PRNGKeyArray, state: PyTree, action: Any) -> EnvStep:
        """Act once."""
        ...


def time_limit(value: Any) -> int | None:
    """The most steps of an episode as a whole number; ``None`` for none, for infinity and for what is only known at run time."""
    if value is None or isinstance(value, jax.core.Tracer) or np.ndim(value) or not math.isfinite(value) or value < 1:
        return None
    return int(value)
