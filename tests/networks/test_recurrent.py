from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from jax.flatten_util import ravel_pytree

from jtrpo import Batch, conjugate_gradient, fisher_vector_product, trpo_update
from jtrpo.core.batch import normalize_advantages
from jtrpo.networks.actor_critic import Encoder, PolicyNetwork
from jtrpo.networks.heads import Head
from jtrpo.networks.recurrent import Sequences, empty_carry

SEQUENCES, LENGTH, OBSERVATION, WIDTH, ACTIONS = 3, 6, 2, 3, 2
BOX = spaces.Box(-1.0, 1.0, (OBSERVATION,))


def network(cell):
    return PolicyNetwork(Encoder(BOX, (WIDTH,), memory=cell), Head(spaces.Discrete(ACTIONS)))


def seen_sequences(cell):
    rng = np.random.default_rng(1)
    size = SEQUENCES * LENGTH
    start = np.zeros(size, bool)
    start[[2, 9, 12]] = True  # inside the first two sequences, and at the third's beginning
    carry = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), empty_carry(cell, WIDTH, SEQUENCES))
    repeated = jax.tree.map(lambda x: jnp.repeat(x, LENGTH, axis=0), carry)
    return Sequences(jnp.asarray(rng.normal(size=(size, OBSERVATION))), jnp.asarray(start), repeated, LENGTH)


def make(cell):
    seen = seen_sequences(cell)
    params = jax.jit(network(cell).init)(jax.random.key(0), seen)
    return network(cell).apply, jax.tree.map(lambda x: jnp.asarray(x, float) * 2 + 0.1, params), seen


def gru_by_hand(params, observations, start, h):
    """Logits of a GRU policy on one sequence, step by step, by the textbook's equations."""
    p = params["params"]
    layer = lambda d, x: x @ d["kernel"] + d.get("bias", 0.0)  # noqa: E731
    (torso,), (memory,) = ([p["encoder"][k] for k in p["encoder"] if k.startswith(n)] for n in ("Torso", "Memory"))
    (cell,) = jax.tree.leaves(memory, is_leaf=lambda x: isinstance(x, dict) and "hn" in x)
    logits = []
    for i in range(LENGTH):
        h = jnp.where(start[i], 0.0, h)
        x = jnp.tanh(layer(torso["MLP_0"]["Dense_0"], observations[i]))
        r = jax.nn.sigmoid(layer(cell["ir"], x) + layer(cell["hr"], h))
        z = jax.nn.sigmoid(layer(cell["iz"], x) + layer(cell["hz"], h))
        new = jnp.tanh(layer(cell["in"], x) + r * layer(cell["hn"], h))
        h = (1 - z) * new + z * h
        logits.append(layer(p["head"]["Dense_0"], h))
    return jnp.stack(logits)


def test_recurrent_fisher_product_equals_the_dense_one_with_episode_ends_inside_the_sequences(x64):
    policy, params, seen = make("gru")
    flat, unravel = ravel_pytree(params)
    weight = jnp.asarray(np.random.default_rng(2).uniform(size=SEQUENCES * LENGTH)).at[4].set(0.0)

    # The Hessian of a KL in its logits is diag(p) - p p^T, so the dense matrix needs first derivatives alone.
    @jax.jit
    def differentiate(x, *sequence):
        return gru_by_hand(unravel(x), *sequence), jax.jacobian(lambda x: gru_by_hand(unravel(x), *sequence))(x)

    begins = range(0, SEQUENCES * LENGTH, LENGTH)
    sequences = [(seen.observation[n : n + LENGTH], seen.start[n : n + LENGTH], seen.carry[n]) for n in begins]
    logits, jacobian = map(jnp.concatenate, zip(*(differentiate(flat, *each) for each in sequences), strict=True))
    np.testing.assert_allclose(jax.jit(policy)(params, seen).logits, logits, rtol=1e-12)
    p = jax.nn.softmax(logits)
    hessian = p[:, :, None] * jnp.eye(p.shape[1])[None] - p[:, :, None] * p[:, None, :]
    dense = jnp.einsum("b,bai,bac,bcj->ij", weight / weight.sum(), jacobian, hessian, jacobian)
    vector = jnp.cos(jnp.arange(flat.size, dtype=float))
    multiply = jax.jit(partial(fisher_vector_product, policy, sequence_length=LENGTH))
    product = multiply(params, seen, unravel(vector), weight=weight)
    expected = dense @ vector
    assert float(jnp.abs(ravel_pytree(product)[0] - expected).max() / jnp.abs(expected).max()) <= 1e-9


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_step_by_step_equals_whole_sequences(cell, x64):
    _, params, seen = make(cell)
    step = jax.jit(lambda *args: network(cell).apply(*args, method="output_and_carry"))
    whole, carries = network(cell).apply(params, seen, method="output_and_carry")
    by_sequence = lambda x: x.reshape(SEQUENCES, LENGTH, *x.shape[1:])  # noqa: E731
    carry = jax.tree.map(lambda x: by_sequence(x)[:, 0], seen.carry)
    for t in range(LENGTH):
        one = Sequences(by_sequence(seen.observation)[:, t], by_sequence(seen.start)[:, t], carry)
        distribution, carry = step(params, one)
        np.testing.assert_allclose(distribution.logits, by_sequence(whole.logits)[:, t], rtol=1e-10)
        for a, b in zip(jax.tree.leaves(carry), jax.tree.leaves(carries), strict=True):
            np.testing.assert_allclose(a, by_sequence(b)[:, t], rtol=1e-10)


