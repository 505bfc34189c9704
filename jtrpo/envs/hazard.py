"""A small environment with a cost: a point that is to reach a goal, and whose straight way leads through a hazard."""

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jaxtyping import Array, Float, PRNGKeyArray

from jtrpo.envs.protocol import EnvStep


class Hazard:
    """Reach the goal on the right; a step inside of the disc in the middle costs 1.

    The point moves by a tenth of its action. The reward is how much nearer the goal has come, 1 on reaching it, which ends the
    episode, and -0.1 a step; the 60th step ends it, too. Straight ahead an episode costs about 10.

    Attributes:
        observation_space: position, and the way to the goal.
        action_space: velocity, in [-1, 1] each.
        max_episode_steps: 60.
    """

    observation_space = spaces.Box(-np.inf, np.inf, (4,))
    action_space = spaces.Box(-1.0, 1.0, (2,))
    max_episode_steps = 60

    START, GOAL, REACHED = (-0.8, 0.0), (0.8, 0.0), 0.1
    CENTRE, RADIUS = (0.0, 0.35), 0.6

    def reset(self, key: PRNGKeyArray) -> tuple[Float[Array, " 4"], dict]:
        """Begin on the left, a little above or below the middle."""
        offset = jax.random.uniform(key, (2,), minval=-0.1, maxval=0.1)
        state = {"position": jnp.array(self.START) + offset, "time": jnp.int32(0)}
        return self._observe(state), state

    def step(self, key: PRNGKeyArray, state: dict, action: Float[Array, " 2"]) -> EnvStep:
        """Move; where the episode ended, begin the next one."""
        position = jnp.clip(state["position"] + 0.1 * jnp.clip(action, -1.0, 1.0), -1.0, 1.0)
        after = {"position": position, "time": state["time"] + 1}
        reached = self._distance(position) < self.REACHED
        truncated = ~reached & (after["time"] >= self.max_episode_steps)
        observation, start = self.reset(key)
        first = lambda new, old: jnp.where(reached | truncated, new, old)  # noqa: E731
        return EnvStep(
            observation=first(observation, self._observe(after)),
            state=jax.tree.map(first, start, after),
            reward=self._distance(state["position"]) - self._distance(position) + reached - 0.1,
            terminated=reached,
            truncated=truncated,
            final_observation=self._observe(after),
            cost=(jnp.linalg.norm(position - jnp.array(self.CENTRE)) < self.RADIUS).astype(float),
        )

    def _observe(self, state: dict) -> Float[Array, " 4"]:
        return jnp.concatenate([state["position"], jnp.array(self.GOAL) - state["position"]])

    def _distance(self, position: Float[Array, " 2"]) -> Float[Array, ""]:
        return jnp.linalg.norm(jnp.array(self.GOAL) - position)
