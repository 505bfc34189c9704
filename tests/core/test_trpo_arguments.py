"""Wrong arguments of ``trpo_update`` are refused by name, before anything is computed."""

from functools import partial

import jax
import numpy as np
import pytest

from jtrpo import DiagGaussian, trpo_update
from tests.core.trpo_problem import as_float32, categorical_policy, gaussian_policy, make_problem, mlp

ERRORS = [
    ({"max_kl": -0.01}, ValueError, "max_kl must be .*above 0.*got -0.01"),
    ({"max_kl": 0.0}, ValueError, "max_kl must be .*above 0.*got 0.0"),
    ({"max_kl": float("nan")}, ValueError, "max_kl must be a finite number.*got nan"),
    ({"max_kl": "0.01"}, TypeError, "max_kl must be .*got '0.01' of type str"),
    ({"cg_iterations": 0}, ValueError, "cg_iterations must be a whole number of at least 1; got 0"),
    ({"cg_iterations": 1.5}, TypeError, "cg_iterations must be a whole number.*got 1.5"),
    ({"cg_iterations": "3"}, TypeError, "cg_iterations must be a whole number.*got '3' of type str"),
    ({"cg_damping": -1.0}, ValueError, "cg_damping must be .*at least 0.*got -1.0"),
    ({"cg_tolerance": -1.0}, ValueError, "cg_tolerance must be .*at least 0.*got -1.0"),
    ({"backtrack_factor": 1.5}, ValueError, "backtrack_factor must be .*above 0 and below 1; got 1.5"),
    ({"backtrack_factor": 0.0}, ValueError, "backtrack_factor must be .*above 0 and below 1; got 0.0"),
    ({"max_backtracks": 0}, ValueError, "max_backtracks must be .*at least 1; got 0"),
    ({"entropy_coefficient": float("inf")}, ValueError, "entropy_coefficient must be a finite number.*got inf"),
    ({"fisher_fraction": 0}, ValueError, "fisher_fraction must be .*above 0 and at most 1; got 0"),
    ({"fisher_fraction": 1.01}, ValueError, "fisher_fraction must be .*above 0 and at most 1; got 1.01"),
]


@pytest.mark.parametrize(("settings", "error", "message"), ERRORS)
@pytest.mark.parametrize("jitted", [False, True])
def test_a_wrong_setting_is_named_with_its_value_and_the_remedy(settings, error, message, jitted):
    params, batch = make_problem("categorical")
    call = partial(trpo_update, categorical_policy, **settings)
    with pytest.raises(error, match=f"^{message}"):
        (jax.jit(call) if jitted else call)(params, batch)


@pytest.mark.parametrize("jitted", [False, True])
def test_batch_entries_of_different_lengths_are_named(jitted):
    params, batch = make_problem("categorical")
    call = partial(trpo_update, categorical_policy)
    with pytest.raises(ValueError, match=r"^batch\.action must have the leading axis B = 12.*got shape \(11,\)"):
        (jax.jit(call) if jitted else call)(params, batch._replace(action=batch.action[:-1]))


@pytest.mark.parametrize("jitted", [False, True])
def test_a_policy_that_returns_an_array_is_named(jitted):
    call = partial(trpo_update, mlp)
    with pytest.raises(TypeError, match=r"^policy.*must return a distribution.*jtrpo\.Categorical"):
        (jax.jit(call) if jitted else call)(*make_problem("categorical"))


@pytest.mark.parametrize("name", ["fisher_fraction", "normalize_advantage"])
def test_a_traced_value_for_a_static_setting_is_named(name):
    params, batch = make_problem("categorical")
    with pytest.raises((TypeError, ValueError), match=f"^{name} .*static"):
        jax.jit(lambda value: trpo_update(categorical_policy, params, batch, **{name: value}))(True)


@pytest.mark.parametrize("name", ["max_kl", "cg_damping", "backtrack_factor", "entropy_coefficient", "fisher_fraction"])
def test_an_array_for_a_single_number_is_named(name):
    params, batch = make_problem("categorical")
    with pytest.raises((TypeError, ValueError), match=f"^{name} "):
        jax.eval_shape(partial(trpo_update, categorical_policy, **{name: np.array([0.1, 0.2])}), params, batch)


def test_a_distribution_without_the_batch_axis_is_named_instead_of_pairing_all_samples():
    params, batch = map(as_float32, make_problem("gaussian"))

    def policy(params, observation):
        d = gaussian_policy(params, observation)
        return DiagGaussian(d.mean[:, None], d.log_std)  # [B, 1, D]

    with jax.numpy_rank_promotion("allow"), pytest.raises(ValueError, match="policy"):  # JAX's default
        jax.eval_shape(partial(trpo_update, policy), params, batch)
