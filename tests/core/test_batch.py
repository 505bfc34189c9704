import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtrpo import Batch
from jtrpo.core.batch import check_batch, mean_weights, normalize_advantages, stratified, weighted_sum


def good_batch(**changes):
    fields = {
        "observation": {"a": np.zeros((4, 2)), "b": np.zeros(4)},
        "action": np.zeros(4, int),
        "advantage": np.ones(4),
    }
    return Batch(**(fields | changes))


def test_check_batch_returns_the_batch_in_arrays():
    checked = check_batch(
        good_batch(log_prob=[0, 0, 0, 0], weight=np.ones(4, bool), advantage=jnp.ones(4, jnp.bfloat16))
    )
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(checked))
    assert checked.log_prob.dtype == checked.weight.dtype == checked.advantage.dtype == jnp.float32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"advantage": np.ones((2, 2))}, r"batch\.advantage must have shape \[B\], got \(2, 2\).*flatten"),
        ({"advantage": np.float32(1)}, r"batch\.advantage must have shape \[B\], got \(\)"),
        ({"advantage": np.ones(0)}, r"batch\.advantage is empty.*at least one"),
        ({"action": np.zeros(3, int)}, r"batch\.action must have the leading axis B = 4.*got shape \(3,\)"),
        (
            {"observation": {"a": np.zeros((4, 2)), "b": np.zeros((5, 4))}},
            r"batch\.observation\['b'\].*B = 4.*\(5, 4\)",
        ),
        ({"observation": np.float32(0)}, r"batch\.observation must have the leading axis B = 4.*\(\)"),
        ({"log_prob": np.zeros(5)}, r"batch\.log_prob.*B = 4.*\(5,\)"),
        ({"log_prob": np.zeros((4, 1))}, r"batch\.log_prob must have shape \[4\], got \(4, 1\)"),
        ({"weight": np.zeros(1)}, r"batch\.weight.*B = 4.*\(1,\)"),
        ({"weight": np.zeros((4, 4))}, r"batch\.weight must have shape \[4\], got \(4, 4\)"),
    ],
)
def test_check_batch_names_the_entry_its_shape_and_the_shape_wanted(changes, message):
    with pytest.raises(ValueError, match=message):
        check_batch(good_batch(**changes))


@pytest.mark.parametrize(
    ("size", "fraction", "count"), [(12, 0.25, 3), (10, 0.3, 3), (7, 1.0, 7), (1, 0.1, 1), (150_000, 0.3, 45_000)]
)
def test_stratified_takes_one_entry_of_each_stretch_of_every_leaf(size, fraction, count):
    x = jnp.arange(size)
    taken = stratified({"x": x, "y": jnp.stack([x, x], axis=1)}, None, size, fraction)[0]
    edges = np.arange(count + 1) * size // count
    assert (edges[:-1] <= taken["x"]).all()
    assert (taken["x"] < edges[1:]).all()
    np.testing.assert_array_equal(taken["y"], np.stack([taken["x"], taken["x"]], axis=1))


@pytest.mark.parametrize("fraction", [0.5, 0.25, 0.1])
@pytest.mark.parametrize("num_envs", [8, 10, 64])
def test_stratified_sees_every_environment_about_equally(fraction, num_envs):
    size = 64 * num_envs
    seen = np.bincount(np.asarray(stratified(jnp.arange(size), None, size, fraction)[0]) % num_envs, minlength=num_envs)
    assert seen.min() > 0  # every n-th would leave out three in four of them
    assert seen.max() <= 2.5 * seen.mean()


def test_mean_weights_sum_to_one_and_all_zero_stays_zero():
    np.testing.assert_allclose(mean_weights(None, 4), np.full(4, 0.25))
    np.testing.assert_allclose(mean_weights(jnp.array([1.0, 0.0, 3.0]), 3), [0.25, 0, 0.75])
    np.testing.assert_allclose(mean_weights(jnp.array([True, False, True]), 3), [0.5, 0, 0.5])
    np.testing.assert_array_equal(mean_weights(jnp.zeros(3), 3), np.zeros(3))


def test_mean_weights_sum_to_one_over_a_mapped_axis():
    weight = jnp.array([[1.0, 2.0], [0.0, 5.0]])
    over_both = jax.vmap(lambda w: mean_weights(w, 2, "i"), axis_name="i")(weight)
    np.testing.assert_allclose(over_both, weight / 8, rtol=1e-6)


def test_weighted_sum_leaves_out_a_nan_of_weight_zero_only():
    x = jnp.array([1.0, jnp.nan, 3.0])
    np.testing.assert_allclose(weighted_sum(x, jnp.array([0.5, 0.0, 0.5])), 2.0)
    assert jnp.isnan(weighted_sum(x, jnp.array([0.5, 0.1, 0.4])))


def test_gradient_of_weighted_sum_is_not_poisoned_by_a_factor_that_is_nan_at_weight_zero():
    factor, weight = jnp.array([1.0, jnp.nan, 3.0]), jnp.array([0.5, 0.0, 0.5])
    gradient = jax.grad(lambda x: weighted_sum(x * factor, weight))(jnp.ones(3))
    np.testing.assert_allclose(np.asarray(gradient)[[0, 2]], [0.5, 1.5])
    assert np.isfinite(weighted_sum(jnp.ones(3) * factor, weight))


@pytest.mark.usefixtures("x64")
def test_normalize_advantages_has_mean_zero_and_spread_one_over_the_valid_samples():
    rng = np.random.default_rng(0)
    advantage, weight = rng.normal(3, 5, size=8), rng.integers(0, 3, size=8).astype(float)
    assert (weight == 0).any()
    repeated = np.repeat(advantage, weight.astype(int))
    expected = (advantage - repeated.mean()) / (repeated.std() + 1e-8)
    np.testing.assert_allclose(normalize_advantages(advantage, mean_weights(weight, 8)), expected, rtol=1e-12)


@pytest.mark.parametrize("value", [0.0, 0.1, -7.3, 1e6, 1e-20])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_constant_advantages_become_exactly_zero(value, size):
    actual = normalize_advantages(jnp.full(size, value), mean_weights(None, size))
    np.testing.assert_array_equal(actual, np.zeros(size))


def test_small_but_real_differences_are_not_taken_for_a_constant():
    actual = normalize_advantages(jnp.array([1.0, 1.001]), mean_weights(None, 2))
    np.testing.assert_allclose(actual, [-1, 1], rtol=1e-3)


@pytest.mark.parametrize("unit", [1e-5, 1e19, 1e30, 3e37])
def test_the_unit_of_the_advantages_does_not_matter_until_they_overflow_themselves(unit):
    advantage = jnp.asarray(np.random.default_rng(0).normal(1, 2, 1000), jnp.float32)
    weight = mean_weights(None, 1000)
    expected = normalize_advantages(advantage, weight)
    np.testing.assert_allclose(normalize_advantages(unit * advantage, weight), expected, rtol=2e-3, atol=1e-5)
