"""The projection against scipy, whole updates against NumPy, and several constraints at once."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import jtrpo
from jtrpo import CostCase, UpdateStatus
from jtrpo.core.pcpo import project_multipliers
from tests.core.constrained_mdp import Problem
from tests.core.cost_problem import NUMBERS, Reference, make_problem, many_problems, policy, update

project = jax.jit(project_multipliers)


def nearest(v0, metric, b, excess):
    """The point of {v: excess + b v <= 0} nearest to v0, and its multipliers: non-negative least squares in the dual."""
    half = np.linalg.solve(np.linalg.cholesky(metric), b.T)  # S = half^T half
    target = np.linalg.lstsq(half.T, excess + b @ v0)[0]  # d = half^T target
    mu = scipy.optimize.nnls(half, target)[0]
    return v0 - np.linalg.solve(metric, b.T @ mu), mu


def test_the_multipliers_are_those_of_the_projection_that_scipy_finds(x64):
    rng, active = np.random.default_rng(0), set()
    for _ in range(60):
        root, b = rng.normal(size=(5, 5)), rng.normal(size=(3, 5)) + rng.normal(size=5)  # correlated constraints
        metric, v0, excess = root @ root.T + 0.1 * np.eye(5), rng.normal(size=5), rng.normal(size=3)
        v, mu = nearest(v0, metric, b, excess)
        found = project(b @ np.linalg.solve(metric, b.T), excess + b @ v0)
        np.testing.assert_allclose(found, mu, rtol=1e-8, atol=1e-8)
        assert (excess + b @ v < 1e-8).all()
        active.add(int((mu > 0).sum()))
    assert active == {0, 1, 2, 3}


def test_of_one_constraint_it_is_the_closed_form_and_odd_ones_do_no_harm(x64):
    one = lambda s, d: project(jnp.array([[s]]), jnp.array([d])).tolist()  # noqa: E731
    assert [one(2.0, 3.0), one(2.0, -3.0), one(0.0, 1.0)] == [[1.5], [0.0], [0.0]]
    same = np.array([[2.0, 2.0], [2.0, 2.0]])  # one constraint twice
    np.testing.assert_allclose(np.sum(project(same, np.array([3.0, 3.0]))), 1.5, rtol=1e-12)
    contrary = project(np.array([[1.0, -1.0], [-1.0, 1.0]]), np.array([1.0, 1.0]))  # no point keeps both
    assert np.isfinite(contrary).all()


@pytest.mark.parametrize(
    ("excess", "case"),
    [
        ((-0.5, -0.6, -0.7), CostCase.UNCONSTRAINED),
        ((-0.01, -0.5, -0.02), CostCase.ON_LIMIT),
        ((-0.01, 0.01, -0.01), CostCase.ON_LIMIT),
        ((0.5, 0.1, 0.5), CostCase.RECOVERY),
    ],
)
@pytest.mark.parametrize("projection", ["kl", "l2"])
def test_a_whole_update_against_numpy(x64, excess, case, projection):
    params, batch = make_problem(3)
    reference, excess = Reference(params, batch), np.array(excess)
    x, delta = np.linalg.solve(reference.h, reference.g), 2 * NUMBERS["max_kl"]
    length = np.sqrt(delta / (reference.g @ x))
    metric = reference.h if projection == "kl" else np.eye(x.size)

    def projected(excess):
        v = nearest(length * x, metric, reference.b, excess)[0]
        return v * min(1.0, np.sqrt(delta / (v @ reference.h @ v)))

    expected = reference.search(reference.corrected(projected, excess), excess)
    new, info = update("pcpo", params, batch, cost=1.0, cost_limit=1.0 - excess, projection=projection)
    assert CostCase(int(info.case)) == case
    np.testing.assert_allclose(np.ravel(new - params), expected, rtol=1e-7, atol=1e-9)
    assert info.update.accepted == np.any(expected != 0)
    np.testing.assert_allclose(info.cost_after, 1.0 + reference.measure(expected)[1], atol=1e-9)
    np.testing.assert_allclose(info.cost_gradient_norm, np.linalg.norm(reference.b, axis=1), rtol=1e-9)
    assert (info.multiplier >= 0).all()
    assert (info.multiplier > 0).any() == (case != CostCase.UNCONSTRAINED)


def test_of_one_constraint_it_is_the_papers_update(x64):
    params, batch = make_problem()
    new, info = update("pcpo", params, batch, cost=1.0, cost_limit=1.02)
    assert info.case == CostCase.ON_LIMIT
    assert info.cost_after.shape == info.multiplier.shape == info.cost_gradient_norm.shape == ()
    reference = Reference(params, batch)
    x_g, x_b = (np.linalg.solve(reference.h, x) for x in (reference.g, reference.b))
    v0 = np.sqrt(2 * NUMBERS["max_kl"] / (reference.g @ x_g)) * x_g

    def projected(excess):  # the paper's equation
        return v0 - max(0.0, (reference.b @ v0 + excess) / (reference.b @ x_b)) * x_b

    expected = reference.search(reference.corrected(projected, -0.02), np.float64(-0.02))
    np.testing.assert_allclose(np.ravel(new - params), expected, rtol=1e-8)


@pytest.mark.parametrize(("constraints", "limit"), [(3, [1, 2, 3]), (1, [1]), (1, 1.0), (3, (1.0, 2.0, 3.0))])
def test_lists_are_taken_as_arrays_and_a_column_stays_one(constraints, limit):
    params, batch = make_problem(constraints)
    call = partial(jtrpo.pcpo_update, policy, params, batch, cost=[1.0] * constraints, cost_limit=limit)
    info = jax.eval_shape(call)[1]
    assert info.cost_before.shape == info.cost_after.shape == info.multiplier.shape == (constraints,)


def test_without_limits_that_matter_the_update_is_trpos(x64):
    params, batch = make_problem(3)
    expected, _ = jax.jit(partial(jtrpo.trpo_update, policy))(params, batch, **NUMBERS)
    for projection in ("kl", "l2"):
        actual, info = update("pcpo", params, batch, cost=1.0, cost_limit=np.full(3, 1e6), projection=projection)
        np.testing.assert_allclose(actual, expected, rtol=1e-12)
        assert info.case == CostCase.UNCONSTRAINED
        assert (info.multiplier == 0).all()


@pytest.mark.slow
def test_hundreds_of_updates_keep_the_trust_region_and_their_limits_or_change_nothing():
    params, batch, cost, limit = many_problems(300, 2)
    call = partial(jtrpo.pcpo_update, policy, cg_damping=1e-2)
    new, info = jax.jit(jax.vmap(lambda p, b, c, d: call(p, b, cost=c, cost_limit=d)))(params, batch, cost, limit)
    accepted, above = np.asarray(info.update.accepted), np.asarray(cost > limit)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((new, info)))
    assert (info.update.kl <= np.float32(0.01)).all()
    assert accepted.mean() > 0.6
    assert {*np.unique(info.case)} == set(CostCase)
    np.testing.assert_array_equal(new[~accepted], params[~accepted])
    tolerance = 1e-6 * (np.abs(cost) + np.abs(batch.cost_advantage).max(1))
    falls, keeps = info.cost_after - info.cost_before < tolerance, info.cost_after <= limit + tolerance
    assert np.where(above, falls, keeps)[accepted].all()
    better = info.update.objective_after > info.update.objective_before
    assert better[accepted & ~above.any(1)].all()


ERRORS = [
    ({"projection": "KL"}, ValueError, "projection must be one of 'kl', 'l2'; got 'KL'"),
    ({"cost": np.ones(2)}, ValueError, r"cost must be one number or one for each constraint, \[3\]; got shape \(2,\)"),
    ({"cost_limit": np.ones((3, 1))}, ValueError, r"cost_limit must be one number or one for each .*shape \(3, 1\)"),
    ({"cost_limit": [1.0, -1.0, 1.0]}, ValueError, "cost_limit must be a finite number at least 0; got -1.0 among 3"),
    ({"cost": ["1", "2", "3"]}, TypeError, "cost must be an array of real numbers"),
]


@pytest.mark.parametrize(("settings", "error", "message"), ERRORS)
def test_wrong_input_is_named_before_anything_is_traced(settings, error, message):
    with pytest.raises(error, match=f"^{message}"):
        jtrpo.pcpo_update(policy, *make_problem(3), **({"cost": 1.0, "cost_limit": 1.0} | settings))


def test_a_traced_limit_out_of_its_range_refuses_the_update(x64):
    params, batch = make_problem(3)
    same, info = update("pcpo", params, batch, cost=1.0, cost_limit=np.array([1.0, np.nan, 1.0]))
    assert info.update.status == UpdateStatus.OUT_OF_RANGE
    np.testing.assert_array_equal(same, params)


@pytest.mark.slow
def test_updates_reach_the_optimum_of_an_mdp_with_two_constraints(x64):
    problem = Problem(constraints=2)
    free, most = problem.optimum(None)
    uniform = np.asarray(problem.evaluate(jnp.zeros((4, 3)))[1][1:])
    limits = tuple(np.array([0.9, 0.95]) * uniform)  # the policy starts above both
    best, at = problem.optimum(limits)
    assert best < 0.97 * free
    mean, _ = problem.train(jtrpo.pcpo_update, limits, 100, max_kl=0.01, cg_damping=1e-4)
    assert (np.asarray(mean)[30:, 1:] <= np.array(limits) + 1e-5).all()
    assert 0.98 * best <= mean[-1, 0] <= best + 1e-5
    np.testing.assert_allclose(mean[-1, 1:], at, atol=5e-3)
