"""An update of one's own, made of the public stages."""

import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jtrpo
from jtrpo import UpdateStatus
from tests.core.small_problem import B, make_problem, policy


@pytest.fixture
def problem(x64):
    return make_problem(weighted=True)


def dense_fisher(params, batch):
    """Weighted mean of E_a[grad log pi grad log pi^T]: [P, P]."""
    flat, unravel = ravel_pytree(params)
    log_p = lambda x: jax.nn.log_softmax(policy(unravel(x), batch.observation).logits)  # noqa: E731
    scores, probability = jax.jacobian(log_p)(flat), jnp.exp(log_p(flat))
    return jnp.einsum("b,ba,bai,baj->ij", batch.weight / batch.weight.sum(), probability, scores, scores)


def test_the_gradient_is_that_of_any_objective(problem):
    params, batch = problem
    cost = jnp.arange(B) % 5.0
    objective = lambda distribution, batch: cost * distribution.entropy()  # noqa: E731
    evaluation, gradient = jax.jit(
        lambda p, b: jtrpo.linearize(policy, p, b).value_and_gradient(objective, mass=lambda *_: jnp.ones(B))
    )(params, batch)
    mean = lambda p: jnp.average(cost * policy(p, batch.observation).entropy(), weights=batch.weight)  # noqa: E731
    value, expected = jax.jit(jax.value_and_grad(mean))(params)
    np.testing.assert_allclose(evaluation.objective, value, rtol=1e-12)
    np.testing.assert_allclose(evaluation.more["mass"], 1.0, rtol=1e-12)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-14), gradient, expected)
    assert evaluation.kl == evaluation.kl_max == 0


def test_a_solver_of_the_callers_own_takes_the_place_of_conjugate_gradients(problem):
    params, batch = problem
    flat, unravel = ravel_pytree(params)

    def dense(matvec, b):
        matrix = jax.vmap(lambda v: ravel_pytree(matvec(unravel(v)))[0])(jnp.eye(flat.size))
        x = jnp.linalg.solve(matrix, ravel_pytree(b)[0])
        return unravel(x), jtrpo.CGInfo(curvature=x @ ravel_pytree(b)[0])

    local = jtrpo.linearize(policy, params, batch)
    gradient = local.gradient(jtrpo.likelihood_ratio)
    direction, info = jax.jit(lambda g: jtrpo.natural_gradient(local, g, damping=1e-3, solver=dense))(gradient)
    g, fisher = ravel_pytree(gradient)[0], dense_fisher(params, batch) + 1e-3 * jnp.eye(flat.size)
    x = jnp.linalg.solve(fisher, g)
    np.testing.assert_allclose(ravel_pytree(direction)[0], x, rtol=1e-8)
    step = ravel_pytree(jtrpo.full_step(direction, info.curvature, 0.02))[0]
    np.testing.assert_allclose(step, jnp.sqrt(0.04 / (x @ fisher @ x)) * x, rtol=1e-8)


@pytest.mark.parametrize(
    ("solver", "words"),
    [
        (lambda matvec, b: b, "solver must return a pair, (x, info); got dict"),
        (lambda matvec, b: (b, 1.0, 2), "solver must return a pair, (x, info); got a tuple of 3"),
        (lambda matvec, b: (b["w"], None), "solver must return (x, info) with x like the gradient; got float64[3, 4]"),
        (lambda matvec, b: ({**b, "w": b["w"].T}, None), "got float64[4, 3] in place of float64[3, 4] at ['w']"),
        (
            lambda matvec, b: ({**b, "v": b["v"].astype(np.float32)}, None),
            "got float32[4, 3] in place of float64[4, 3] at ['v']",
        ),
        (
            lambda matvec, b: (b, None),
            "solver's info must have x^T A x as info.curvature, as jtrpo.CGInfo has it; got None",
        ),
        (lambda matvec, b: (b, {"curvature": 1.0}), "got {'curvature': 1.0}"),
        (lambda matvec, b: (b, jtrpo.CGInfo(jnp.ones(2))), "got a curvature of float64[2]"),
        (lambda matvec, b: (b, jtrpo.CGInfo(True)), "got a curvature of True"),
        (lambda matvec, b: (matvec(b["w"]), None), "v of matvec(v) must be a pytree shaped like params"),
        ("cg", "solver must be a function, (matvec, b) -> (x, info); got 'cg'"),
    ],
)
def test_a_solver_that_returns_something_else_is_refused_in_words(problem, solver, words):
    params, batch = problem
    local = jtrpo.linearize(policy, params, batch)

    def update(gradient):
        jtrpo.natural_gradient(local, gradient, solver=solver)
        raise AssertionError("traced on")

    with pytest.raises((TypeError, ValueError), match=re.escape(words)):
        jax.eval_shape(update, params)


def test_a_solver_may_answer_in_numpy_and_with_a_record_of_its_own(problem):
    params, batch = problem
    local = jtrpo.linearize(policy, params, batch)
    record = types.SimpleNamespace(curvature=np.float64(2.0), seconds=0.1)
    x, info = jtrpo.natural_gradient(local, params, solver=lambda matvec, b: (jax.tree.map(np.asarray, b), record))
    assert info is record
    jax.tree.map(np.testing.assert_array_equal, x, params)


