import jax
import jax.numpy as jnp
import numpy as np

from jtrpo.training.rollout import Trajectory
from jtrpo.training.samples import mask_invalid, sample_info

T, N = 4, 3


def whole():
    x = 1.0 + jnp.arange(T * N, dtype=float).reshape(T, N)
    never = jnp.zeros((T, N), bool)
    return Trajectory({"x": x[..., None]}, x.astype(int), -x, x, never, never, {"x": x[..., None]})


def test_a_trajectory_without_a_fault_comes_back_as_it_was():
    masked = mask_invalid(whole())
    assert masked.valid.all()
    assert jax.tree.all(jax.tree.map(np.array_equal, masked._replace(valid=()), whole()))


def test_zeros_stand_for_what_is_not_finite_and_only_a_broken_observation_cuts_the_episode():
    at = (1, 2)
    given = whole()
    cases = {
        "reward": given._replace(reward=given.reward.at[at].set(jnp.nan)),
        "log_prob": given._replace(log_prob=given.log_prob.at[at].set(-jnp.inf)),
        "observation": given._replace(observation={"x": given.observation["x"].at[at].set(jnp.inf)}),
        "final_observation": given._replace(final_observation={"x": given.final_observation["x"].at[at].set(jnp.nan)}),
    }
    for name, broken in cases.items():
        masked = mask_invalid(broken)
        expected = np.ones((T, N), bool)
        expected[at] = False
        np.testing.assert_array_equal(masked.valid, expected)
        for mine, original in zip(jax.tree.leaves(masked), jax.tree.leaves(given), strict=False):
            assert np.isfinite(mine).all()
            np.testing.assert_array_equal(mine[expected], original[expected])
        assert masked.truncated[at] == (name in ("log_prob", "observation"))
        kept = masked.observation["x"][at] == given.observation["x"][at]
        assert kept == (name in ("reward", "final_observation"))  # a memory goes on from what it has seen


def test_effective_share_and_largest_ratio_by_numpy():
    rng = np.random.default_rng(0)
    ratio, usable = np.exp(rng.normal(size=(T, N))).astype(np.float32), rng.random((T, N)) < 0.7
    info = sample_info(jnp.asarray(usable), jnp.asarray(usable[:, :1]), jnp.asarray(ratio))
    w = ratio[usable]
    np.testing.assert_allclose(info.effective_share, w.sum() ** 2 / (w**2).sum() / w.size, rtol=1e-5)
    np.testing.assert_allclose(info.ratio_max, w.max(), rtol=1e-6)
    assert info.invalid == (~usable[:, 0]).sum()


def test_equal_ratios_share_fully_and_huge_ones_do_not_overflow():
    usable = jnp.ones((T, N), bool)
    np.testing.assert_allclose(sample_info(usable, usable, jnp.full((T, N), 1e30)).effective_share, 1.0, rtol=1e-5)
    one = sample_info(usable, usable, jnp.full((T, N), 1e-30).at[0, 0].set(1e30))
    np.testing.assert_allclose([one.effective_share, one.ratio_max], [1 / (T * N), 1e30], rtol=1e-5)
    none = sample_info(~usable, ~usable, jnp.ones((T, N)))
    assert none.effective_share == 0
    assert none.invalid == T * N


def test_devices_count_together():
    rng = np.random.default_rng(1)
    ratio, usable = jnp.asarray(np.exp(rng.normal(size=(T, 4)))), jnp.asarray(rng.random((T, 4)) < 0.7)
    together = sample_info(usable, usable, ratio)
    halves = [jnp.stack(jnp.split(x, 2, axis=1)) for x in (usable, usable, ratio)]
    apart = jax.vmap(lambda *x: sample_info(*x, "devices"), axis_name="devices")(*halves)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, jnp.stack([b, b]), rtol=1e-5), apart, together)
