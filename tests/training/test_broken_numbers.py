"""What is not finite is left out and counted, and training goes on with what is whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jtrpo
from jtrpo.training.normalization import init_statistics, update_statistics
from jtrpo.training.trainer import make_collect, make_learner
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
def test_a_fault_of_the_environment_costs_the_samples_that_have_it_and_no_more(place, value, settings):
    config = jtrpo.TrainConfig(
        Faulty(place, value), num_envs=8, num_steps=16, hidden_sizes=(8,), critic_minibatches=2, **settings
    )
    trainer = jtrpo.make_trainer(config)
    step, collect = jax.jit(trainer.step), jax.jit(make_collect(config))
    state = jax.jit(trainer.init)(jax.random.key(0))
    broken = 0
    for _ in range(40):
        trajectory = jax.device_get(collect(state))
        numbers = (trajectory.reward, trajectory.observation[..., 0], trajectory.final_observation[..., 0])
        bad = ~np.isfinite(numbers).all(axis=0)
        state, metrics = step(state)
        broken += bad.any()
        assert metrics.samples.invalid == bad.sum()
        assert metrics.policy.accepted
        assert metrics.critic.accepted
        assert finite((state.policy_params, state.critic_params, state.critic_optimizer, state.env_state.memory))
        assert finite((state.observation_statistics, state.return_statistics, state.discounted_return))
        assert finite(state.env_state.observation)  # a broken environment begins anew
    assert broken >= 2
    counted = state.return_statistics.samples
    assert 0.8 * 40 * 128 < counted < 40 * 128


@pytest.mark.parametrize("memory", [None, "gru"])
def test_nothing_of_a_broken_sample_reaches_the_update_but_its_place(memory):
    config = jtrpo.TrainConfig("CartPole-v1", num_envs=4, num_steps=16, hidden_sizes=(8,), memory=memory, reuse=2)
    state = jax.jit(jtrpo.make_trainer(config).init)(jax.random.key(0))
    whole = jax.jit(make_collect(config))(state)
    nothing = jtrpo.training.rollout.EpisodeSummary(*[jnp.zeros(())] * 5)
    learn = jax.jit(lambda trajectory: make_learner(config).learn(state, trajectory, nothing))
    results = []
    for value in (jnp.nan, jnp.inf, -jnp.inf):
        reward = whole.reward.at[3, 1].set(value).at[0, 2].set(-value)
        observation = whole.observation.at[7, 3, 1].set(value)
        final = whole.final_observation.at[6, 3, 1].set(value)
        results.append(learn(whole._replace(reward=reward, observation=observation, final_observation=final)))
    for each in results:
        assert each[1].samples.invalid == 4  # the step before a broken observation has no future that is known
        assert each[1].policy.accepted
        compared = [
            (r[0].policy_params, r[0].critic_params, r[0].observation_statistics, r[1]) for r in (results[0], each)
        ]
        jax.tree.map(np.testing.assert_array_equal, *compared)
    alone = learn(whole)[1]
    assert alone.samples.invalid == 0
    assert alone.policy.objective_after != results[0][1].policy.objective_after


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
