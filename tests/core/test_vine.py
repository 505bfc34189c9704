"""The two estimators against plain NumPy, and their gradients against the exact policy gradient of a tabular MDP."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

import jtrpo
from jtrpo.core.objective import log_prob_of_each
from jtrpo.core.vine import all_actions_objective, normalize_values, self_normalized_objective
from tests import probes

B, K, A = 5, 4, 3


@pytest.fixture
def case(x64):
    rng = np.random.default_rng(0)
    new, old = rng.normal(size=(2, B, A))
    return new, old, rng.normal(size=(B, A)), rng.integers(A, size=(B, K)), rng.normal(size=(B, K))


def every(states, actions):
    return jnp.broadcast_to(jnp.arange(actions)[None], (states, actions))


def test_equation_15_against_numpy(case):
    new, _, value, *_ = case
    expected = [sum(np.exp(new[s, a]) / np.exp(new[s]).sum() * value[s, a] for a in range(A)) for s in range(B)]
    batch = jtrpo.Batch(jnp.zeros((B, 1)), every(B, A), jnp.asarray(value))
    actual = all_actions_objective(jtrpo.Categorical(jnp.asarray(new)), batch)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-10)


def test_equation_16_against_numpy(case):
    new, old, _, action, value = case
    expected = []
    for s in range(B):
        p, q = (np.exp(x[s]) / np.exp(x[s]).sum() for x in (new, old))
        ratio = [p[a] / q[a] for a in action[s]]
        expected.append(sum(r * v for r, v in zip(ratio, value[s], strict=True)) / sum(ratio))
    log_prob = jnp.take_along_axis(jnp.asarray(scipy.special.log_softmax(old, -1)), jnp.asarray(action), 1)
    batch = jtrpo.Batch(jnp.zeros((B, 1)), jnp.asarray(action), jnp.asarray(value), log_prob)
    actual = self_normalized_objective(jtrpo.Categorical(jnp.asarray(new)), batch)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-10)


def test_equation_16_for_a_gaussian_against_numpy(case):
    rng = np.random.default_rng(1)
    (mean, old_mean), action, value = rng.normal(size=(2, B, 2)), rng.normal(size=(B, K, 2)), rng.normal(size=(B, K))
    expected = []
    for s in range(B):
        density = lambda m, std: np.prod(np.exp(-((action[s] - m) ** 2) / (2 * std**2)) / std, axis=-1)  # noqa: B023, E731
        ratio = density(mean[s], 0.7) / density(old_mean[s], 1.0)
        expected.append((ratio * value[s]).sum() / ratio.sum())
    log_prob = log_prob_of_each(jtrpo.DiagGaussian(jnp.asarray(old_mean), jnp.zeros(2)), jnp.asarray(action))
    batch = jtrpo.Batch(jnp.zeros((B, 1)), jnp.asarray(action), jnp.asarray(value), log_prob)
    new = jtrpo.DiagGaussian(jnp.asarray(mean), jnp.log(jnp.full(2, 0.7)))
    np.testing.assert_allclose(self_normalized_objective(new, batch), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("objective", [all_actions_objective, self_normalized_objective])
def test_a_baseline_changes_nothing_but_the_level(case, objective):
    new, old, value, *_ = case
    log_prob = jnp.asarray(scipy.special.log_softmax(old, -1))
    level = jnp.arange(B) * 10.0
    loss = lambda x, v: objective(jtrpo.Categorical(x), jtrpo.Batch(x, every(B, A), v, log_prob)).sum()  # noqa: E731
    value, lifted = jnp.asarray(value), jnp.asarray(value) + level[:, None]
    np.testing.assert_allclose(loss(jnp.asarray(new), lifted), loss(jnp.asarray(new), value) + level.sum(), rtol=1e-12)
    gradients = [jax.grad(loss)(jnp.asarray(new), v) for v in (value, lifted)]
    np.testing.assert_allclose(*gradients, atol=1e-12)


def test_the_value_of_an_impossible_action_does_not_matter(case):
    new, _, value, *_ = case
    masked, value = jnp.asarray(new).at[2, 1].set(-jnp.inf), jnp.asarray(value)
    loss = lambda x, v: all_actions_objective(jtrpo.Categorical(x), jtrpo.Batch(x, every(B, A), v)).sum()  # noqa: E731
    for broken in (jnp.nan, 1e300):
        for function in (loss, jax.grad(loss)):
            np.testing.assert_array_equal(
                function(masked, value.at[2, 1].set(broken)), function(masked, value.at[2, 1].set(0.0))
            )


# The exact policy gradient, from the derivative of the expected return itself.


@pytest.fixture
def mdp(x64):
    return probes.TabularMDP(gamma=0.9)


def test_gradient_of_equation_15_is_the_policy_gradient(mdp):
    value, visits = jnp.asarray(mdp.action_value()), jnp.asarray(mdp.visits())
    batch = jtrpo.Batch(jnp.eye(3), every(3, 2), value)

    def objective(logits):
        return visits @ all_actions_objective(jtrpo.Categorical(logits), batch)

    np.testing.assert_allclose(jax.jit(jax.grad(objective))(mdp.logits), mdp.policy_gradient(), atol=1e-10)


@pytest.mark.parametrize("branches", [2, 3, 5])
def test_gradient_of_equation_16_is_the_policy_gradient_times_k_minus_one_over_k(mdp, branches):
    value, visits, probability = mdp.action_value(), mdp.visits(), mdp.policy()
    draws = np.array(list(itertools.product(range(2), repeat=branches)))  # all that can be sampled
    state, draw = (index.ravel() for index in np.indices((3, len(draws))))
    action = draws[draw]
    rows = np.broadcast_to(state[:, None], action.shape)
    chance = jnp.asarray(visits[state] * probability[rows, action].prod(axis=1))
    log_prob = jnp.asarray(np.log(probability[rows, action]))
    batch = jtrpo.Batch(jnp.eye(3)[state], jnp.asarray(action), jnp.asarray(value[rows, action]), log_prob)

    def objective(logits):
        return chance @ self_normalized_objective(jtrpo.Categorical(logits[state]), batch)

    expected = (branches - 1) / branches * mdp.policy_gradient()
    np.testing.assert_allclose(jax.jit(jax.grad(objective))(mdp.logits), expected, atol=1e-10)


# On top of trpo_update.


def policy(params, observation):
    return jtrpo.Categorical(observation @ params)


@pytest.mark.parametrize("objective", [all_actions_objective, self_normalized_objective])
def test_an_update_improves_the_exact_return_and_keeps_the_trust_region(mdp, objective):
    weight, value = jnp.asarray(mdp.visits()), jnp.asarray(mdp.action_value())
    batch = jtrpo.Batch(jnp.eye(3), every(3, 2), value, weight=weight)
    if objective is self_normalized_objective:  # as if each action had been sampled once from a uniform policy
        mdp = probes.TabularMDP(gamma=0.9, logits=np.zeros((3, 2)))
        batch = batch._replace(advantage=jnp.asarray(mdp.action_value()), weight=jnp.asarray(mdp.visits()))
    update = jax.jit(partial(jtrpo.trpo_update, policy, objective=objective, max_kl=0.05))
    params, info = update(jnp.asarray(mdp.logits), batch)
    assert bool(info.accepted)
    assert 0.01 < float(info.kl) <= 0.05
    assert probes.TabularMDP(gamma=0.9, logits=np.asarray(params)).expected_return() > mdp.expected_return() + 0.1


def test_the_unit_of_the_values_does_not_matter_when_normalised(mdp):
    batch = jtrpo.Batch(jnp.eye(3), every(3, 2), jnp.asarray(mdp.action_value()))
    update = jax.jit(partial(jtrpo.trpo_update, policy, objective=all_actions_objective))
    params, other = jnp.asarray(mdp.logits), batch._replace(advantage=500.0 * batch.advantage + 7.0)
    np.testing.assert_allclose(update(params, batch)[0], update(params, other)[0], rtol=1e-6)


def test_normalised_values_have_a_spread_of_one_within_states_and_constants_become_zero(case):
    *_, value = case
    weight = jnp.array([0.1, 0.2, 0.0, 0.3, 0.4])
    normal = normalize_values(jnp.asarray(value), weight)
    np.testing.assert_allclose(normal.mean(axis=1), 0, atol=1e-12)
    np.testing.assert_allclose(weight @ jnp.var(normal, axis=1), 1, rtol=1e-6)
    level = jnp.array([0.1, -3.0, 7.7, 1e6, 0.0])[:, None]
    np.testing.assert_array_equal(normalize_values(jnp.broadcast_to(level, (B, K)), weight), 0)


@pytest.mark.slow
def test_devices_agree_with_the_whole(mdp):
    rng = np.random.default_rng(0)
    observation, value = jnp.asarray(rng.normal(size=(8, 3))), jnp.asarray(rng.normal(size=(8, 2)))
    batch = jtrpo.Batch(observation, every(8, 2), value)
    params, update = jnp.asarray(mdp.logits), partial(jtrpo.trpo_update, policy, objective=all_actions_objective)
    whole, _ = jax.jit(update)(params, batch)
    parts = jax.tree.map(lambda x: jnp.reshape(x, (2, 4, *x.shape[1:])), batch)
    apart, _ = jax.jit(jax.vmap(partial(update, axis_name="i"), in_axes=(None, 0), axis_name="i"))(params, parts)
    np.testing.assert_allclose(apart[0], whole, rtol=1e-9)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"advantage": jnp.zeros(3), "action": jnp.zeros(3, int)}, "K actions for each state"),
        ({"advantage": jnp.zeros((3, 2, 1))}, "advantage must have shape"),
        ({"action": jnp.zeros((3, 4), int)}, r"batch.action must have the leading axes \[B, K\] = \[3, 2\]"),
        ({"log_prob": jnp.zeros((3, 4))}, r"batch.log_prob must have shape \[3, 2\]"),
        ({"weight": jnp.zeros((3, 2))}, r"batch.weight must have shape \[3\]"),
    ],
)
def test_wrong_shapes_are_named(change, words):
    batch = jtrpo.Batch(jnp.eye(3), every(3, 2), jnp.ones((3, 2)))._replace(**change)
    with pytest.raises(ValueError, match=words):
        jtrpo.trpo_update(policy, jnp.zeros((3, 2)), batch, objective=all_actions_objective)


def test_branches_need_their_objective():
    batch = jtrpo.Batch(jnp.eye(3), every(3, 2), jnp.ones((3, 2)))
    with pytest.raises(ValueError, match=r"advantage must have shape \[B\], got \(3, 2\)"):
        jtrpo.trpo_update(policy, jnp.zeros((3, 2)), batch)
    with pytest.raises(ValueError, match="preconditioner must be one of None; got 'diagonal'"):
        jtrpo.trpo_update(policy, jnp.zeros((3, 2)), batch, objective=all_actions_objective, preconditioner="diagonal")
