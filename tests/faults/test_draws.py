"""Short runs with hyper-parameters drawn from rl-zoo3's search space: never a broken parameter, never a KL beyond max_kl."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jtrpo

pytestmark = pytest.mark.slow

SETTINGS = [  # num_steps, cg_iterations and critic_epochs are static: each group draws its own
    {"env": "CartPole-v1", "num_steps": 32, "cg_iterations": 5, "critic_epochs": 5},
    {"env": "Pendulum-v1", "num_steps": 64, "cg_iterations": 30, "critic_epochs": 1, "critic": "gauss_newton"},
    {"env": "Catch-bsuite", "num_steps": 32, "cg_iterations": 15, "critic_epochs": 30},
]


def draw(rng, draws):
    """rl-zoo3: target_kl 0.001 to 0.1, lr 1e-5 to 2e-3, 1 - gamma 1e-4 to 0.03, 1 - lambda 1e-4 to 0.1, all log-uniform."""
    log = lambda low, high: np.exp(rng.uniform(np.log(low), np.log(high), draws)).astype(np.float32)  # noqa: E731
    return jtrpo.Hyperparams(
        max_kl=jnp.array(log(1e-3, 0.1)),
        gamma=jnp.array(1 - log(1e-4, 0.03)),
        gae_lambda=jnp.array(1 - log(1e-4, 0.1)),
        critic_learning_rate=jnp.array(log(1e-5, 2e-3)),
        cg_damping=jnp.array(log(1e-3, 1.0)),  # not in rl-zoo3's space
        entropy_coefficient=jnp.array(log(1e-8, 0.1)),
    )


@pytest.mark.parametrize("group", [0, *(pytest.param(n, marks=pytest.mark.long) for n in range(1, len(SETTINGS)))])
def test_no_draw_breaks_a_parameter_or_the_trust_region(group, request):
    config = jtrpo.TrainConfig(num_envs=2, hidden_sizes=(8,), critic_minibatches=1, **SETTINGS[group])
    draws, updates = (340, 40) if request.config.getoption("--long") else (64, 8)
    trainer = jtrpo.make_trainer(config)
    numbers = jax.tree.map(lambda x: jnp.broadcast_to(x, (draws,)), draw(np.random.default_rng(group), draws))

    @jax.jit
    @jax.vmap
    def run(key, numbers):
        state, metrics = jax.lax.scan(lambda s, _: trainer.step(s), trainer.init(key, numbers), length=updates)
        return (state.policy_params, state.critic_params), metrics.policy

    params, info = run(jax.random.split(jax.random.key(group), draws), numbers)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
    assert (np.asarray(info.kl) <= np.asarray(numbers.max_kl)[:, None]).all()
    reasons = Counter(jtrpo.UpdateStatus(status).name for status in np.asarray(info.status).flat)
    print(config.env, dict(reasons))
    assert reasons["ACCEPTED"] > 0.9 * draws * updates
    assert not reasons.keys() & {"NON_FINITE_GRADIENT", "NON_FINITE_CANDIDATE"}
