"""Episodes that end sooner than the environment's own, for training from more starts."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from jtrpo.envs.protocol import EnvStep
from jtrpo.envs.resetting import ResettingEnvironment


class Limited(ResettingEnvironment):
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
        if callable(getattr(self.environment, "step_without_reset", None)):
            return super().step(key, state, action)
        step_key, reset_key = jax.random.split(key)
        own, steps = state
        result = self.environment.step(step_key, own, action)
        ended = result.terminated | result.truncated  # and the environment has begun the next one by itself
        result = self._counted(result, steps + 1)
        own, steps = result.state
        going_on = (result.observation, (own, jnp.where(ended, 0, steps)))
        cut = result.truncated & ~ended
        observation, state = jax.tree.map(lambda new, old: jnp.where(cut, new, old), self.reset(reset_key), going_on)
        return result._replace(observation=observation, state=state)

    def _counted(self, result: EnvStep, steps: Int[Array, ""]) -> EnvStep:
        cut = ~result.terminated & (steps >= self.limit)
        return result._replace(truncated=result.truncated | cut, state=(result.state, steps))
