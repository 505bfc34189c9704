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


class TabularMDP:
    """Three states, two actions, and an end: known transitions, rewards and policy, hence known values, all in float64.

    Next states are drawn by one uniform number and the inverse distribution function, so that under common random numbers
    branches move together.
    """

    observation_space = spaces.Box(0.0, 1.0, (3,), np.float32)
    action_space = DISCRETE
    transition = np.array(  # [state, action, next state], the last of which is the end
        [
            [[0.5, 0.3, 0.1, 0.1], [0.4, 0.3, 0.2, 0.1]],
            [[0.2, 0.5, 0.2, 0.1], [0.1, 0.5, 0.3, 0.1]],
            [[0.0, 0.2, 0.6, 0.2], [0.3, 0.1, 0.6, 0.0]],
        ]
    )
    reward = np.array([[0.0, -1.0], [1.0, 0.5], [4.0, 2.0]])
    start = np.array([0.5, 0.3, 0.2])

    def __init__(self, gamma, logits=None):
        self.gamma = gamma
        self.logits = np.array([[0.2, -0.4], [0.5, 0.0], [-0.3, 0.3]]) if logits is None else logits

    def policy(self):
        odds = np.exp(self.logits)
        return odds / odds.sum(axis=1, keepdims=True)

    def value(self):
        policy = self.policy()
        moves = np.einsum("sa,sax->sx", policy, self.transition[..., :3])
        return np.linalg.solve(np.eye(3) - self.gamma * moves, (policy * self.reward).sum(axis=1))

    def action_value(self):
        return self.reward + self.gamma * self.transition[..., :3] @ self.value()

    def expected_return(self):
        return self.start @ self.value()

    def visits(self):
        """Discounted visits of each state."""
        moves = np.einsum("sa,sax->sx", self.policy(), self.transition[..., :3])
        return np.linalg.solve(np.eye(3) - self.gamma * moves.T, self.start)

    def policy_gradient(self):
        """Derivative of the expected return by the logits, by central differences of the exact solution."""
        gradient, step = np.zeros((3, 2)), 1e-4
        for index in np.ndindex(3, 2):
            ends = []
            for multiple in (-2, -1, 1, 2):
                moved = self.logits.copy()
                moved[index] += multiple * step
                ends.append(TabularMDP(self.gamma, moved).expected_return())
            gradient[index] = (ends[0] - 8 * ends[1] + 8 * ends[2] - ends[3]) / (12 * step)
        return gradient

    def reset(self, key):
        state = jax.random.choice(key, 3, p=jnp.asarray(self.start))
        return self.observe(state), state

    def observe(self, state):
        return jax.nn.one_hot(state, 3)

    def step(self, key, state, action):
        move_key, reset_key = jax.random.split(key)
        edges = jnp.cumsum(jnp.asarray(self.transition), axis=-1)[state, action]
        following = jnp.sum(jax.random.uniform(move_key) >= edges[:3]).astype(state.dtype)
        ended = following == 3
        fresh, fresh_state = self.reset(reset_key)
        final = self.observe(following)
        return EnvStep(
            observation=jnp.where(ended, fresh, final),
            state=jnp.where(ended, fresh_state, following),
            reward=jnp.asarray(self.reward)[state, action],
            terminated=ended,
            truncated=jnp.bool_(False),
            final_observation=final,
        )
