"""Theorem 1 of the TRPO paper, and how far the update that approximates it improves the return, with exact advantages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jtrpo

STATES, ACTIONS, GAMMA = 8, 3, 0.9
EXACT = {"cg_damping": 1e-6, "cg_iterations": 30, "cg_tolerance": 1e-8}


def policy(logits, observation):
    return jtrpo.Categorical(observation @ logits)


def exact(transition, reward, start, logits):
    """Return, advantages and discounted visits, by linear algebra."""
    chosen = jax.nn.softmax(logits)
    system = jnp.eye(STATES) - GAMMA * jnp.einsum("sa,sat->st", chosen, transition)
    value = jnp.linalg.solve(system, jnp.sum(chosen * reward, axis=1))
    advantage = reward + GAMMA * transition @ value - value[:, None]
    return start @ value, advantage, jnp.linalg.solve(system.T, start)


@jax.jit
@jax.vmap
def one_update(key, delta):
    """Of a random policy in a random problem: returns before and after, the surrogate and the bound's penalty, and the KL."""
    keys = jax.random.split(key, 4)
    transition = jax.random.dirichlet(keys[0], jnp.full(STATES, 0.3), (STATES, ACTIONS))
    reward, start = jax.random.uniform(keys[1], (STATES, ACTIONS)), jax.random.dirichlet(keys[2], jnp.ones(STATES))
    logits = jax.random.normal(keys[3], (STATES, ACTIONS))
    before, advantage, visits = exact(transition, reward, start, logits)
    state, action = jnp.divmod(jnp.arange(STATES * ACTIONS), ACTIONS)
    weight = (visits[:, None] * jax.nn.softmax(logits)).ravel()
    batch = jtrpo.Batch(jnp.eye(STATES)[state], action, advantage.ravel(), weight=weight)
    new, info = jtrpo.trpo_update(policy, logits, batch, max_kl=delta, **EXACT)
    after = exact(transition, reward, start, new)[0]
    surrogate = before + jnp.sum(visits[:, None] * jax.nn.softmax(new) * advantage)
    factor = 4 * jnp.abs(advantage).max() * GAMMA / (1 - GAMMA) ** 2
    largest = jtrpo.Categorical(logits).kl(jtrpo.Categorical(new)).max()
    return before, after, surrogate, factor * largest, info.kl


@pytest.fixture(scope="module")
def updates():
    with jax.enable_x64(True):
        delta = 10.0 ** jax.random.uniform(jax.random.key(1), (1_000,), minval=-4.0, maxval=0.0)
        return jax.device_get((delta, *one_update(jax.random.split(jax.random.key(0), 1_000), delta)))


def test_the_bound_holds_in_every_update_and_the_trust_region_too(updates):
    delta, _, after, surrogate, penalty, kl = updates
    assert (after >= surrogate - penalty - 1e-10).all()
    assert (after < surrogate).any()  # the surrogate alone is no bound
    assert (kl <= delta).all()
    assert (kl > 0.5 * delta).mean() > 0.9


def test_a_small_trust_region_improves_the_return(updates):
    delta, before, after, *_ = updates
    small = delta < 1e-2
    assert (after > before)[small].mean() > 0.99
    assert (after - before)[small].min() > -1e-3
    far = np.quantile((after - before)[~small], 0.5)
    assert far > np.quantile((after - before)[small], 0.5)  # and a larger one improves it more
