import jax
import jax.numpy as jnp
import numpy as np

from jtrpo.training.gauss_newton import fit_gauss_newton

B, N = 200, 6


def problem():
    rng = np.random.default_rng(0)
    observation = rng.normal(size=(B, N))
    return jnp.asarray(observation), jnp.asarray(observation @ rng.normal(size=N) + 0.3 * rng.normal(size=B))


def linear(params, observation):
    return observation @ params["w"]


def network(params, observation):
    return jnp.tanh(observation @ params["w"]) @ params["v"]


def fit(critic, params, max_change, steps=1, damping=0.0, cg_iterations=50):
    settings = {"max_change": max_change, "damping": damping, "steps": steps, "cg_iterations": cg_iterations}
    return jax.jit(lambda p: fit_gauss_newton(critic, p, *problem(), **settings))(params)


def test_one_wide_step_of_a_linear_critic_is_the_least_squares_solution(x64):
    params, loss = fit(linear, {"w": jnp.zeros(N)}, max_change=1e6)
    solution, residual, *_ = np.linalg.lstsq(*map(np.asarray, problem()), rcond=None)
    np.testing.assert_allclose(params["w"], solution, rtol=1e-3)  # as far as conjugate gradients are asked to go
    np.testing.assert_allclose(loss, residual[0] / (2 * B), rtol=1e-8)


def test_the_values_change_by_no_more_than_the_trust_region(x64):
    rng = np.random.default_rng(1)
    params = {"w": jnp.asarray(rng.normal(size=(N, 8))), "v": jnp.asarray(rng.normal(size=8))}
    observation, target = problem()
    value = network(params, observation)
    for max_change in (1e-3, 1e-1):
        new, loss = fit(network, params, max_change)
        change = jnp.mean((network(new, observation) - value) ** 2) / (2 * jnp.mean((value - target) ** 2))
        assert 0.1 * max_change < change <= max_change
        assert loss < 0.5 * jnp.mean((value - target) ** 2)


def test_steps_go_on_to_the_optimum_and_a_perfect_critic_stays(x64):
    rng = np.random.default_rng(1)
    params = {"w": jnp.asarray(rng.normal(size=(N, 8))), "v": jnp.asarray(rng.normal(size=8))}
    new, loss = fit(network, params, 0.1, steps=30, damping=1e-4)
    solution_loss = fit(linear, {"w": jnp.zeros(N)}, 1e6)[1]
    assert loss < 1.2 * solution_loss  # a network does about as well as the linear model that made the targets
    observation, _ = problem()
    again, loss = jax.jit(
        lambda p: fit_gauss_newton(
            network, p, observation, network(p, observation), max_change=0.1, damping=0.0, steps=2, cg_iterations=5
        )
    )(new)
    np.testing.assert_allclose(loss, 0.0, atol=1e-20)
    np.testing.assert_allclose(again["w"], new["w"], rtol=1e-6)


def test_products_on_a_fraction_of_the_batch(x64):
    rng = np.random.default_rng(1)
    params = {"w": jnp.asarray(rng.normal(size=(N, 8))), "v": jnp.asarray(rng.normal(size=8))}
    observation, target = problem()
    settings = {"max_change": 0.1, "damping": 1e-3, "steps": 2, "cg_iterations": 10}
    fit = lambda params, twice, **more: fit_gauss_newton(  # noqa: E731
        network, params, jnp.repeat(observation, twice, axis=0), jnp.repeat(target, twice), **settings, **more
    )
    whole, loss = fit(params, 1)
    half, half_loss = fit(params, 2, fraction=0.5)  # every second of samples that come in twos: each of them once
    np.testing.assert_allclose(half["w"], whole["w"], atol=1e-9)
    np.testing.assert_allclose(half_loss, loss, rtol=1e-9)
    other, other_loss = fit(params, 1, fraction=0.2)
    assert np.abs(other["w"] - whole["w"]).max() > 1e-3
    assert other_loss < 0.5 * jnp.mean((network(params, observation) - target) ** 2)
    pairs = fit(params, 2, fraction=0.5, sequence_length=2)[1]  # whole pairs: every second sample, twice
    alone = fit_gauss_newton(network, params, observation, target, **settings, fraction=0.5)[1]
    np.testing.assert_allclose(pairs, alone, rtol=3e-9)  # summed in another order


def test_samples_of_weight_zero_do_not_count(x64):
    observation, target = problem()
    weight = jnp.arange(B) % 3 != 0
    settings = {"max_change": 0.3, "damping": 1e-3, "steps": 2, "cg_iterations": 5}
    params = {"w": jnp.zeros(N)}
    dirty = jnp.where(weight, target, 1e9)
    some = fit_gauss_newton(linear, params, observation, dirty, weight=weight.astype(float), **settings)
    alone = fit_gauss_newton(linear, params, observation[weight], target[weight], **settings)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), some, alone)
