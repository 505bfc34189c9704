from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.flatten_util import ravel_pytree

from jtrpo import Batch, Categorical, UpdateStatus, mean_kl, trpo_update
from jtrpo.core.batch import stratified
from tests.core.reference import Reference, reference_update
from tests.core.trpo_problem import (
    ACTIONS,
    HIDDEN,
    OBSERVATION,
    POLICIES,
    as_float32,
    assert_close,
    categorical_only,
    gaussian_only,
    make_problem,
    update,
)

CASES = {
    "defaults": {},
    "entropy bonus, no normalisation": {"entropy_coefficient": 0.5, "normalize": False},
    "few iterations, no damping": {"cg_iterations": 3, "cg_damping": 0.0},
    "loose tolerance": {"cg_tolerance": 0.3},
    "backtracking": {"max_kl": 0.3, "cg_iterations": 6, "cg_damping": 0.01, "backtrack_factor": 0.6},
    "refused": {"max_kl": 0.3, "cg_iterations": 6, "cg_damping": 0.01, "max_backtracks": 1},
    "Fisher on a quarter": {"fisher_fraction": 0.25},
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("case", CASES)
def test_one_update_agrees_with_a_dense_numpy_reference(kind, case):
    settings = dict(CASES[case])
    params, batch = make_problem(kind)
    old = Reference(params)
    size, fraction = len(batch[0]), settings.pop("fisher_fraction", 1.0)
    rows = np.asarray(stratified(jnp.arange(size), None, size, fraction)[0])
    new, expected = reference_update(old, *batch, fisher_rows=rows, **settings)
    if case == "backtracking":
        assert 0 < expected["backtracks"] < 10
    assert expected["accepted"] == (case != "refused")

    normalize = settings.pop("normalize", True)
    actual, info = update(
        POLICIES[kind], params, batch, **settings, normalize_advantage=normalize, fisher_fraction=fraction
    )
    actual, wanted = old.ravel(actual), old.ravel(new.params)
    assert np.linalg.norm(actual - wanted) <= 1e-9 * np.linalg.norm(wanted)
    if case != "refused":
        step = wanted - old.ravel(params)
        assert np.linalg.norm(actual - wanted) <= 1e-8 * np.linalg.norm(step)
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(info, name), value, rtol=1e-7, atol=1e-10, err_msg=name)
    if case == "refused":
        np.testing.assert_array_equal(actual, old.ravel(params))
        assert info.status in (UpdateStatus.KL_EXCEEDED, UpdateStatus.NO_IMPROVEMENT)
    else:
        assert info.status == UpdateStatus.ACCEPTED


def test_objective_before_is_zero_with_the_policys_own_log_probabilities_and_none_means_them(problem64):
    policy, params, batch = problem64
    own = Reference(params).log_prob(batch.observation, batch.action)
    given, given_info = update(policy, params, batch._replace(log_prob=own))
    left_out, left_out_info = update(policy, params, batch._replace(log_prob=None))
    assert abs(given_info.objective_before) < 1e-14
    assert abs(left_out_info.objective_before) < 1e-14
    assert_close(given, left_out, 1e-9)
    _, stored_info = update(policy, params, batch)  # of another behaviour policy
    assert abs(stored_info.objective_before) > 1e-3


@gaussian_only
def test_padding_changes_nothing(problem64):
    policy, params, batch = problem64
    padding = batch.weight == 0
    assert padding.sum() > 1
    plain = jax.tree.map(lambda x: x[~padding], batch._replace(weight=None))
    junk = jax.tree.map(lambda x: np.where(padding.reshape(-1, *[1] * (x.ndim - 1)), 1, x), batch)
    junk = junk._replace(weight=1.0 - padding)
    expected = update(policy, params, plain)
    assert expected[1].accepted
    assert_close(update(policy, params, batch._replace(weight=1.0 - padding)), expected, 1e-8)
    assert_close(update(policy, params, junk), expected, 1e-8)


@categorical_only
def test_means_over_a_mapped_axis_equal_those_of_the_whole_batch(problem64):
    policy, params, batch = problem64
    halves = jax.tree.map(lambda x: x.reshape(2, 6, *x.shape[1:]), batch)
    assert halves.weight[0].sum() != halves.weight[1].sum()
    expected = update(policy, params, batch, entropy_coefficient=0.1)
    assert expected[1].accepted
    part = partial(trpo_update, policy, entropy_coefficient=0.1, axis_name="i")
    parts = jax.jit(jax.vmap(part, in_axes=(None, 0), axis_name="i"))(params, halves)
    for i in range(2):
        assert_close(jax.tree.map(lambda x, i=i: x[i], parts), expected, 1e-8)


