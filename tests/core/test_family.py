"""What trpo_update becomes by its settings: other constraints, other solvers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jtrpo
import jtrpo.core.diagonal
from jtrpo import Batch, Categorical
from jtrpo.core.diagonal import fisher_diagonal
from jtrpo.core.fisher import sample_curvature
from tests.core.small_problem import B, make_problem, policy

SETTINGS = ("constraint", "preconditioner", "cg_iterations", "sequence_length")
trpo_update = jax.jit(jtrpo.trpo_update, static_argnums=0, static_argnames=SETTINGS)  # numbers are traced


@pytest.fixture
def problem(x64):
    return make_problem()


def sample_fisher(params, observation):
    """F_s of each sample, from probabilities and scores: [B, P, P]."""
    flat, unravel = ravel_pytree(params)

    def one(observation):
        log_p = lambda x: jax.nn.log_softmax(policy(unravel(x), observation[None]).logits[0])  # noqa: E731
        scores = jax.jacobian(log_p)(flat)
        return jnp.einsum("a,ai,aj->ij", jnp.exp(log_p(flat)), scores, scores)

    return jax.vmap(one)(observation)


@jax.jit
def natural_step(params, batch, max_kl, damping):
    """sqrt(2 max_kl / x^T (F + damping I) x) x by a dense solve."""
    advantage = (batch.advantage - batch.advantage.mean()) / batch.advantage.std()
    loss = lambda p: jnp.mean(advantage * policy(p, batch.observation).log_prob(batch.action))  # noqa: E731
    g = ravel_pytree(jax.grad(loss)(params))[0]
    fisher = sample_fisher(params, batch.observation).mean(0) + damping * jnp.eye(g.size)
    x = jnp.linalg.solve(fisher, g)
    return jnp.sqrt(2 * max_kl / (x @ fisher @ x)) * x


def test_without_a_constraint_the_step_is_the_natural_gradients_even_outside_the_trust_region(problem):
    params, batch = problem
    settings = {"max_kl": 2.0, "cg_damping": 1e-3, "cg_iterations": 200, "cg_tolerance": 1e-12}
    new, info = trpo_update(policy, params, batch, constraint="none", **settings)
    step = ravel_pytree(new)[0] - ravel_pytree(params)[0]
    np.testing.assert_allclose(step, natural_step(params, batch, 2.0, 1e-3), rtol=1e-6, atol=1e-8)
    assert info.accepted
    assert info.kl > 2.0
    searched, info = trpo_update(policy, params, batch, **settings)
    assert info.kl <= 2.0
    assert info.backtracks > 0


def test_without_a_constraint_a_step_that_is_not_finite_is_still_refused(problem):
    params, batch = problem
    new, info = trpo_update(policy, params, batch._replace(log_prob=jnp.full(B, -1e4)), constraint="none")
    assert not info.accepted
    np.testing.assert_array_equal(new["w"], params["w"])


def test_sample_curvature_is_the_quadratic_form_of_each_samples_own_fisher_matrix(problem):
    params, batch = problem
    vector = jax.tree.map(lambda x: jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape), params)
    flat = ravel_pytree(vector)[0]
    measured = jax.jit(lambda *given: sample_curvature(jtrpo.linearize(policy, *given).linear, vector))(params, batch)
    dense = jnp.einsum("i,bij,j->b", flat, jax.jit(sample_fisher)(params, batch.observation), flat)
    np.testing.assert_allclose(measured, dense, rtol=1e-9)


@pytest.mark.parametrize("max_kl", [1e-4, 1e-2, 0.3])
def test_the_largest_kl_over_the_states_can_be_the_constraint(problem, max_kl):
    params, batch = problem
    _, mean = trpo_update(policy, params, batch, max_kl=max_kl)
    _, largest = trpo_update(policy, params, batch, max_kl=max_kl, constraint="kl_max", cg_damping=1e-6)
    assert mean.kl_max > max_kl
    assert largest.accepted
    assert 0.2 * max_kl < largest.kl_max <= max_kl  # held, and not by a step that is needlessly small


def test_the_estimated_diagonal_agrees_with_the_dense_one(problem, monkeypatch):
    params, batch = problem
    probes = 20_000
    monkeypatch.setattr(jtrpo.core.diagonal, "PROBES", probes)
    # The estimate is of the empirical Fisher matrix of the actions drawn: exact over the signs, which is what is tested.
    scores = jax.vmap(
        lambda o, a: ravel_pytree(jax.grad(lambda p: policy(p, o[None]).log_prob(a[None])[0])(params))[0]
    )(batch.observation, batch.action)
    dense = jnp.mean(jnp.square(scores), axis=0)
    estimate = jax.jit(lambda p, b: fisher_diagonal(jtrpo.linearize(policy, p, b)))(params, batch)
    error = jnp.abs(ravel_pytree(estimate)[0] / dense - 1)
    assert float(error.max()) < 5 * np.sqrt(2 / probes)


def test_the_diagonal_preconditioner_solves_a_badly_scaled_policy_in_fewer_products(x64):
    rng = np.random.default_rng(0)
    observation = jnp.asarray(rng.normal(size=(400, 30)) * 10.0 ** np.linspace(-2, 2, 30)[None])
    linear = lambda params, observation: Categorical(observation @ params)  # noqa: E731
    params = jnp.zeros((30, 2))
    batch = Batch(observation, jnp.asarray(rng.integers(2, size=400)), jnp.asarray(rng.normal(size=400)))
    settings = {"cg_damping": 1e-8, "cg_tolerance": 1e-6, "cg_iterations": 1000}
    plain, plain_info = trpo_update(linear, params, batch, **settings)
    diagonal, info = trpo_update(linear, params, batch, preconditioner="diagonal", **settings)
    assert max(info.cg_residual, plain_info.cg_residual) <= 1e-6
    assert info.cg_iterations < 0.5 * plain_info.cg_iterations


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"constraint": "max"}, r"constraint.*'kl', 'kl_max', 'none'.*'max'"),
        ({"preconditioner": "full"}, r"preconditioner.*None, 'diagonal'.*'full'"),
        ({"sequence_length": 7}, r"sequence_length must divide the batch of 40 samples; got 7"),
    ],
)
def test_a_wrong_setting_is_named(problem, settings, message):
    params, batch = problem
    with pytest.raises(ValueError, match=message):
        trpo_update(policy, params, batch, **settings)
