import jax
import jax.numpy as jnp
import numpy as np
import optax

from jtrpo.training.critic import explained_variance, fit_critic, init_critic_optimizer


def linear(params, observation):
    return observation @ params


def test_one_full_batch_epoch_is_one_adam_step_of_optax():
    observation = jax.random.normal(jax.random.key(0), (16, 3))
    target = jnp.arange(16.0)
    params = jnp.array([0.5, -0.5, 1.0])
    fitted, _, loss = fit_critic(
        linear, params, init_critic_optimizer(params), observation, target, jax.random.key(1),
        learning_rate=0.1, epochs=1, minibatches=1,
    )  # fmt: skip
    value = lambda p: 0.5 * jnp.mean((linear(p, observation) - target) ** 2)  # noqa: E731
    adam = optax.adam(0.1, eps=1e-5)
    updates, _ = adam.update(jax.grad(value)(params), adam.init(params))
    np.testing.assert_allclose(fitted, optax.apply_updates(params, updates), rtol=1e-6)
    np.testing.assert_allclose(loss, value(params), rtol=1e-6)


def test_minibatches_pass_over_every_sample_and_reach_least_squares():
    observation = jax.random.normal(jax.random.key(0), (64, 3))
    truth = jnp.array([1.0, -2.0, 0.5])
    params = jnp.zeros((3,))
    fitted, _, _ = jax.jit(
        lambda: fit_critic(
            linear, params, init_critic_optimizer(params), observation, observation @ truth, jax.random.key(1),
            learning_rate=0.05, epochs=200, minibatches=4,
        )
    )()  # fmt: skip
    np.testing.assert_allclose(fitted, truth, atol=1e-2)


def test_explained_variance():
    target = jnp.array([1.0, 2.0, 3.0])
    assert float(explained_variance(target, target)) == 1.0
    assert float(explained_variance(jnp.full((3,), 9.0), target)) == 0.0
    assert jnp.isnan(explained_variance(target, jnp.ones((3,))))


def test_samples_of_weight_zero_do_not_count():
    rng = np.random.default_rng(0)
    observation, target = (
        jnp.asarray(rng.normal(size=(16, 3)), jnp.float32),
        jnp.asarray(rng.normal(size=16), jnp.float32),
    )
    weight, params = jnp.asarray(np.arange(16) % 4 != 1, float), jnp.ones(3)
    settings = {"learning_rate": 0.1, "epochs": 3, "minibatches": 1}

    def fit(observation, target, **more):
        optimizer = init_critic_optimizer(params)
        return fit_critic(linear, params, optimizer, observation, target, jax.random.key(1), **settings, **more)

    kept = np.flatnonzero(weight)
    some = fit(observation, jnp.where(weight > 0, target, 1e9), weight=weight)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), some, fit(observation[kept], target[kept]))
    value = linear(params, observation)
    expected = explained_variance(value[kept], target[kept])
    np.testing.assert_allclose(explained_variance(value, target, weight), expected, rtol=1e-5)