@gaussian_only
def test_a_mapped_update_equals_a_loop(problem64):
    policy, params, batch = problem64
    settings = {
        "max_kl": jnp.array([1e-4, 0.01, 0.3]),
        "cg_iterations": jnp.array([2, 10, 6]),
        "cg_damping": jnp.array([0.1, 0.1, 0.01]),
        "cg_tolerance": jnp.array([1e-5, 0.1, 0.0]),
        "max_backtracks": jnp.array([10, 10, 1]),
        "backtrack_factor": jnp.array([0.8, 0.5, 0.8]),
        "entropy_coefficient": jnp.array([0.0, 0.1, 0.0]),
    }
    mapped = jax.jit(jax.vmap(lambda s: trpo_update(policy, params, batch, **s)))(settings)
    np.testing.assert_array_equal(mapped[1].accepted, [True, True, False])
    for i in range(3):
        alone = update(policy, params, batch, **{name: value[i].item() for name, value in settings.items()})
        assert_close(jax.tree.map(lambda x, i=i: x[i], mapped), alone, 1e-8)


@gaussian_only
@pytest.mark.usefixtures("x64")
def test_the_exact_inverse_as_preconditioner_solves_in_one_iteration(kind):
    params, batch = make_problem(kind)
    old, (_, unravel) = Reference(params), ravel_pytree(jax.tree.map(jnp.asarray, params))
    inverse = np.linalg.inv(
        old.fisher(batch.observation, batch.weight / batch.weight.sum()) + 0.1 * np.eye(len(old.ravel(params)))
    )

    def precondition(v):
        return unravel(inverse @ ravel_pytree(v)[0])

    step = jax.jit(lambda p, b: trpo_update(POLICIES[kind], p, b, preconditioner=precondition, cg_iterations=50))
    new, info = step(params, batch)
    expected, _ = reference_update(old, *batch, cg_iterations=200, cg_tolerance=1e-13)
    assert info.cg_iterations == 1
    np.testing.assert_allclose(old.ravel(new), old.ravel(expected.params), rtol=1e-8)


@gaussian_only
@pytest.mark.usefixtures("x64")
def test_parameters_of_several_dtypes_keep_them(kind):
    params, batch = make_problem(kind)
    params |= {"w1": np.float32(params["w1"]), "b2": np.float32(params["b2"])}
    new, info = update(POLICIES[kind], params, batch)
    assert info.accepted
    assert jax.tree.map(lambda x: x.dtype, new) == jax.tree.map(lambda x: x.dtype, params)
    _, expected = reference_update(Reference(params), *batch)
    np.testing.assert_allclose(info.objective_after, expected["objective_after"], rtol=1e-4)


def improvement(policy, params, batch):
    new, info = update(policy, params, batch._replace(log_prob=None))
    assert jax.tree.structure(new) == jax.tree.structure(params)
    assert info.accepted
    log_prob = jax.jit(lambda p: policy(p, batch.observation).log_prob(batch.action))
    weight, advantage = np.asarray(batch.weight), np.asarray(batch.advantage)
    ratio = np.exp(np.asarray(log_prob(new)) - np.asarray(log_prob(params)))
    return (weight * (ratio - 1) * (advantage - np.average(advantage, weights=weight))).sum()


def test_a_policy_written_by_hand_improves(problem64):
    assert improvement(*problem64) > 1e-3


def test_a_flax_nnx_policy_improves():
    _, batch = map(as_float32, make_problem("categorical"))

    class Network(nnx.Module):
        def __init__(self, rngs):
            self.hidden = nnx.Linear(OBSERVATION, HIDDEN, rngs=rngs)
            self.out = nnx.Linear(HIDDEN, ACTIONS, rngs=rngs)

        def __call__(self, x):
            return Categorical(self.out(nnx.tanh(self.hidden(x))))

    graphdef, state = nnx.split(Network(nnx.Rngs(0)))
    assert improvement(lambda params, observation: nnx.merge(graphdef, params)(observation), state, batch) > 1e-3


def test_the_kl_is_measured_from_the_policy_that_acted(x64):
    rng = np.random.default_rng(0)
    observation, params = jnp.asarray(rng.normal(size=(64, 3))), jnp.asarray(rng.normal(size=(3, 2)))
    policy = lambda params, observation: Categorical(observation @ params)  # noqa: E731
    acted = policy(params + 0.03 * rng.normal(size=(3, 2)), observation)
    action = acted.sample(jax.random.key(0))
    batch = Batch(observation, action, jnp.asarray(rng.normal(size=64)), acted.log_prob(action))
    update = jax.jit(partial(trpo_update, policy))
    new, info = update(params, batch, acting=acted, max_kl=0.01)
    assert info.accepted
    np.testing.assert_allclose(info.kl, mean_kl(acted, policy(new, observation)), rtol=1e-12)
    assert info.kl <= 0.01
    np.testing.assert_allclose(info.kl_max, acted.kl(policy(new, observation)).max(), rtol=1e-12)
    without = update(params, batch._replace(log_prob=None), acting=acted, max_kl=0.01)[0]
    np.testing.assert_allclose(without, new, rtol=1e-12)
    same, info = update(params, batch, acting=acted, max_kl=1e-9)
    assert not info.accepted
    np.testing.assert_array_equal(same, params)
    np.testing.assert_allclose(info.kl, mean_kl(acted, policy(params, observation)), rtol=1e-12)