def test_what_came_before_an_episodes_start_changes_nothing_after_it(x64):
    policy, params, seen = make("gru")
    other = Sequences(
        seen.observation.at[:2].add(5.0), seen.start, seen.carry, LENGTH
    )  # sequence 0 starts anew at step 2
    before, after = policy(params, seen).logits, policy(params, other).logits
    assert not jnp.allclose(before[:2], after[:2])
    np.testing.assert_array_equal(before[2:], after[2:])


@pytest.mark.slow
@pytest.mark.parametrize("filling", [pytest.param(3.0, marks=pytest.mark.long), np.nan])
def test_padded_steps_change_nothing(filling, x64):
    policy, params, seen = make("gru")
    rng = np.random.default_rng(3)
    size = SEQUENCES * LENGTH
    batch = Batch(seen, policy(params, seen).sample(jax.random.key(1)), jnp.asarray(rng.normal(size=size)))
    update = jax.jit(partial(trpo_update, policy), static_argnames="sequence_length")
    plain, info = update(params, batch, sequence_length=LENGTH)

    def pad(x, value):
        rows = x.reshape(SEQUENCES, LENGTH, *x.shape[1:])
        tail = jnp.full((SEQUENCES, 2, *x.shape[1:]), value, x.dtype)
        return jnp.concatenate([rows, tail], axis=1).reshape(-1, *x.shape[1:])

    carry = jnp.repeat(seen.carry[::LENGTH], LENGTH + 2, axis=0)
    padded = Batch(
        Sequences(pad(seen.observation, filling), pad(seen.start, False), carry, LENGTH + 2),
        pad(batch.action, 0),
        pad(batch.advantage, filling),
        weight=pad(jnp.ones(size), 0.0),
    )
    same, padded_info = update(params, padded, sequence_length=LENGTH + 2)
    assert info.accepted
    assert padded_info.accepted
    np.testing.assert_allclose(ravel_pytree(same)[0], ravel_pytree(plain)[0], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(padded_info.kl, info.kl, rtol=1e-9)


@pytest.mark.slow
def test_a_step_of_weight_zero_is_remembered_where_sequences_are_declared(x64):
    """Burn-in: the first steps do not count, and still fill the memory."""
    policy, params, seen = make("gru")
    weight = jnp.tile(jnp.array([0.0, 0, 1, 1, 1, 1]), SEQUENCES)
    batch = Batch(seen, policy(params, seen).sample(jax.random.key(1)), jnp.cos(jnp.arange(18.0)), weight=weight)
    _, info = trpo_update(policy, params, batch, sequence_length=LENGTH)
    logits = policy(params, seen).logits
    p = jax.nn.softmax(logits)
    entropy = jnp.average(-jnp.sum(p * jnp.log(p), axis=-1), weights=weight)
    _, refused = trpo_update(policy, params, batch._replace(advantage=jnp.zeros(18)), sequence_length=LENGTH)
    np.testing.assert_allclose(refused.entropy, entropy, rtol=1e-12)
    assert info.accepted


@pytest.mark.slow
def test_a_fraction_of_the_batch_is_whole_sequences(x64):
    policy, params, seen = make("gru")
    batch = Batch(seen, policy(params, seen).sample(jax.random.key(1)), jnp.cos(jnp.arange(18.0)))
    settings = {"sequence_length": LENGTH, "cg_iterations": 3}
    _, third = trpo_update(policy, params, batch, fisher_fraction=1 / 3, **settings)
    first = jax.tree.map(lambda x: x[:LENGTH], batch._replace(log_prob=None))
    direction_fisher = lambda v: fisher_vector_product(policy, params, first.observation, v, damping=0.1)  # noqa: E731
    advantage = normalize_advantages(batch.advantage, jnp.full(18, 1 / 18))
    g = jax.grad(lambda p: jnp.mean(advantage * policy(p, seen).log_prob(batch.action)))(params)
    _, info = conjugate_gradient(direction_fisher, g, max_iterations=3)
    np.testing.assert_allclose(third.cg_residual, info.relative_residual, rtol=1e-8)
