import jax
import jax.numpy as jnp
import pytest

import jtrpo
from tests import probes

GAMMA = 0.8


def train(probe, updates, **settings):
    config = jtrpo.TrainConfig(
        env=probe,
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
    result = jax.jit(jtrpo.make_train(config))(jax.random.key(0), hyperparams)
    assert jnp.all(result.metrics.policy.kl <= 0.01)
    return result, jtrpo.make_agent(config)


@pytest.mark.parametrize("space", [probes.DISCRETE, probes.CONTINUOUS], ids=["discrete", "continuous"])
@pytest.mark.parametrize(
    ("probe", "observations", "values"),
    [
        (probes.ConstantReward, [0.0], [1.0]),
        (probes.ObservedReward, [-1.0, 1.0], [-1.0, 1.0]),
        (probes.TwoSteps, [0.0, 1.0], [GAMMA, 1.0]),
        (probes.TruncatedOnly, [0.0], [1.0 / (1.0 - GAMMA)]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_value_of_a_probe_is_exact(probe, space, observations, values):
    result, agent = train(probe(space), updates=60)
    learned, _ = agent.value(result.state, jnp.array(observations)[:, None])
    assert jnp.allclose(learned, jnp.array(values), atol=0.03), learned


def test_policy_learns_what_the_observation_tells_discrete():
    result, agent = train(probes.MatchObservation(probes.DISCRETE), updates=60)
    distribution, _ = agent.policy(result.state, jnp.array([[-1.0], [1.0]]))
    assert jnp.all(jnp.exp(distribution.log_prob(jnp.array([0, 1]))) > 0.95)


def test_policy_learns_what_the_observation_tells_continuous():
    result, agent = train(probes.MatchObservation(probes.CONTINUOUS), updates=60)
    distribution, _ = agent.policy(result.state, jnp.array([[-1.0], [1.0]]))
    assert jnp.allclose(distribution.mode()[:, 0], jnp.array([-0.5, 0.5]), atol=0.1)
    assert jnp.all(jnp.exp(distribution.log_std) < 0.5)


@pytest.mark.parametrize(
    "settings", [{"critic": "gauss_newton"}, {"normalize_values": True}, {"shared_torso": True}], ids=lambda s: next(iter(s))
)  # fmt: skip
def test_every_kind_of_critic_learns_the_value_of_a_time_limit_that_never_ends_anything(settings):
    result, agent = train(probes.TruncatedOnly(probes.DISCRETE), updates=80, **settings)
    learned, _ = agent.value(result.state, jnp.zeros((1, 1)))
    assert jnp.allclose(learned, 1.0 / (1.0 - GAMMA), atol=0.05), learned
    assert float(result.metrics.critic.loss[-1]) < float(result.metrics.critic.loss[0])
