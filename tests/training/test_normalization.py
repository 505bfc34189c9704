import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtrpo.training.normalization import (
    init_statistics,
    merge,
    moments,
    normalize,
    standard_deviation,
    update_statistics,
)


def test_statistics_merged_batch_by_batch_are_those_of_all_samples():
    rng = np.random.default_rng(0)
    parts = [
        {
            "a": jnp.asarray(rng.normal(3, 2, (5, 4, 2)), jnp.float32),
            "b": jnp.asarray(rng.normal(size=(5, 4)), jnp.float32),
        }
        for _ in range(6)
    ]
    statistics = init_statistics({"a": jnp.zeros((2,)), "b": jnp.zeros(())})
    for part in parts:
        statistics = update_statistics(statistics, part)
    a = np.concatenate([part["a"].reshape(-1, 2) for part in parts])
    b = np.concatenate([part["b"].reshape(-1) for part in parts])
    assert statistics.samples == 6 * 20
    np.testing.assert_allclose(statistics.mean["a"], a.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(standard_deviation(statistics)["a"], a.std(axis=0), rtol=1e-5)
    np.testing.assert_allclose(standard_deviation(statistics)["b"], b.std(), rtol=1e-5)


def test_samples_that_are_not_valid_do_not_count_not_even_a_nan():
    rng = np.random.default_rng(1)
    x, valid = rng.normal(3, 2, (7, 4)).astype(np.float32), rng.random(7) < 0.6
    given = np.where(valid[:, None], x, np.nan)
    some = update_statistics(init_statistics(jnp.zeros(4)), jnp.asarray(given), jnp.asarray(valid))
    expected = update_statistics(init_statistics(jnp.zeros(4)), jnp.asarray(x[valid]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), some, expected)
    none = update_statistics(some, jnp.asarray(given), jnp.zeros(7, bool))
    assert jax.tree.all(jax.tree.map(np.array_equal, none, some))


def test_normalize_is_the_identity_until_there_are_samples():
    x = jnp.array([[-300.0, 0.5, 7.0]])
    np.testing.assert_array_equal(normalize(init_statistics(jnp.zeros((3,))), x), x)


@pytest.mark.parametrize("unit", [1e-15, 1e-8, 1.0, 1e15])
def test_the_unit_of_what_is_measured_does_not_matter(unit):
    x = jnp.asarray(np.random.default_rng(0).normal(2, 0.5, (1000, 1)), jnp.float32)
    statistics = update_statistics(init_statistics(jnp.zeros(1)), unit * x)
    scaled = normalize(statistics, unit * x)
    np.testing.assert_allclose([scaled.mean(), scaled.std()], [0, 1], atol=1e-4)


@pytest.mark.parametrize("value", [0.0, 0.1, -7.3, 1e6, 1e-20])
def test_what_is_constant_to_rounding_is_not_blown_up(value):
    x = jnp.full((1000, 1), value)
    statistics = init_statistics(jnp.zeros(1))
    for _ in range(3):
        statistics = update_statistics(statistics, x)
    np.testing.assert_allclose(standard_deviation(statistics), [abs(value) or 1.0], rtol=1e-3)
    assert jnp.all(jnp.abs(normalize(statistics, x)) < 1e-4)


def test_samples_may_count_for_less():
    rng = np.random.default_rng(0)
    a, b = (jnp.asarray(rng.normal(i, 1 + i, (40, 1)), jnp.float32) for i in range(2))
    everything = jnp.ones(40, bool)
    old, new = (moments(init_statistics(jnp.zeros(1)), x, everything) for x in (a, b))
    twice = merge(merge(old, new, 0.5), new, 0.5)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), merge(old, new), merge(old, new, 1.0))
    np.testing.assert_allclose(twice.samples, 80)
    weights = np.concatenate([np.full(40, 1.0), np.full(40, 0.25)])
    quarter, x = merge(old, new, 0.25), np.concatenate([a, b])[:, 0]
    mean = np.average(x, weights=weights)
    np.testing.assert_allclose(quarter.mean, [mean], rtol=1e-5)
    np.testing.assert_allclose(
        standard_deviation(quarter), [np.average((x - mean) ** 2, weights=weights) ** 0.5], rtol=1e-5
    )
    assert jax.tree.all(jax.tree.map(np.array_equal, merge(old, new, 0.0), old))


def test_a_prior_is_forgotten_at_once_even_by_tiny_numbers():
    x = 1e-6 * jnp.asarray(np.random.default_rng(0).normal(3, 1, (100, 1)), jnp.float32)
    prior = init_statistics(jnp.zeros(1), samples=1e-12)
    np.testing.assert_array_equal(normalize(prior, x), x)
    np.testing.assert_allclose(standard_deviation(update_statistics(prior, x)), x.std(axis=0), rtol=1e-2)


def test_numbers_of_16_bits_are_summed_in_more():
    samples = jnp.array([-2e4, -2e4, 2e4, 2e4], jnp.float16)
    statistics = update_statistics(init_statistics(samples[0]), samples)
    assert (float(statistics.mean), float(statistics.std)) == (0.0, 2e4)


def test_devices_learn_the_statistics_of_all_samples():
    rng = np.random.default_rng(0)
    x, valid = jnp.asarray(rng.normal(3, 2, (2, 10, 3)), jnp.float32), jnp.asarray(rng.random((2, 10)) < 0.7)
    start = init_statistics(jnp.zeros(3))
    update = jax.vmap(lambda *part: update_statistics(start, *part, "devices"), axis_name="devices")
    apart = jax.jit(update)(x, valid)
    whole = jax.jit(update_statistics)(start, x.reshape(20, 3), valid.reshape(20))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, jnp.stack([b, b]), rtol=1e-5), apart, whole)
