"""``gymnasium:tests.tools.failing:Failing-v0``: CartPole whose simulator breaks in the second process of a run."""

import gymnasium
import jax
from gymnasium.envs.classic_control import CartPoleEnv


class Failing(CartPoleEnv):
    steps = 0

    def step(self, action):
        self.steps += 1
        if self.steps == 50 and jax.process_index() == 1:
            raise RuntimeError("the simulator broke")
        return super().step(action)


gymnasium.register("Failing-v0", Failing, max_episode_steps=500)
