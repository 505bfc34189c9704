import jax.numpy as jnp
import numpy as np

from jtrpo.training.normalization import init_statistics, normalize, standard_deviation, update_statistics


def test_merge_equals_numpy_on_the_concatenated_data():
    generator = np.random.default_rng(0)
    parts = [
        {
            "a": (generator.normal(50.0, 3.0, (n, 5, 2))).astype(np.float32),
            "b": generator.normal(size=(n, 5)).astype(np.float32),
        }
        for n in (1, 7, 30)
    ]
    statistics = init_statistics({"a": jnp.zeros((2,)), "b": jnp.zeros(())})
    for part in parts:
        statistics = update_statistics(statistics, part)
    a = np.concatenate([part["a"] for part in parts]).reshape(-1, 2).astype(np.float64)
    b = np.concatenate([part["b"] for part in parts]).reshape(-1).astype(np.float64)
    assert float(statistics.samples) == len(a)
    np.testing.assert_allclose(statistics.mean["a"], a.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(standard_deviation(statistics)["a"], a.std(axis=0), rtol=1e-5)
    np.testing.assert_allclose(standard_deviation(statistics)["b"], b.std(), rtol=1e-5)


def test_without_samples_nothing_changes_and_constants_stay_finite():
    statistics = init_statistics(jnp.zeros((3,)))
    x = jnp.array([[1.0, -2.0, 3.0]])
    np.testing.assert_array_equal(normalize(statistics, x), x)
    statistics = update_statistics(statistics, jnp.ones((4, 3)))
    np.testing.assert_array_equal(normalize(statistics, jnp.ones((1, 3))), 0.0)
    assert jnp.all(jnp.abs(normalize(statistics, x)) <= 10.0)
