"""The one protocol of what can be trained on."""

from typing import Any, NamedTuple, Protocol, runtime_checkable

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
    """

    observation: PyTree
    state: PyTree
    reward: Float[Array, ""]
    terminated: Bool[Array, ""]
    truncated: Bool[Array, ""]
    final_observation: PyTree


@runtime_checkable
class Environment(Protocol):
    """A pure, jittable environment. One environment, without a batch axis: the trainer maps it over many.

    Spaces are those of ``gymnasium.spaces``. Keys are consumed.
    """

    observation_space: spaces.Space
    action_space: spaces.Space

    def reset(self, key: PRNGKeyArray) -> tuple[PyTree, PyTree]:
        """Begin an episode: ``(observation, state)``."""
        ...

    def step(self, key: PRNGKeyArray, state: PyTree, action: Any) -> EnvStep:
        """Act once."""
        ...