def test_the_sibling_without_a_search_is_trpo_without_a_constraint(problem):
    params, batch = problem
    settings = {"max_kl": 2.0, "cg_damping": 1e-3, "cg_iterations": 20}
    new, info = jtrpo.natural_policy_gradient_update(policy, params, batch, **settings)
    expected, expected_info = jtrpo.trpo_update(policy, params, batch, constraint="none", **settings)
    jax.tree.map(np.testing.assert_array_equal, (new, info), (expected, expected_info))
    assert info.accepted
    assert info.kl > 2.0


def update(params, batch, accept, **more):
    """Twenty lines of stages: what an update of one's own looks like."""
    local = jtrpo.linearize(policy, params, batch)
    start, gradient = local.value_and_gradient(jtrpo.likelihood_ratio, **more)
    direction, cg = jtrpo.natural_gradient(local.subset(0.5), gradient)
    step = jtrpo.full_step(direction, cg.curvature, 0.5)
    measure = lambda candidate: local.measure(candidate, jtrpo.likelihood_ratio, **more)  # noqa: E731
    return start, *jtrpo.line_search(measure, params, step, start, accept=accept, max_backtracks=40)


def test_a_condition_of_the_callers_own_on_what_was_measured_decides(problem):
    params, batch = problem
    inside = jtrpo.improves_within(0.5)
    start, _, free = update(params, batch, inside)
    drop = start.entropy - free.evaluation.entropy
    assert drop > 0

    def keeps_entropy(new, old):
        status = inside(new, old)
        return jnp.where(
            (status == UpdateStatus.ACCEPTED) & (old.entropy - new.entropy > drop / 4), UpdateStatus.REFUSED, status
        )

    _, _, search = jax.jit(lambda p: update(p, batch, keeps_entropy))(params)
    assert search.status == UpdateStatus.ACCEPTED
    assert 0 < start.entropy - search.evaluation.entropy <= drop / 4
    assert search.backtracks > free.backtracks
    _, same, search = update(
        params, batch, lambda new, old: jnp.where(inside(new, old) == 0, UpdateStatus.REFUSED, inside(new, old))
    )
    assert search.status == UpdateStatus.REFUSED
    jax.tree.map(np.testing.assert_array_equal, same, params)


def test_further_quantities_are_measured_beside_the_objective(problem):
    params, batch = problem
    cost = jnp.arange(B) % 3.0

    def expected_cost(distribution, batch):
        return cost * jnp.exp(distribution.log_prob(batch.action) - batch.log_prob)

    start, new, search = update(params, batch, jtrpo.improves_within(0.5), cost=expected_cost)
    ratio = jnp.exp(
        policy(new, batch.observation).log_prob(batch.action) - policy(params, batch.observation).log_prob(batch.action)
    )
    np.testing.assert_allclose(start.more["cost"], jnp.average(cost, weights=batch.weight), rtol=1e-12)
    np.testing.assert_allclose(
        search.evaluation.more["cost"], jnp.average(cost * ratio, weights=batch.weight), rtol=1e-12
    )


@pytest.mark.parametrize(
    ("at_the_start", "at_candidates", "words"),
    [
        (
            [],
            ["cost"],
            "the same quantities in more; got ['cost'] and []: give value_and_gradient and measure the same",
        ),
        (["cost"], [], "the same quantities in more; got [] and ['cost']"),
        (
            [],
            [],
            "accept reads more['cost'], which was not measured; give cost=... to value_and_gradient and to measure",
        ),
        (["risk"], ["risk"], "accept reads more['cost'], which was not measured"),
    ],
)
def test_a_quantity_that_was_not_measured_is_named(problem, at_the_start, at_candidates, words):
    params, batch = problem
    cost = lambda distribution, batch: distribution.log_prob(batch.action)  # noqa: E731

    def accept(new, old):
        return jnp.where(new.more["cost"] <= old.more["cost"], UpdateStatus.ACCEPTED, UpdateStatus.REFUSED)

    def search(params):
        local = jtrpo.linearize(policy, params, batch)
        start, gradient = local.value_and_gradient(jtrpo.likelihood_ratio, **dict.fromkeys(at_the_start, cost))
        measure = lambda p: local.measure(p, jtrpo.likelihood_ratio, **dict.fromkeys(at_candidates, cost))  # noqa: E731
        return jtrpo.line_search(measure, params, gradient, start, accept=accept)

    with pytest.raises(ValueError, match=re.escape(words)):
        jax.eval_shape(search, params)


def test_a_key_error_of_the_condition_itself_stays_what_it_is(problem):
    params, batch = problem
    cost = lambda distribution, batch: batch.advantage  # noqa: E731
    with pytest.raises(KeyError):
        jax.eval_shape(lambda p: update(p, batch, lambda new, old: {}["cost"], cost=cost), params)
