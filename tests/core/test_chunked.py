import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jtrpo

SIZE = 60


def policy(params, observation):
    """Whose log_std has no batch axis."""
    return jtrpo.DiagGaussian(jnp.tanh(observation @ params["w"]) @ params["v"], params["log_std"])


@pytest.fixture(scope="module")
def problem():
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), 5)
        params = {
            "w": jax.random.normal(keys[0], (3, 64)),
            "v": jax.random.normal(keys[1], (64, 2)),
            "log_std": jnp.zeros(2),
        }
        observation = jax.random.normal(keys[2], (SIZE, 3))
        action = policy(params, observation).sample(keys[3])
        weight = (jnp.arange(SIZE) % 7 > 0).astype(float)
        return params, jtrpo.Batch(observation, action, jax.random.normal(keys[4], (SIZE,)), weight=weight)


def update(policy):
    return jax.jit(lambda params, batch: jtrpo.trpo_update(policy, params, batch, preconditioner="diagonal"))


@pytest.mark.parametrize("chunk_size", [7, 20, 60])
def test_an_update_in_chunks_is_that_of_the_whole_batch(problem, chunk_size, x64):
    whole, chunks = (update(each)(*problem) for each in (policy, jtrpo.chunked(policy, chunk_size)))
    assert whole[1].accepted
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-12), whole, chunks)


def test_a_chunk_of_one_sample_and_derivatives(problem, x64):
    params, batch = problem

    def log_prob(policy, params):
        return policy(params, batch.observation).log_prob(batch.action).sum()

    one = jtrpo.chunked(policy, 1)
    found = (jax.value_and_grad(lambda p, each=each: log_prob(each, p))(params) for each in (policy, one))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-10), *found)


def test_sequences_stay_together(x64):
    def cumulative(params, x):
        return params * jnp.cumsum(jnp.reshape(x, (-1, 5)), axis=1).reshape(-1)

    x = jax.random.normal(jax.random.key(0), (SIZE,))
    for chunk_size in (1, 5, 14, 35):
        few = jtrpo.chunked(cumulative, chunk_size, sequence_length=5)
        np.testing.assert_allclose(few(2.0, x), cumulative(2.0, x), rtol=1e-12)


def test_a_chunk_sets_the_memory(problem):
    params, batch = jax.tree.map(lambda x: x.astype(jnp.float32), problem)
    batch = jax.tree.map(lambda x: jnp.tile(x, (100, *[1] * (x.ndim - 1))), batch)
    needed = [
        update(each).lower(params, batch).compile().memory_analysis().temp_size_in_bytes
        for each in (policy, jtrpo.chunked(policy, 100))
    ]
    assert needed[1] < 0.4 * needed[0]


def test_wrong_input_is_named():
    for size, error in ((0, ValueError), (1.5, TypeError), (True, TypeError)):
        with pytest.raises(error, match="chunk_size"):
            jtrpo.chunked(policy, size)
    with pytest.raises(ValueError, match="sequence_length"):
        jtrpo.chunked(policy, 1, sequence_length=0)
    with pytest.raises(TypeError, match="function"):
        jtrpo.chunked(None, 1)
    few = jtrpo.chunked(policy, 4, sequence_length=2)
    for inputs in ((), {"a": jnp.zeros(6), "b": jnp.zeros(4)}, (jnp.zeros(6), 1.0)):
        with pytest.raises(ValueError, match="inputs must be arrays that share a leading axis"):
            few({}, inputs)
    with pytest.raises(ValueError, match="inputs hold 7 samples, no whole number of sequences of sequence_length=2"):
        few({}, jnp.zeros((7, 3)))
    with pytest.raises(ValueError, match="chunk_size"):
        jtrpo.TrainConfig("CartPole-v1", chunk_size=0)
