"""The policies that act before and after an update are within ``max_kl`` of one another, whatever the normaliser learned.

Measured apart from the update: by the two states that act, each through its own statistics, on what was collected.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import jtrpo
from jtrpo.tools.checkpoint import Checkpoints
from jtrpo.training.trainer import make_collect
from tests import probes

SMALL = {"num_envs": 8, "num_steps": 16, "hidden_sizes": (8,), "critic_epochs": 1, "critic_minibatches": 1}
UPDATES = 5


def acting_updates(config):
    """An update that also measures mean KL(before || after): of the whole step, and of what the statistics do by themselves."""
    trainer, agent = jtrpo.make_trainer(config), jtrpo.make_agent(config)

    @jax.jit
    def update(before):
        trajectory, (after, metrics) = make_collect(config)(before), trainer.step(before)
        act = lambda state: agent.policy_network(state.policy_params, agent.policy_input(state, trajectory))  # noqa: E731
        left = before._replace(observation_statistics=after.observation_statistics)
        return after, metrics, *(act(before).kl(act(state)).mean() for state in (after, left))

    return update


def assert_within(acting, metrics):
    assert metrics.policy.accepted
    np.testing.assert_allclose(acting, metrics.policy.kl, rtol=1e-3, atol=1e-7)
    assert acting <= metrics.hyperparams.max_kl * (1 + 1e-4)


@pytest.mark.parametrize(
    ("env", "settings"),
    [
        pytest.param("Pendulum-v1", {"box_distribution": "gsde", "initial_log_std": -1.0}, marks=pytest.mark.slow),
        pytest.param(
            "Pendulum-v1",
            {"box_distribution": "state_dependent_gaussian", "hidden_sizes": ()},
            marks=pytest.mark.long,
        ),
        (
            "MountainCarContinuous-v0",
            {
                "box_distribution": "tanh_gaussian", "critic": "gauss_newton", "shared_torso": True, "normalize_values": True,
                "fisher_fraction": 0.25,
            },
        ),
        pytest.param("CartPole-v1", {"memory": "gru", "activation": "relu"}, marks=pytest.mark.long),
    ],
    ids=lambda x: x if isinstance(x, str) else None,
)  # fmt: skip
def test_in_every_update(env, settings, tmp_path):
    config = jtrpo.TrainConfig(env, **{**SMALL, **settings})
    step, moved = acting_updates(config), []
    state = jax.jit(jtrpo.make_trainer(config).init)(jax.random.key(0), jtrpo.Hyperparams(max_kl=0.01))
    for update in range(UPDATES):
        if update == 2:  # a run that was stopped and resumed
            with Checkpoints(tmp_path, config) as checkpoints:
                checkpoints.save(state)
                state = checkpoints.restore().state
        state, metrics, acting, drift = step(state)
        assert_within(acting, metrics)
        moved.append(drift / 0.01)
    assert 0.01 < max(moved) < 0.3  # a tenth by a quadratic model


class Recording(probes.Counting):
    observations: list = []  # noqa: RUF012

    def step(self, action):
        self.observations.append(self.observe())
        return super().step(action)


def test_on_the_host():
    vector = jtrpo.envs.gymnasium.SyncVectorEnv([lambda: Recording(5)] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    config = jtrpo.TrainConfig(vector, **{**SMALL, "num_envs": 2})
    trainer, agent = jtrpo.make_host_trainer(config), jtrpo.make_agent(config)
    state = trainer.init(jax.random.key(0))
    for _ in range(UPDATES):
        before = state
        Recording.observations.clear()
        state, metrics = trainer.step(state)
        assert len(Recording.observations) == 2 * SMALL["num_steps"]
        seen = jnp.stack(Recording.observations)
        acting = agent.policy(before, seen)[0].kl(agent.policy(state, seen)[0]).mean()
        assert_within(acting, metrics)


@pytest.mark.long
def test_the_largest_kl_bounds_the_drift_too_where_it_bounds_the_step():
    config = jtrpo.TrainConfig("Pendulum-v1", 40 * 512, 8, 64, constraint="kl_max", hidden_sizes=(8,))
    train = jax.jit(lambda key: jtrpo.make_train(config)(key, jtrpo.Hyperparams(max_kl=0.02)))
    metrics = train(jax.random.key(0)).metrics
    assert (metrics.policy.kl_max <= 0.02).all()
    assert metrics.policy.accepted.mean() > 0.9
