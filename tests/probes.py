"""Probe environments whose values and policies are known exactly."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv

from jtrpo import EnvStep

DISCRETE = spaces.Discrete(2)
CONTINUOUS = spaces.Box(-1.0, 1.0, (1,), np.float32)


class Probe:
    """Base: an observation of one number, a state of one counter."""

    observation_space = spaces.Box(-2.0, 2.0, (1,), np.float32)

    def __init__(self, action_space):
        self.action_space = action_space

    def reset(self, key):
        return self.observe(key, jnp.int32(0)), jnp.int32(0)

    def step(self, key, state, action):
        reward, terminated, truncated = self.outcome(key, state, action)
        next_key, reset_key = jax.random.split(key)
        final = self.observe(next_key, state + 1)
        done = terminated | truncated
        start, start_state = self.reset(reset_key)
        return EnvStep(
            observation=jnp.where(done, start, final),
            state=jnp.where(done, start_state, state + 1),
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            final_observation=final,
        )


class ConstantReward(Probe):
    """One step, reward 1: the value is 1."""

    def observe(self, key, state):
        return jnp.zeros((1,))

    def outcome(self, key, state, action):
        return jnp.float32(1.0), jnp.bool_(True), jnp.bool_(False)


class ObservedReward(Probe):
    """One step, the reward is the observation of -1 or 1, and so is the value."""

    def reset(self, key):
        sign = jax.random.choice(key, jnp.array([-1, 1]))
        return sign[None].astype(float), sign

    def observe(self, key, state):
        return jnp.zeros((1,))

    def outcome(self, key, state, action):
        return state.astype(float), jnp.bool_(True), jnp.bool_(False)


class TwoSteps(Probe):
    """Reward 1 at the second of two steps: values gamma and 1."""

    def observe(self, key, state):
        return jnp.full((1,), state, float)

    def outcome(self, key, state, action):
        return (state == 1).astype(float), state == 1, jnp.bool_(False)


class MatchObservation(ObservedReward):
    """One step, the best action is told by the observation of -1 or 1."""

    def outcome(self, key, state, action):
        if isinstance(self.action_space, spaces.Discrete):
            reward = ((action == 1) == (state == 1)).astype(float)
        else:
            reward = -jnp.square(action[0] - 0.5 * state)
        return reward, jnp.bool_(True), jnp.bool_(False)


class TruncatedOnly(Probe):
    """Reward 1 at every step, cut every 5 steps, never terminated: the value is the infinite sum 1 / (1 - gamma)."""

    def observe(self, key, state):
        return jnp.zeros((1,))

    def outcome(self, key, state, action):
        return jnp.float32(1.0), jnp.bool_(False), state >= 4


class Counting(gymnasium.Env):
    """On the host: episodes of ``length`` steps, in turn truncated and terminated, the observation 10 * episode + step."""

    observation_space = spaces.Box(-1e4, 1e4, (1,), np.float32)
    action_space = DISCRETE

    def __init__(self, length):
        self.length, self.episode, self.t = length, -1, 0

    def observe(self):
        return np.array([10 * self.episode + self.t], np.float32)

    def reset(self, *, seed=None, options=None):
        self.episode, self.t = 0 if seed is not None else self.episode + 1, 0
        return self.observe(), {}

    def step(self, action):
        reward, self.t = 100.0 * self.episode + self.t, self.t + 1
        last, truncated = self.t == self.length, self.episode % 2 == 0
        return self.observe(), reward, last and not truncated, last and truncated, {}


def counting(lengths, mode):
    return SyncVectorEnv([lambda length=length: Counting(length) for length in lengths], autoreset_mode=mode)
