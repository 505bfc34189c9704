"""Small policies, a batch of another policy nearby, and the compiled update that the tests of ``trpo_update`` share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtrpo import Batch, Categorical, DiagGaussian, trpo_update
from tests.core.reference import Reference

OBSERVATION, HIDDEN, ACTIONS, DIMENSIONS = 3, 4, 3, 2


def mlp(params, observation):
    return jnp.tanh(observation @ params["w1"] + params["b1"][None]) @ params["w2"] + params["b2"][None]


def categorical_policy(params, observation):
    return Categorical(mlp(params, observation))


def gaussian_policy(params, observation):
    return DiagGaussian(mlp(params, observation), params["log_std"])


POLICIES = {"categorical": categorical_policy, "gaussian": gaussian_policy}

# Every number is passed, and so traced: one compilation serves all tests of the same shapes.
NUMBERS = {
    "max_kl": 0.01,
    "cg_iterations": 10,
    "cg_damping": 0.1,
    "cg_tolerance": 1e-5,
    "backtrack_factor": 0.8,
    "max_backtracks": 10,
    "entropy_coefficient": 0.0,
}

jitted_update = jax.jit(trpo_update, static_argnames=("policy", "fisher_fraction", "normalize_advantage"))


def update(policy, params, batch, **settings):
    return jitted_update(policy, params, batch, **(NUMBERS | settings))


def make_params(kind, rng, scale=1.0):
    outputs = ACTIONS if kind == "categorical" else DIMENSIONS
    shapes = {"w1": (OBSERVATION, HIDDEN), "b1": (HIDDEN,), "w2": (HIDDEN, outputs), "b2": (outputs,)}
    shapes |= {} if kind == "categorical" else {"log_std": (outputs,)}
    params = {name: scale * rng.normal(size=shape) for name, shape in shapes.items()}
    if kind == "gaussian":
        params["log_std"] = np.clip(0.3 * params["log_std"], -1, 1)
    return params


def make_problem(kind, size=12, seed=0):
    """Parameters, and a batch collected by others nearby."""
    rng = np.random.default_rng(seed)
    params, behaviour = make_params(kind, rng), None
    behaviour = {name: value + 0.1 * rng.normal(size=value.shape) for name, value in params.items()}
    x = rng.normal(size=(size, OBSERVATION))
    action = rng.integers(ACTIONS, size=size) if kind == "categorical" else rng.normal(size=(size, DIMENSIONS))
    advantage = 2 + 3 * rng.normal(size=size)
    weight = rng.integers(0, 4, size=size).astype(float)
    weight[0], weight[1] = 0, 1
    return params, Batch(x, action, advantage, Reference(behaviour).log_prob(x, action), weight)


def as_float32(tree):
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32 if np.issubdtype(x.dtype, np.floating) else None), tree)


categorical_only = pytest.mark.parametrize("kind", ["categorical"], indirect=True)

gaussian_only = pytest.mark.parametrize("kind", ["gaussian"], indirect=True)


def assert_close(actual, expected, rtol):
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=rtol, atol=rtol), actual, expected)
