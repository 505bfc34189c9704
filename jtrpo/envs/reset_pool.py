"""Starts that episodes share, for environments whose reset is expensive."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray, PyTree

from jtrpo.envs.protocol import Environment, EnvStep


class ResetPool:
    """An environment that begins its next episodes at random from starts that were made beforehand.

    Args:
        environment: with ``step_without_reset``.
        key: of the starts; consumed.
        size: their number.
    """

    def __init__(self, environment: Any, key: PRNGKeyArray, size: int):
        self.environment = environment
        self.observation_space, self.action_space = environment.observation_space, environment.action_space
        self._size, self._starts = size, jax.vmap(environment.reset)(jax.random.split(key, size))

    def reset(self, key: PRNGKeyArray) -> tuple[PyTree, PyTree]:
        """A start of its own."""
        return self.environment.reset(key)

    def step(self, key: PRNGKeyArray, state: PyTree, action: Any) -> EnvStep:
        """Act once; where the episode ends, one of the starts follows."""
        step_key, start_key = jax.random.split(key)
        result = self.environment.step_without_reset(step_key, state, action)
        done, which = result.terminated | result.truncated, jax.random.randint(start_key, (), 0, self._size)
        observation, state = jax.tree.map(
            lambda starts, following: jnp.where(done, starts[which], following),
            self._starts,
            (result.final_observation, result.state),
        )
        return result._replace(observation=observation, state=state)


def check_reset_pool(environment: Environment | Any) -> None:
    """Raise ``ValueError`` where an environment cannot step without resetting itself."""
    if not callable(getattr(environment, "step_without_reset", None)):
        raise ValueError(
            f"reset_pool needs an environment that can step without resetting itself, by a method step_without_reset (Brax's "
            f"have it); {environment} has none: leave reset_pool at 0"
        )
