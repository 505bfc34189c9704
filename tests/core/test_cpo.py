"""The step within a limit against scipy, whole updates against NumPy, and what an update keeps whatever it is given."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import jtrpo
from jtrpo import CostCase, UpdateStatus
from jtrpo.core.cpo import limited_step
from tests.core.constrained_mdp import Problem
from tests.core.cost_problem import NUMBERS, Reference, as_float32, make_problem, many_problems, policy, update

FUNCTIONS = {"cpo": jtrpo.cpo_update, "pcpo": jtrpo.pcpo_update}
MAX_KL = 0.03
solve = jax.jit(limited_step)


def draw_model(seed, special=None):
    """Random g, b, H and excess; over the seeds every case occurs."""
    rng = np.random.default_rng(seed)
    g, b, root = rng.normal(size=4), rng.normal(size=4), rng.normal(size=(4, 4))
    h, excess = root @ root.T + 0.1 * np.eye(4), 0.3 * rng.normal()
    g = {"parallel": 2.0 * b, "opposed": -3.0 * b, "no reward": 0 * g}.get(special, g)
    return g, 0 * b if special == "no cost" else b, h, 0.0 if special == "at the limit" else excess


def step_of(g, b, h, excess):
    x_g, x_b = np.linalg.solve(h, g), np.linalg.solve(h, b)
    found = solve(g @ x_g, b @ x_g, b @ x_b, excess, MAX_KL)
    return found, found.along_reward * x_g + found.along_cost * x_b


SPECIAL = ["parallel", "opposed", "no reward", "at the limit"]


@pytest.mark.parametrize("special", [None, "no cost", *SPECIAL])
def test_the_step_is_the_one_that_scipy_finds(x64, special):
    cases = set()
    for seed in range(12):
        g, b, h, excess = draw_model(seed, special)
        found, v = step_of(g, b, h, excess)
        case = CostCase(int(found.case))
        cases.add(case)
        root = np.linalg.cholesky(h)  # w = root^T v, in which the trust region is a ball
        reward, cost = np.linalg.solve(root, g), np.linalg.solve(root, b)
        ball = {"type": "ineq", "fun": lambda w: 2 * MAX_KL - w @ w, "jac": lambda w: -2 * w}
        limit = {"type": "ineq", "fun": lambda w: -excess - cost @ w, "jac": lambda w: -cost}  # noqa: B023
        aim = cost if case == CostCase.RECOVERY else -reward
        inside = [ball] if case == CostCase.RECOVERY or special == "no cost" else [ball, limit]
        size = max(np.linalg.norm(aim), 1.0)
        best = scipy.optimize.minimize(
            lambda w: aim @ w / size,  # noqa: B023
            root.T @ v * 0.5,
            jac=lambda w: aim / size,  # noqa: B023
            constraints=inside,
            method="SLSQP",
            options={"ftol": 1e-16, "maxiter": 200},
        )
        w = root.T @ v
        assert all(each["fun"](best.x) > -1e-9 for each in inside)
        np.testing.assert_allclose(aim @ w / size, best.fun, rtol=0, atol=1e-8)
        assert w @ w <= 2 * MAX_KL + 1e-12
        if case == CostCase.RECOVERY:
            assert excess - np.sqrt(2 * MAX_KL) * np.linalg.norm(cost) > 0  # no point of the region keeps the limit
        elif special != "no cost":
            assert excess + b @ v <= 1e-12
        if (
            case != CostCase.RECOVERY
        ):  # stationary: g = lambda H v + nu b, with multipliers that belong to active limits
            np.testing.assert_allclose(found.kl_multiplier * h @ v + found.cost_multiplier * b, g, atol=1e-10)
            assert found.kl_multiplier >= 0
            assert found.cost_multiplier >= 0
            np.testing.assert_allclose(found.kl_multiplier * (w @ w - 2 * MAX_KL), 0, atol=1e-10)
            assert special == "no cost" or abs(found.cost_multiplier * (excess + b @ v)) < 1e-10
    assert special is not None or cases == set(CostCase)
    assert special != "no cost" or cases == {CostCase.UNCONSTRAINED}


def test_the_recovery_lowers_the_linear_model_and_no_number_is_nan_at_any_scale():
    rng = np.random.default_rng(0)
    q, s = 10.0 ** rng.uniform(-12, 12, size=(2, 1000))
    r = np.sqrt(q * s) * rng.uniform(-1.2, 1.2, size=1000)  # beyond Cauchy-Schwarz too, as inexact solves give it
    excess = np.where(rng.uniform(size=1000) < 0.1, 0.0, np.sqrt(s) * rng.normal(size=1000))
    found = jax.vmap(solve, (0, 0, 0, 0, None))(*map(jnp.float32, (q, r, s, excess)), MAX_KL)
    assert all(np.isfinite(x).all() for x in found)
    recovery = np.asarray(found.case) == CostCase.RECOVERY
    assert 20 < recovery.sum() < 980
    assert (excess[recovery] > 0).all()
    change = np.asarray(found.along_reward) * r + np.asarray(found.along_cost) * s
    assert (change[recovery] < 0).all()
    on_limit = np.asarray(found.case) == CostCase.ON_LIMIT
    np.testing.assert_allclose((change + excess)[on_limit] / np.sqrt(s[on_limit]), 0, atol=1e-5)


@pytest.mark.parametrize(
    ("excess", "case"),
    [(-0.5, CostCase.UNCONSTRAINED), (-0.02, CostCase.ON_LIMIT), (0.01, CostCase.ON_LIMIT), (0.6, CostCase.RECOVERY)],
)
def test_a_whole_update_against_numpy_by_the_papers_dual(x64, excess, case):
    params, batch = make_problem()
    reference, delta = Reference(params, batch), 2 * NUMBERS["max_kl"]
    x_g, x_b = (np.linalg.solve(reference.h, x) for x in (reference.g, reference.b))
    q, r, s = reference.g @ x_g, reference.g @ x_b, reference.b @ x_b

    def by_the_dual(c):  # the paper's theorem 2, its minimum turned into a maximum
        if c > 0 and c**2 / s > delta:
            return -np.sqrt(delta / s) * x_b
        nu = lambda x: max(0.0, (x * c + r) / s)  # noqa: E731
        value = lambda x: (q - 2 * nu(x) * r + nu(x) ** 2 * s) / (2 * x) - nu(x) * c + x * delta / 2  # noqa: E731
        x = scipy.optimize.minimize_scalar(
            lambda t: value(np.exp(t)), bounds=(-5, 9), method="bounded", options={"xatol": 1e-13}
        ).x
        return (x_g - nu(np.exp(x)) * x_b) / np.exp(x)

    expected = reference.search(reference.corrected(by_the_dual, excess), np.float64(excess))
    new, info = update("cpo", params, batch, cost=1.0, cost_limit=1.0 - excess)
    assert CostCase(int(info.case)) == case
    assert info.update.accepted
    np.testing.assert_allclose(np.ravel(new - params), expected, atol=2e-7)
    _, rise, kl = reference.measure(np.ravel(new - params))
    np.testing.assert_allclose(info.cost_after, 1.0 + rise, atol=1e-12)
    np.testing.assert_allclose(info.update.kl, kl, atol=1e-12)
    np.testing.assert_allclose(info.cost_gradient_norm, np.linalg.norm(reference.b), rtol=1e-10)
    assert (info.multiplier > 0) == (case == CostCase.ON_LIMIT)
    assert rise < 0 if excess > 0 else rise <= -excess


def test_a_thousand_updates_keep_the_trust_region_and_their_limits_or_change_nothing():
    params, batch, cost, limit = many_problems(1000)
    many = jax.jit(jax.vmap(lambda p, b, c, d: jtrpo.cpo_update(policy, p, b, cost=c, cost_limit=d, cg_damping=1e-2)))
    new, info = many(params, batch, cost, limit)
    accepted, above = np.asarray(info.update.accepted), np.asarray(cost > limit)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((new, info)))
    assert (info.update.kl <= np.float32(0.01)).all()
    assert accepted.mean() > 0.8
    assert {*np.unique(info.case)} == set(CostCase)
    np.testing.assert_array_equal(new[~accepted], params[~accepted])
    change = info.cost_after - info.cost_before
    tolerance = 1e-6 * (np.abs(cost) + np.abs(batch.cost_advantage).max(1))
    assert (change[accepted & above] < tolerance[accepted & above]).all()
    assert (info.cost_after <= limit + tolerance)[~above].all()
    better = info.update.objective_after > info.update.objective_before
    assert better[accepted & ~above].all()
    assert {*np.asarray(info.update.status)[~accepted]} <= {
        UpdateStatus.KL_EXCEEDED,
        UpdateStatus.NO_IMPROVEMENT,
        UpdateStatus.COST_EXCEEDED,
    }


@pytest.mark.parametrize("constant", [True, False])
def test_without_a_limit_that_matters_the_update_is_trpos(constant):
    params, batch = as_float32(make_problem())
    batch = batch._replace(cost_advantage=jnp.full_like(batch.advantage, 0.1)) if constant else batch
    expected, expected_info = jax.jit(partial(jtrpo.trpo_update, policy))(params, batch, **NUMBERS)
    actual, info = update("cpo", params, batch, cost=1.0, cost_limit=1.1 if constant else 1e6)
    np.testing.assert_array_equal(actual, expected)
    assert CostCase(int(info.case)) == CostCase.UNCONSTRAINED
    np.testing.assert_allclose(info.update.objective_after, expected_info.objective_after, rtol=1e-6)
    assert info.multiplier == 0
    if constant:
        assert (info.cost_gradient_norm, info.cost_after) == (0, 1)
        same, info = update("cpo", params, batch, cost=1.2, cost_limit=1.1)  # above the limit, and nothing lowers it
        np.testing.assert_array_equal(same, params)
        assert info.update.status == UpdateStatus.COST_EXCEEDED


def test_limits_can_be_mapped_over(x64):
    params, batch = make_problem()
    limits = jnp.array([0.4, 0.97, 1.02, 3.0])
    call = partial(update, "cpo", params, batch, cost=1.0)
    new, info = jax.jit(jax.vmap(lambda limit: call(cost_limit=limit)))(limits)
    assert np.unique(info.case).tolist() == [0, 1, 2]
    for limit, actual in zip(limits, new, strict=True):
        np.testing.assert_allclose(actual, call(cost_limit=limit)[0], rtol=1e-9)
    assert np.all(np.diff(info.cost_after) > 0)


def test_a_traced_number_out_of_its_range_refuses_the_update():
    params, batch = as_float32(make_problem())
    for cost, limit in ((np.nan, 1.0), (1.0, np.inf), (1.0, -0.1)):
        same, info = update("cpo", params, batch, cost=cost, cost_limit=limit)
        assert info.update.status == UpdateStatus.OUT_OF_RANGE
        np.testing.assert_array_equal(same, params)


@pytest.mark.parametrize("name", ["cpo", "pcpo"])
def test_a_sample_of_weight_zero_costs_nothing_and_any_other_that_is_not_finite_refuses(name):
    params, batch = as_float32(make_problem())
    call = partial(update, name, params, cost=1.0, cost_limit=1.02)
    expected, _ = call(batch)
    actual, info = call(batch._replace(cost_advantage=batch.cost_advantage.at[3].set(jnp.nan)))
    assert info.update.accepted
    np.testing.assert_array_equal(actual, expected)
    same, info = call(batch._replace(cost_advantage=batch.cost_advantage.at[4].set(jnp.inf)))
    assert info.update.status == UpdateStatus.NON_FINITE_GRADIENT
    np.testing.assert_array_equal(same, params)


@pytest.mark.parametrize("name", ["cpo", "pcpo"])
def test_a_reward_that_says_nothing_is_no_reason_to_stay_above_the_limit(name):
    params, batch = as_float32(make_problem())
    call = partial(update, name, params, batch._replace(advantage=jnp.ones_like(batch.advantage)), cost_limit=1.0)
    same, info = call(cost=0.9)
    assert info.update.status == UpdateStatus.ZERO_GRADIENT
    np.testing.assert_array_equal(same, params)
    for excess in (0.05, 2.0):
        new, info = call(cost=1.0 + excess)
        assert info.update.accepted
        assert info.cost_after < info.cost_before
        assert np.isfinite(new).all()
    nothing = batch._replace(weight=jnp.zeros_like(batch.weight))
    _, info = update(name, params, nothing, cost=2.0, cost_limit=1.0)
    assert info.update.status == UpdateStatus.ZERO_GRADIENT
    assert all(np.isfinite(jax.tree.leaves(info)))


@pytest.mark.parametrize("name", ["cpo", pytest.param("pcpo", marks=pytest.mark.slow)])
def test_a_batch_that_is_spread_over_two_devices_gives_the_update_of_the_whole(x64, name):
    params, batch = jax.tree.map(jnp.asarray, make_problem(None if name == "cpo" else 2))
    halves = jax.tree.map(lambda x: x.reshape(2, -1, *x.shape[1:]), batch)
    settings = NUMBERS | {"cost": 1.0, "cost_limit": 1.02}
    part = partial(FUNCTIONS[name], policy, params, axis_name="devices", **settings)
    new, info = jax.jit(jax.vmap(part, axis_name="devices"))(halves)
    expected, expected_info = update(name, params, batch, **settings)
    assert expected_info.case == CostCase.ON_LIMIT
    jax.tree.map(
        lambda a, e: np.testing.assert_allclose(a, np.stack([e, e]), rtol=1e-7, atol=1e-9),
        (new, info),
        (expected, expected_info),
    )


ERRORS = [
    ({"cost": float("nan")}, {}, ValueError, "cost must be a finite number; got nan"),
    ({"cost": "1"}, {}, TypeError, "cost must be a finite number; got '1' of type str"),
    ({"cost": np.ones(2)}, {}, ValueError, "cost must be one number, got an array of shape .2,."),
    ({"cost_limit": -0.5}, {}, ValueError, "cost_limit must be a finite number at least 0.*got -0.5"),
    ({"cost_limit": np.inf}, {}, ValueError, "cost_limit must be a finite number at least 0.*got inf"),
    ({"max_kl": 0.0}, {}, ValueError, "max_kl must be .*above 0"),
    ({"cg_iterations": 0}, {}, ValueError, "cg_iterations must be a whole number of at least 1"),
    ({"fisher_fraction": 2.0}, {}, ValueError, "fisher_fraction must be .*at most 1"),
    ({"normalize_advantage": 1}, {}, TypeError, "normalize_advantage must be True or False"),
    ({}, {"cost_advantage": None}, ValueError, "batch.cost_advantage must hold .*got None: give jtrpo.Batch"),
    ({}, {"cost_advantage": np.ones(7)}, ValueError, "batch.cost_advantage must have the leading axis B = 30"),
    (
        {},
        {"cost_advantage": np.ones((30, 2, 2))},
        ValueError,
        r"batch.cost_advantage must have shape \[30\], or \[B, K\]",
    ),
    ({}, {"cost_advantage": np.full(30, "a")}, TypeError, "batch.cost_advantage must be an array of real numbers"),
]


@pytest.mark.parametrize(("settings", "entries", "error", "message"), ERRORS)
@pytest.mark.parametrize("function", FUNCTIONS.values())
def test_wrong_input_is_named_before_anything_is_traced(function, settings, entries, error, message):
    params, batch = make_problem()
    call = partial(function, policy, **({"cost": 1.0, "cost_limit": 1.0} | settings))
    with pytest.raises(error, match=f"^{message}"):
        call(params, batch._replace(**entries))


def test_several_constraints_are_those_of_pcpo():
    params, batch = make_problem(2)
    with pytest.raises(ValueError, match=r"holds 2 constraints.*cpo_update takes one constraint.*use pcpo_update"):
        jtrpo.cpo_update(policy, params, batch, cost=1.0, cost_limit=1.0)


def test_updates_reach_the_optimum_of_a_constrained_mdp(x64):
    problem = Problem()
    (free, (most,)), uniform = problem.optimum(None), problem.evaluate(jnp.zeros((4, 3)))[1]
    limit = 0.85 * float(uniform[1])  # the policy starts above it
    best, _ = problem.optimum([limit])
    assert most > limit
    assert best < 0.95 * free  # the limit matters
    mean, info = problem.train(jtrpo.cpo_update, limit, 100, max_kl=0.01, cg_damping=1e-4)
    assert CostCase.RECOVERY in info.case
    assert (mean[20:, 1] <= limit + 1e-6).all()
    assert mean[-1, 0] >= 0.98 * best
    assert mean[-1, 0] <= best + 1e-6
