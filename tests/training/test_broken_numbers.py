"""What is not finite is left out and counted, and training goes on with what is whole."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jtrpo
from jtrpo.training.learner import make_learner
from jtrpo.training.normalization import init_statistics, update_statistics
from jtrpo.training.trainer import make_collect
from tests import probes

PLACES = ("reward", "observation", "final_observation")


class Faulty(probes.MatchObservation):
    """Goes wrong once in a while, in any place and way; a broken observation stays broken, since it belongs to the state."""

    def __init__(self):
        super().__init__(probes.DISCRETE)

    def reset(self, key):
        observation, sign = super().reset(key)
        return observation, (sign, jnp.float32(0.0))

    def step(self, key, state, action):
        when, where, what, reset_key = jax.random.split(key, 4)
        broken = jax.random.bernoulli(when, 0.005)
        value = jax.random.choice(what, jnp.array([jnp.nan, jnp.inf, -jnp.inf]))
        place = jax.random.randint(where, (), 0, len(PLACES))
        at = lambda name: jnp.where(broken & (place == PLACES.index(name)), value, 0.0)  # noqa: E731
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


@functools.cache
def faulty(**settings):
    """A state, and the program of an update together with what it collects."""
    config = jtrpo.TrainConfig(Faulty(), num_envs=8, num_steps=16, hidden_sizes=(8,), critic_minibatches=2, **settings)
    trainer = jtrpo.make_trainer(config)
    update = jax.jit(lambda state: (*trainer.step(state), make_collect(config)(state)))
    return jax.jit(trainer.init)(jax.random.key(0)), update


@pytest.mark.parametrize(
    "settings",
    [
        {},
        pytest.param(
            {"memory": "gru", "critic": "gauss_newton", "critic_epochs": 1, "normalize_observations": False},
            marks=pytest.mark.long,
        ),
    ],
    ids=["defaults", "memory"],
)
def test_a_fault_of_the_environment_costs_the_samples_that_have_it_and_no_more(settings):
    state, update = faulty(**settings)
    broken = np.zeros(len(PLACES), int)
    for _ in range(40):
        state, metrics, trajectory = update(state)
        numbers = (trajectory.reward, trajectory.observation[..., 0], trajectory.final_observation[..., 0])
        faults = ~np.isfinite(np.asarray(numbers))
        bad = faults.any(axis=0)
        broken += faults.any(axis=(1, 2))
        assert metrics.samples.invalid == bad.sum()
        assert metrics.policy.accepted
        assert metrics.critic.accepted
        assert finite((state.policy_params, state.critic_params, state.critic_optimizer, state.env_state.memory))
        assert finite((state.observation_statistics, state.return_statistics, state.discounted_return))
        assert finite(state.env_state.observation)  # a broken environment begins anew
    assert (broken >= 2).all()
    counted = state.return_statistics.samples
    assert 0.8 * 40 * 128 < counted < 40 * 128


@pytest.mark.slow
@pytest.mark.parametrize("memory", [None, pytest.param("gru", marks=pytest.mark.long)])
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
    state, update = faulty()
    state = state._replace(hyperparams=state.hyperparams._replace(critic_learning_rate=jnp.float32(1e30)))
    following, metrics, _ = update(state)
    assert not metrics.critic.accepted
    assert jax.tree.all(jax.tree.map(np.array_equal, state.critic_params, following.critic_params))
    assert jax.tree.all(jax.tree.map(np.array_equal, state.critic_optimizer, following.critic_optimizer))
    assert finite(following.policy_params)


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_statistics_leave_out_a_batch_that_would_ruin_them(value):
    healthy = update_statistics(init_statistics(jnp.zeros(2)), jnp.array([[1.0, 2.0], [3.0, 5.0]]))
    after = update_statistics(healthy, jnp.array([[1.0, value], [-1.0, -value]]))
    assert jax.tree.all(jax.tree.map(np.array_equal, healthy, after))
