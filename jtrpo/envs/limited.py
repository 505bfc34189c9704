"""Shorter episodes than the environment's own, for training from more starts."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from jtrpo.envs.check import check_reset, check_step
from jtrpo.envs.protocol import EnvStep


class Limited:
    """An environment whose episodes are cut after ``limit`` steps, as by a time limit.

    Args:
        environment: of :class:`jtrpo.Environment`.
        limit: steps of an episode.
    """

    def __init__(self, environment: Any, limit: int):
        self.environment, self.limit = environment, limit
        self.observation_space, self.action_space = environment.observation_space, environment.action_space

    def reset(self, key: PRNGKeyArray) -> tuple[PyTree, PyTree]:
        """Begin an episode; the state has the number of its steps beside the environment's own."""
        observation, state = self.environment.reset(key)
        return observation, (state, jnp.int32(0))

    def step_without_reset(self, key: PRNGKeyArray, state: PyTree, action: Any) -> EnvStep:
        """Act once, and stay where an episode ended; for environments that can."""
        own, steps = state
        return self._counted(self.environment.step_without_reset(key, own, action), steps + 1)

    def step(self, key: PRNGKeyArray, state: PyTree, action: Any) -> EnvStep:
        """Act once."""
        step_key, reset_key = jax.random.split(key)
        (own, steps), start = state, check_reset(self.observation_space, self.reset(reset_key))
        stays = getattr(self.environment, "step_without_reset", None)
        result = (stays or self.environment.step)(step_key, own, action)
        result = check_step(self.observation_space, own, start[0], result)
        ended = result.terminated | result.truncated
        result = self._counted(result, steps + 1)
        begins = result.terminated | result.truncated
        if not stays:  # where an episode ended by itself, the next one has begun
            own, steps = result.state
            result, begins = result._replace(state=(own, jnp.where(ended, 0, steps))), begins & ~ended
        going_on = (result.observation, result.state)
        observation, state = jax.tree.map(lambda new, old: jnp.where(begins, new, old), start, going_on)
        return result._replace(observation=observation, state=state)

    def _counted(self, result: EnvStep, steps: Int[Array, ""]) -> EnvStep:
        cut = jnp.logical_not(result.terminated) & (steps >= self.limit)
        return result._replace(truncated=jnp.logical_or(result.truncated, cut), state=(result.state, steps))
