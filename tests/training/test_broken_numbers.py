"""What is not finite is refused and reported, and training goes on from what was whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jtrpo
from jtrpo.training.normalization import init_statistics, update_statistics
from jtrpo.training.trainer import make_collect
from tests import probes


class Faulty(probes.MatchObservation):
    """Goes wrong once in a while, in one place; a broken observation stays broken, since it belongs to the state."""

    def __init__(self, place, value):
        super().__init__(probes.DISCRETE)
        self.place, self.value = place, value

    def reset(self, key):
        observation, sign = super().reset(key)
        return observation, (sign, jnp.float32(0.0))

    def step(self, key, state, action):
        fault_key, reset_key = jax.random.split(key)
        fault = jnp.where(jax.random.bernoulli(fault_key, 0.002), self.value, 0.0)
        at = lambda place: fault if place == self.place else 0.0  # noqa: E731
        (sign, wound), never = state, jnp.bool_(False)
        reward = ((action == 1) == (sign == 1)).astype(float)
        observation, (sign, _) = self.reset(reset_key)
        wound = wound + at("observation")
        observation = observation + wound
        return jtrpo.EnvStep(
            observation, (sign, wound), reward + at("reward"), never, never, observation + at("final_observation")
        )


def finite(tree):
    leaves = [x for x in jax.tree.leaves(tree) if not jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)]
    return all(np.isfinite(x).all() for x in leaves)


@pytest.mark.parametrize(
    ("place", "value", "settings"),
    [
        ("reward", np.nan, {"critic": "gauss_newton", "critic_epochs": 1}),
        ("reward", np.inf, {}),
        ("observation", np.nan, {"memory": "gru"}),
        ("observation", np.inf, {"normalize_observations": False}),
        ("final_observation", -np.inf, {}),
    ],
)
def test_a_fault_of_the_environment_costs_the_updates_that_saw_it_and_no_more(place, value, settings):
    config = jtrpo.TrainConfig(
        Faulty(place, value), num_envs=8, num_steps=16, hidden_sizes=(8,), critic_minibatches=2, **settings
    )
    trainer = jtrpo.make_trainer(config)
    step, collect = jax.jit(trainer.step), jax.jit(make_collect(config))
    state = jax.jit(trainer.init)(jax.random.key(0))
    broken = whole = 0
    for _ in range(40):
        trajectory = collect(state)
        fault = not finite((trajectory.reward, trajectory.observation, trajectory.final_observation))
        before = state
        state, metrics = step(state)
        if fault:
            broken += 1
            assert not metrics.policy.accepted
            assert metrics.policy.status == jtrpo.UpdateStatus.NON_FINITE_GRADIENT
            same = jax.tree.map(np.array_equal, before.policy_params, state.policy_params)
            assert jax.tree.all(same)
        elif broken:
            whole += bool(metrics.policy.accepted)
        assert bool(metrics.critic.accepted) or fault
        assert finite((state.policy_params, state.critic_params, state.critic_optimizer, state.env_state.memory))
        assert finite((state.observation_statistics, state.return_statistics, state.discounted_return))
        assert finite(state.env_state.observation)  # a broken environment begins anew
    assert broken >= 2
    assert whole >= 2  # training went on after a fault


def test_a_critic_that_diverges_comes_back_as_it_was_and_leaves_the_policy_finite():
    config = jtrpo.TrainConfig(probes.MatchObservation(probes.DISCRETE), num_envs=8, num_steps=16, hidden_sizes=(8,))
    trainer = jtrpo.make_trainer(config)
    state = trainer.init(jax.random.key(0), jtrpo.Hyperparams(critic_learning_rate=1e30))
    following, metrics = jax.jit(trainer.step)(state)
    assert not metrics.critic.accepted
    assert jax.tree.all(jax.tree.map(np.array_equal, state.critic_params, following.critic_params))
    assert jax.tree.all(jax.tree.map(np.array_equal, state.critic_optimizer, following.critic_optimizer))
    assert finite(following.policy_params)


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_statistics_leave_out_a_batch_that_would_ruin_them(value):
    healthy = update_statistics(init_statistics(jnp.zeros(2)), jnp.array([[1.0, 2.0], [3.0, 5.0]]))
    after = update_statistics(healthy, jnp.array([[1.0, value], [-1.0, -value]]))
    assert jax.tree.all(jax.tree.map(np.array_equal, healthy, after))
