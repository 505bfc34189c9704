"""What every update keeps, in float32: a step inside the trust region that improves, or the old parameters and the reason."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from jtrpo import Batch, Categorical, TRPOInfo, UpdateStatus, trpo_update
from tests.core.reference import Reference, reference_update
from tests.core.trpo_problem import (
    ACTIONS,
    NUMBERS,
    POLICIES,
    as_float32,
    assert_close,
    categorical_only,
    gaussian_only,
    make_params,
    make_problem,
    mlp,
    update,
)


def two_armed_policy(logits, observation):
    return Categorical(jnp.broadcast_to(logits[None], (observation.shape[0], 2)))


@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_two_armed_example_raises_the_probability_and_keeps_the_trust_region(both, scale):
    logits = jnp.log(jnp.array([0.20, 0.80])) + scale
    action, advantage = (jnp.array([0, 1]), jnp.array([10.0, 0.0])) if both else (jnp.array([0]), jnp.array([10.0]))
    batch = Batch(jnp.zeros((len(action), 1)), action, advantage)
    new, info = update(two_armed_policy, logits, batch, max_kl=0.01, normalize_advantage=False)
    p = np.exp(np.float64(new)) / np.exp(np.float64(new)).sum()
    assert 0.22 < p[0] < 0.27
    kl = 0.2 * np.log(0.2 / p[0]) + 0.8 * np.log(0.8 / p[1])
    assert 0.005 < kl <= 0.01 * (1 + 1e-4)
    np.testing.assert_allclose(info.kl, kl, rtol=1e-3)
    assert info.accepted


SIZE = 12

finite_scale = st.floats(-3, 3).map(lambda x: 10.0**x)


@hypothesis.given(
    kind=st.sampled_from(list(POLICIES)),
    seed=st.integers(0, 10_000),
    advantage_scale=finite_scale,
    params_scale=st.floats(0.1, 3),
    max_kl=st.floats(-5, 0.5).map(lambda x: 10.0**x),
    cg_damping=st.sampled_from([0.0, 1e-3, 0.1]),
    max_backtracks=st.sampled_from([1, 10]),
    padding=st.integers(0, SIZE - 2),
)
def test_an_accepted_step_is_finite_inside_the_trust_region_and_better_and_a_refused_one_is_none(
    kind, seed, advantage_scale, params_scale, max_kl, cg_damping, max_backtracks, padding
):
    params = as_float32(make_params(kind, np.random.default_rng(seed), params_scale))
    old = Reference(params)
    _, batch = make_problem(kind, SIZE, seed)
    if kind == "gaussian":  # actions of this policy, at any scale of its parameters
        mean, log_std = old.split(old.forward(batch.observation)[0])
        batch = batch._replace(action=mean + np.exp(log_std) * batch.action)
    w = (np.arange(SIZE) >= padding) / (SIZE - padding)
    batch = as_float32(batch._replace(advantage=advantage_scale * batch.advantage, weight=w))
    x, action = np.float64(batch.observation), np.asarray(batch.action)
    batch = batch._replace(log_prob=jnp.float32(old.log_prob(x, action)))
    new, info = update(
        POLICIES[kind], params, batch, max_kl=max_kl, cg_damping=cg_damping, max_backtracks=max_backtracks
    )
    assert info.accepted == (info.status == UpdateStatus.ACCEPTED)
    if not info.accepted:
        jax.tree.map(np.testing.assert_array_equal, new, params)
        assert (info.kl, info.kl_max, info.step_size, info.predicted_improvement) == (0, 0, 0, 0)
        assert info.objective_after == info.objective_before
        return
    after = Reference(new)
    assert np.all(np.isfinite(after.ravel(new)))
    kl = w @ old.kl(after, x)
    rounding = 1e-5 * (max_kl + np.sqrt(2 * max_kl))  # of float32 logits, through d(KL) ~ |d| delta
    assert kl <= max_kl + rounding
    assert info.kl <= np.float32(max_kl)
    assert abs(info.kl - kl) <= rounding
    assert info.kl_max >= info.kl * (1 - 1e-5)
    assert info.objective_after > info.objective_before
    advantage = np.float64(batch.advantage)
    advantage = (advantage - w @ advantage) / np.sqrt(w @ (advantage - w @ advantage) ** 2)
    ratio = np.exp(after.log_prob(x, action) - old.log_prob(x, action))
    improvement = w @ ((ratio - 1) * advantage)
    assert improvement > -1e-5 * (w @ np.abs(ratio * advantage))
    np.testing.assert_allclose(info.objective_after - info.objective_before, improvement, rtol=1e-3, atol=1e-5)


def assert_refused(result, params, status):
    new, info = result
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(np.asarray(a).view(np.uint32), np.asarray(b).view(np.uint32)),
        new,
        params,
    )
    assert not info.accepted
    assert UpdateStatus(int(info.status)) == status
    assert info.step_size == 0


def test_constant_advantages_change_nothing(problem32):
    policy, params, batch = problem32
    for value in (0.0, 0.1, -3.7, 1e5):
        constant = batch._replace(advantage=jnp.full_like(batch.advantage, value))
        assert_refused(update(policy, params, constant), params, UpdateStatus.ZERO_GRADIENT)


@gaussian_only
def test_one_sample_changes_nothing_when_normalised_and_improves_when_not(problem32):
    policy, params, batch = problem32
    one = jax.tree.map(lambda x: x[1:2], batch)
    assert_refused(update(policy, params, one), params, UpdateStatus.ZERO_GRADIENT)
    new, info = update(policy, params, one, normalize_advantage=False)
    assert info.accepted
    before, after = (Reference(p).log_prob(*map(np.asarray, one[:2]))[0] for p in (params, new))
    assert (after > before) == (one.advantage[0] > 0)


@categorical_only
def test_a_gradient_that_is_zero_changes_nothing(problem32):
    policy, params, batch = problem32

    def indifferent(params, observation):
        return policy(jax.tree.map(lambda p: 0 * p, params), observation)

    assert_refused(update(indifferent, params, batch), params, UpdateStatus.ZERO_GRADIENT)


def test_all_zero_weights_change_nothing(problem32):
    policy, params, batch = problem32
    result = update(policy, params, batch._replace(weight=jnp.zeros_like(batch.weight)))
    assert_refused(result, params, UpdateStatus.ZERO_GRADIENT)
    assert np.all(np.isfinite(jax.tree.leaves(result[1])))


def test_a_ratio_that_overflows_changes_nothing(problem32):
    policy, params, batch = problem32
    result = update(policy, params, batch._replace(log_prob=batch.log_prob.at[1].set(-1e4)))
    assert_refused(result, params, UpdateStatus.NON_FINITE_GRADIENT)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("entry", ["observation", "action", "advantage", "log_prob", "weight"])
def test_a_batch_entry_that_is_not_finite_changes_nothing_and_the_status_says_why(problem32, entry, value):
    policy, params, batch = problem32
    array = getattr(batch, entry)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        array = array.at[1].set(ACTIONS)  # no number that is not finite, but no such action either
    else:
        array = array.at[(1,) + (0,) * (array.ndim - 1)].set(value)
    result = update(policy, params, batch._replace(**{entry: array}))
    assert_refused(result, params, UpdateStatus.NON_FINITE_GRADIENT)


@pytest.mark.parametrize("entry", ["observation", "action", "advantage", "log_prob"])
def test_a_nan_in_a_sample_of_weight_zero_changes_nothing_of_the_update(problem32, entry):
    policy, params, batch = problem32
    array = getattr(batch, entry)
    assert batch.weight[0] == 0
    array = array.at[0].set(jnp.nan if jnp.issubdtype(array.dtype, jnp.floating) else ACTIONS)
    expected, _ = update(policy, params, batch)
    actual, info = update(policy, params, batch._replace(**{entry: array}))
    assert info.accepted
    assert_close(actual, expected, 1e-5)


@gaussian_only
def test_no_positive_curvature_changes_nothing(problem32):
    policy, params, batch = problem32

    class Flat(type(policy(params, batch.observation))):
        def kl(self, other):
            return -super().kl(other)

    jax.tree_util.register_pytree_node(Flat, lambda d: (tuple(d), None), lambda _, leaves: Flat(*leaves))
    result = update(lambda p, o: Flat(*policy(p, o)), params, batch, cg_damping=0.0)
    assert_refused(result, params, UpdateStatus.BAD_CURVATURE)


def test_masked_actions_stay_impossible_and_do_not_poison_the_update():
    params, batch = map(as_float32, make_problem("categorical"))
    legal = np.arange(ACTIONS)[None] != (np.asarray(batch.action)[:, None] + 1) % ACTIONS

    def policy(params, observation):
        return Categorical(jnp.where(observation["legal"], mlp(params, observation["x"]), -jnp.inf))

    masked = Batch({"x": batch.observation, "legal": legal}, batch.action, batch.advantage)
    new, info = update(policy, params, masked)
    assert info.accepted
    assert np.all(np.isfinite(jax.tree.leaves(info)))
    log_prob = jax.jit(lambda action: policy(new, masked.observation).log_prob(action))
    p = np.exp(np.stack([log_prob(np.full(12, action)) for action in range(ACTIONS)], axis=1))
    assert np.all(p[~legal] == 0)
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-5)


@gaussian_only
def test_a_second_call_compiles_nothing(problem32):
    policy, params, batch = problem32
    traces = 0

    def counted(params, observation):
        nonlocal traces
        traces += 1
        return policy(params, observation)

    step = jax.jit(lambda p, b, max_kl: trpo_update(counted, p, b, max_kl=max_kl))
    new, _ = step(params, batch, 0.01)
    once = traces
    again, _ = step(new, batch._replace(advantage=-batch.advantage), 0.02)
    assert traces == once > 0
    assert step._cache_size() == 1
    assert not np.array_equal(again["w1"], new["w1"])


@gaussian_only
@pytest.mark.parametrize("case", ["float64 batch", "float64 settings", "no weights"])
def test_float32_parameters_stay_float32_under_x64(problem32, x64, case):
    policy, params, batch = problem32
    _, wide = make_problem("gaussian")
    _, expected = reference_update(
        Reference(params), *wide._replace(weight=np.ones(12) if case == "no weights" else wide.weight)
    )
    batch = {"float64 batch": wide, "no weights": batch._replace(weight=None)}.get(case, batch)
    settings = {name: np.asarray(value) for name, value in NUMBERS.items()} if case == "float64 settings" else {}
    new, info = update(policy, params, batch, **settings)
    assert {leaf.dtype for leaf in jax.tree.leaves(new)} == {jnp.dtype(jnp.float32)}
    assert info.accepted
    np.testing.assert_allclose(info.objective_before, expected["objective_before"], rtol=1e-4)
    np.testing.assert_allclose(info.objective_after, expected["objective_after"], rtol=1e-2)
    np.testing.assert_allclose(info.kl, expected["kl"], rtol=1e-2)


def test_info_has_one_scalar_for_each_field(problem32):
    _, info = update(*problem32)
    assert isinstance(info, TRPOInfo)
    assert {np.shape(value) for value in info} == {()}
    assert info.accepted.dtype == bool
