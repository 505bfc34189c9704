"""A small random constrained MDP with exact advantages, and its optimum by linear programming over occupancy measures."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

import jtrpo

STATES, ACTIONS, GAMMA = 4, 3, 0.9


class Problem:
    """Rewards and K costs per step; a policy is a table of logits ``[S, A]``; means are over its discounted occupancy."""

    def __init__(self, constraints=1, seed=0):
        rng = np.random.default_rng(seed)
        self.transition = rng.dirichlet(np.full(STATES, 0.5), size=(STATES, ACTIONS))
        self.reward = rng.uniform(size=(STATES, ACTIONS))
        self.cost = 0.5 * self.reward[..., None] + 0.5 * rng.uniform(size=(STATES, ACTIONS, constraints))
        self.start = np.full(STATES, 1 / STATES)

    def optimum(self, limits):
        """Largest mean reward with mean costs within the limits, if any, and the costs there."""
        flow = np.eye(STATES)[:, :, None] - GAMMA * self.transition.transpose(2, 0, 1)
        bounds = {} if limits is None else {"A_ub": self.cost.reshape(-1, self.cost.shape[-1]).T, "b_ub": limits}
        solution = scipy.optimize.linprog(
            -self.reward.ravel(), A_eq=flow.reshape(STATES, -1), b_eq=(1 - GAMMA) * self.start, **bounds
        )
        assert solution.status == 0
        return -solution.fun, solution.x @ self.cost.reshape(-1, self.cost.shape[-1])

    def evaluate(self, logits):
        """Occupancy ``[S, A]``, and of the reward and each cost the mean and the advantages, ``[1 + K]``, ``[S, A, 1 + K]``."""
        policy = jax.nn.softmax(logits)
        step = jnp.einsum("sa,sat->st", policy, self.transition)
        outcome = jnp.concatenate([self.reward[..., None], self.cost], -1)
        value = jnp.linalg.solve(jnp.eye(STATES) - GAMMA * step, jnp.einsum("sa,sak->sk", policy, outcome))
        advantage = outcome + GAMMA * jnp.einsum("sat,tk->sak", self.transition, value) - value[:, None]
        visits = jnp.linalg.solve(jnp.eye(STATES) - GAMMA * step.T, (1 - GAMMA) * self.start)
        return visits[:, None] * policy, (1 - GAMMA) * self.start @ value, advantage

    @partial(jax.jit, static_argnums=(0, 1, 3))
    def train(self, update, limits, updates, **settings):
        """Logits after so many updates from the uniform policy, and the mean reward and costs after each of them."""
        state, action = jnp.divmod(jnp.arange(STATES * ACTIONS), ACTIONS)
        policy = lambda logits, observation: jtrpo.Categorical(observation @ logits)  # noqa: E731

        def one(logits, _):
            occupancy, mean, advantage = self.evaluate(logits)
            reward_advantage, *cost_advantage = advantage.reshape(-1, advantage.shape[-1]).T
            costs = jnp.stack(cost_advantage, -1) if len(cost_advantage) > 1 else cost_advantage[0]
            batch = jtrpo.Batch(
                jnp.eye(STATES)[state], action, reward_advantage, weight=occupancy.ravel(), cost_advantage=costs
            )
            cost = mean[1:] if len(cost_advantage) > 1 else mean[1]
            logits, info = update(policy, logits, batch, cost=cost, cost_limit=limits, **settings)
            return logits, (self.evaluate(logits)[1], info)

        return jax.lax.scan(one, jnp.zeros((STATES, ACTIONS)), None, updates)[1]
