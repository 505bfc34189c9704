"""A linear softmax policy, a batch with costs, and a whole update of it in NumPy and float64, all matrices dense."""

import jax
import jax.numpy as jnp
import numpy as np

from jtrpo import Batch, Categorical, cpo_update, pcpo_update

B, OBSERVATION, ACTIONS = 30, 3, 3
STATIC = ("policy", "fisher_fraction", "normalize_advantage", "projection", "sequence_length", "axis_name")
NUMBERS = {"max_kl": 0.01, "cg_iterations": 30, "cg_damping": 1e-3, "cg_tolerance": 1e-12}  # passed, and so traced

jitted = {
    "cpo": jax.jit(cpo_update, static_argnames=STATIC[:3]),
    "pcpo": jax.jit(pcpo_update, static_argnames=STATIC[:4]),
}


def policy(params, observation):
    return Categorical(observation @ params)


def make_problem(constraints=None, seed=0):
    """Parameters and a batch in NumPy; one sample has no weight, ``constraints`` is K, or ``None`` for ``[B]``."""
    rng = np.random.default_rng(seed)
    params, observation = rng.normal(size=(OBSERVATION, ACTIONS)), rng.normal(size=(B, OBSERVATION))
    action, advantage = rng.integers(ACTIONS, size=B), rng.normal(size=B)
    shape = (B,) if constraints is None else (B, constraints)
    cost = 0.5 * advantage.reshape(B, *[1] * (len(shape) - 1)) + 0.5 * rng.normal(size=shape)
    weight = rng.uniform(0.5, 1.5, size=B)
    weight[3] = 0
    return params, Batch(observation, action, advantage, weight=weight, cost_advantage=cost)


def update(name, params, batch, **settings):
    numbers = {key: value for key, value in (NUMBERS | settings).items() if key not in STATIC}
    static = {key: value for key, value in settings.items() if key in STATIC}
    return jitted[name](policy, params, batch, **numbers, **static)


class Reference:
    """Gradients, the damped Fisher matrix and the measurements of the problem above."""

    def __init__(self, params, batch):
        self.params, self.batch = params, batch
        self.weight = batch.weight / batch.weight.sum()
        self.advantage = self.centred(batch.advantage)
        self.advantage = self.advantage / np.sqrt(self.weight @ self.advantage**2)
        self.cost = self.centred(batch.cost_advantage)
        p = np.exp(self.log_p(params))
        score = np.eye(ACTIONS)[batch.action] - p
        features = np.einsum("bi,bk->bik", batch.observation, score).reshape(B, -1)
        self.g, self.b = ((self.weight * x.T) @ features for x in (self.advantage, self.cost))
        inner = np.einsum("bk,kl->bkl", p, np.eye(ACTIONS)) - np.einsum("bk,bl->bkl", p, p)
        fisher = np.einsum("b,bi,bj,bkl->ikjl", self.weight, batch.observation, batch.observation, inner)
        self.h = fisher.reshape(2 * [self.g.size]) + NUMBERS["cg_damping"] * np.eye(self.g.size)

    def centred(self, x):
        return x - self.weight @ x

    def log_p(self, params):
        z = self.batch.observation @ params
        return z - np.log(np.exp(z).sum(1, keepdims=True))

    def measure(self, step):
        """Changes of the objective and of the costs, and the KL."""
        old, new = self.log_p(self.params), self.log_p(self.params + step.reshape(self.params.shape))
        chosen = np.arange(B), self.batch.action
        change = self.weight * (np.exp(new[chosen] - old[chosen]) - 1)
        return change @ self.advantage, change @ self.cost, self.weight @ (np.exp(old) * (old - new)).sum(1)

    def corrected(self, solve, excess):
        """The step of ``solve(excess)``, aimed lower by what the cost at it is above its linear model."""
        step = solve(excess)
        return solve(excess + np.maximum(self.measure(step)[1] - self.b @ step, 0.0))

    def search(self, step, excess, max_kl=NUMBERS["max_kl"]):
        """The first acceptable candidate, or zeros."""
        for k in range(10):
            candidate = 0.8**k * step
            gain, rise, kl = self.measure(candidate)
            keeps = np.all(np.where(excess > 0, rise < 0, rise <= -excess))
            if kl <= max_kl and keeps and (gain > 0 or np.any(excess > 0)):
                return candidate
        return 0 * step


def as_float32(tree):
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32 if np.issubdtype(x.dtype, np.floating) else None), tree)


def many_problems(count, constraints=None):
    """A leading axis of ``count`` random problems in float32, with costs and limits at, above and below each other."""
    rng = np.random.default_rng(1)
    each = [make_problem(constraints, seed) for seed in range(20)]
    params, batch = jax.tree.map(lambda *x: np.stack([x[i % 20] for i in range(count)]), *each)
    shape = (count,) if constraints is None else (count, constraints)
    params = params * 10 ** rng.uniform(-1, 1, size=(count, 1, 1))
    scale = 10 ** rng.uniform(-4, 4, size=(count, *[1] * len(batch.cost_advantage.shape[1:])))
    batch = batch._replace(
        advantage=batch.advantage * np.sign(rng.normal(size=(count, 1))), cost_advantage=scale * batch.cost_advantage
    )
    limit = scale[:, 0].reshape(-1, *[1] * (len(shape) - 1)) * rng.uniform(size=shape)
    cost = np.maximum(limit + scale[:, 0].reshape(-1, *[1] * (len(shape) - 1)) * rng.normal(scale=0.2, size=shape), 0)
    cost = np.where(rng.uniform(size=shape) < 0.1, limit, cost)
    return as_float32((params, batch, cost, limit))
