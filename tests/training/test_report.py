import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jtrpo
from jtrpo.training.report import make_report

CONFIG = jtrpo.TrainConfig("CartPole-v1", total_timesteps=192, num_envs=4, num_steps=16, hidden_sizes=(4,))


@pytest.fixture(scope="module")
def reported():
    """What was reported, and the result."""
    seen = []
    train = jax.jit(jtrpo.make_train(CONFIG, on_update=lambda update, metrics: seen.append((update, metrics))))
    result = train(jax.random.key(0))
    jax.effects_barrier()
    return seen, result


def test_each_update_is_reported_once_with_its_metrics(reported):
    seen, result = reported
    assert [update for update, _ in seen] == [1, 2, 3]
    together = jax.tree.map(lambda *leaves: np.stack(leaves), *(metrics for _, metrics in seen))
    jax.tree.map(np.testing.assert_array_equal, together, jax.device_get(result.metrics))


@pytest.mark.long
def test_who_reports_changes_nothing(reported):
    silent = jax.jit(jtrpo.make_train(CONFIG))(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, reported[1].metrics, silent.metrics)
    jax.tree.map(np.testing.assert_array_equal, reported[1].state.policy_params, silent.state.policy_params)


def counting(on_update):
    """Three updates that report their number and twice and thrice that."""
    report = make_report(on_update)

    def train(start):
        def step(update, _):
            report(update, {"twice": 2.0 * update, "thrice": 3 * update})
            return update + 1, None

        return jax.lax.scan(step, start, length=3)[0]

    return train


def test_under_vmap_it_is_called_once_for_all():
    seen = []
    train = counting(lambda update, metrics: seen.append((update, metrics)))
    jax.block_until_ready(jax.jit(jax.vmap(train))(jnp.array([1, 5])))
    jax.effects_barrier()
    assert [update for update, _ in seen] == [5, 6, 7]
    np.testing.assert_array_equal([metrics["twice"] for _, metrics in seen], [[2, 10], [4, 12], [6, 14]])
    np.testing.assert_array_equal([metrics["thrice"] for _, metrics in seen], [[3, 15], [6, 18], [9, 21]])


def test_what_it_raises_is_logged_once_and_never_reaches_the_training(caplog):
    def broken(update, metrics):
        raise RuntimeError("the picture broke")

    with caplog.at_level(logging.ERROR, "jtrpo"):
        assert jax.jit(counting(broken))(jnp.int32(1)) == 4
        jax.effects_barrier()
    assert len(caplog.records) == 1
    assert "training goes on" in caplog.text
    assert "the picture broke" in caplog.text
