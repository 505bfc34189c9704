"""A small categorical policy and a batch of its own actions, in float64."""

import jax
import jax.numpy as jnp
import numpy as np

from jtrpo import Batch, Categorical

B, OBSERVATION, HIDDEN, ACTIONS = 40, 3, 4, 3


def policy(params, observation):
    return Categorical(jnp.tanh(observation @ params["w"]) @ params["v"])


def make_problem(weighted=False):
    """Parameters and a batch, every seventh sample without weight where weights are asked for. Under x64."""
    rng = np.random.default_rng(0)
    params = {"w": rng.normal(size=(OBSERVATION, HIDDEN)), "v": rng.normal(size=(HIDDEN, ACTIONS))}
    params, observation = jax.tree.map(jnp.asarray, (params, rng.normal(size=(B, OBSERVATION))))
    action = policy(params, observation).sample(jax.random.key(0))
    advantage, weight = jnp.asarray(rng.normal(size=B)), jnp.asarray(rng.uniform(size=B)).at[::7].set(0.0)
    return params, Batch(observation, action, advantage, weight=weight if weighted else None)
