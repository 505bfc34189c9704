import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jtrpo
from tests import probes

GAMMA = 0.8
SIGNS = jnp.array([[-1.0], [0.0], [1.0]])
# What is asked of each probe: observations, of SIGNS, and their values.
VALUES = {
    probes.ConstantReward: ([1], [1.0]),
    probes.ObservedReward: ([0, 2], [-1.0, 1.0]),
    probes.TwoSteps: ([1, 2], [GAMMA, 1.0]),
    probes.TruncatedOnly: ([1], [1.0 / (1.0 - GAMMA)]),
}
PROBES = [*VALUES, probes.MatchObservation]


class AnyOf(probes.Probe):
    """Each of PROBES in turn, by a number that may be traced: all are trained by one compiled program."""

    def __init__(self, space, kind):
        super().__init__(space)
        self.probes, self.kind = [probe(space) for probe in PROBES], kind

    def reset(self, key):
        return jax.lax.switch(self.kind, [probe.reset for probe in self.probes], key)

    def step(self, key, state, action):
        return jax.lax.switch(self.kind, [probe.step for probe in self.probes], key, state, action)


def train(env, updates, **settings):
    """The metrics, and the value and the policy's distribution at each of SIGNS."""
    config = jtrpo.TrainConfig(
        env=env,
        total_timesteps=updates * 256,
        num_envs=32,
        num_steps=8,
        hidden_sizes=(16,),
        normalize_observations=False,
        scale_rewards=False,
        critic_epochs=4,
        **settings,
    )
    hyperparams = jtrpo.Hyperparams(max_kl=0.01, gamma=GAMMA, critic_learning_rate=1e-2)
    state, metrics = jtrpo.make_train(config)(jax.random.key(0), hyperparams)
    agent = jtrpo.make_agent(config)
    return metrics, agent.value(state, SIGNS)[0], agent.policy(state, SIGNS)[0]


@pytest.fixture(scope="module", params=[probes.DISCRETE, probes.CONTINUOUS], ids=["discrete", "continuous"])
def trained(request):
    space = request.param
    every = jax.jit(jax.vmap(lambda kind: train(AnyOf(space, kind), updates=60)))(jnp.arange(len(PROBES)))
    return space, {probe: jax.tree.map(lambda x, i=i: x[i], every) for i, probe in enumerate(PROBES)}


@pytest.mark.parametrize("probe", VALUES)
def test_value_of_a_probe_is_exact(trained, probe):
    metrics, value, _ = trained[1][probe]
    seen, expected = VALUES[probe]
    np.testing.assert_allclose(value[jnp.array(seen)], expected, atol=0.03)
    assert jnp.all(metrics.policy.kl <= 0.01)


def test_policy_learns_what_the_observation_tells(trained):
    space, results = trained
    metrics, _, distribution = results[probes.MatchObservation]
    assert jnp.all(metrics.policy.kl <= 0.01)
    if space is probes.DISCRETE:
        assert jnp.all(jnp.exp(distribution.log_prob(jnp.array([0, 0, 1])))[jnp.array([0, 2])] > 0.95)
    else:
        np.testing.assert_allclose(distribution.mode()[:, 0][jnp.array([0, 2])], [-0.5, 0.5], atol=0.1)
        assert jnp.all(jnp.exp(distribution.log_std) < 0.5)


SHARED = {"normalize_values": True, "shared_torso": True}


@pytest.mark.parametrize(
    "settings",
    [
        {"critic": "gauss_newton", **SHARED},
        pytest.param({"critic": "gauss_newton"}, marks=pytest.mark.slow),
        pytest.param(SHARED, marks=pytest.mark.slow),
    ],
    ids=["both", "gauss_newton", "shared_torso"],
)
def test_every_kind_of_critic_learns_the_value_of_a_time_limit_that_never_ends_anything(settings):
    metrics, value, _ = jax.jit(lambda: train(probes.TruncatedOnly(probes.DISCRETE), updates=80, **settings))()
    np.testing.assert_allclose(value[1], 1.0 / (1.0 - GAMMA), atol=0.05)
    assert jnp.all(metrics.policy.kl <= 0.01)
    assert float(metrics.critic.loss[-1]) < float(metrics.critic.loss[0])
