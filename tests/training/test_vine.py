"""Vine sampling: what a branch estimates, that restored states go on as they would have, and what the trainer makes of it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

import jtrpo
from jtrpo.core.vine import all_actions_objective
from jtrpo.training.rollout import RolloutState, collect, reset
from jtrpo.training.trainer import make_collect
from jtrpo.training.vine import action_values, branch_actions, rollout_set, root_state
from tests import probes

GAMMA, LENGTH, DRAWS = 0.9, 4, 8192


def flatten(trajectory):
    return jax.tree.map(lambda x: jnp.reshape(x, (-1, *x.shape[2:])), trajectory._replace(memory=()))


# A tabular MDP whose values, and whose variances with and without common random numbers, are known.


def second_moments(mdp, length):
    """E[G G'] of two branches with common random numbers, ``[s, a, s', a']``, by dynamic programming over pairs of states.

    The end is state 3. A pair moves along one uniform number for its actions and one for its next states.
    """
    policy, value = mdp.policy(), np.append(mdp.value(), 0.0)
    edges = np.cumsum(mdp.transition, axis=-1)

    def overlap(first, second):  # chance that one uniform number falls into interval i of the first and j of the second
        starts = [np.concatenate([[0.0], ends[:-1]]) for ends in (first, second)]
        high = np.minimum(first[:, None], second[None, :])
        return np.maximum(0.0, high - np.maximum(starts[0][:, None], starts[1][None, :]))

    pairs = np.outer(value, value)  # of what two branches still have before them, none of whose steps are left
    for _ in range(length):
        moments = np.zeros((3, 2, 3, 2))
        for s, a, t, b in np.ndindex(3, 2, 3, 2):
            r, q = mdp.reward[s, a], mdp.reward[t, b]
            r_next, q_next = mdp.transition[s, a] @ value, mdp.transition[t, b] @ value
            later = (overlap(edges[s, a], edges[t, b]) * pairs).sum()
            moments[s, a, t, b] = r * q + mdp.gamma * (r * q_next + q * r_next) + mdp.gamma**2 * later
        pairs = np.zeros((4, 4))
        for s, t in np.ndindex(3, 3):
            # Of two actions with the same Gumbel noise, the second is taken where one logistic number is below the log-odds.
            chance = overlap(
                np.cumsum(policy[s])[::-1] * 0 + np.array([policy[s, 0], 1.0]), np.array([policy[t, 0], 1.0])
            )
            pairs[s, t] = (chance * moments[s, :, t, :]).sum()
    return moments


@pytest.fixture(scope="module")
def mdp():
    return probes.TabularMDP(GAMMA)


@pytest.fixture(scope="module")
def estimates(mdp):
    """Q of both actions in each of the three states, ``[draw, state, action]``, with and without common random numbers."""
    logits, value = jnp.asarray(mdp.logits, jnp.float32), jnp.asarray(mdp.value(), jnp.float32)
    state = jnp.repeat(jnp.arange(3), DRAWS)
    root = RolloutState(state, jax.nn.one_hot(state, 3), jnp.zeros(3 * DRAWS), jnp.zeros(3 * DRAWS, jnp.int32))
    action = jnp.broadcast_to(jnp.arange(2)[None], (3 * DRAWS, 2))

    def estimate(key, common_noise):
        return action_values(
            mdp,
            lambda observation, memory: (jtrpo.Categorical(observation @ logits), memory),
            lambda observation, memory: observation @ value,
            root,
            action,
            key,
            length=LENGTH,
            gamma=GAMMA,
            common_noise=common_noise,
        )

    both = jax.jit(lambda key: (estimate(key, True), estimate(key, False)))(jax.random.key(0))
    return [np.asarray(q, float).reshape(3, DRAWS, 2).swapaxes(0, 1) for q in both]


@pytest.mark.parametrize("common", [True, False])
def test_the_estimate_is_unbiased(mdp, estimates, common):
    q = estimates[0 if common else 1]
    error = q.mean(axis=0) - mdp.action_value()
    standard_error = q.std(axis=0) / np.sqrt(DRAWS)
    assert (standard_error > 0.005).all()
    assert (np.abs(error) < 4 * standard_error).all(), error / standard_error


def test_common_random_numbers_cut_the_variance_of_the_difference_as_theory_says(mdp, estimates):
    moments, q = second_moments(mdp, LENGTH), mdp.action_value()
    states = np.arange(3)
    variance = np.stack([moments[states, a, states, a] for a in (0, 1)], axis=1) - q**2
    covariance = moments[states, 0, states, 1] - q[:, 0] * q[:, 1]
    alone = variance.sum(axis=1)
    theory = {0: alone - 2 * covariance, 1: alone}
    for which, expected in theory.items():
        difference = estimates[which][..., 0] - estimates[which][..., 1]
        squares = (difference - difference.mean(axis=0)) ** 2
        standard_error = squares.std(axis=0) / np.sqrt(DRAWS)
        assert (np.abs(squares.mean(axis=0) - expected) < 4 * standard_error).all()
    assert (theory[1] > np.array([10, 10, 1.5]) * theory[0]).all()  # the factor is worth having in this MDP


def test_the_gradient_from_branches_is_the_policy_gradient(mdp, estimates):
    visits = mdp.visits()
    logits = jnp.asarray(mdp.logits, jnp.float32)
    actions = jnp.broadcast_to(jnp.arange(2)[None], (3, 2))

    def objective(logits, q):
        batch = jtrpo.Batch(logits, actions, q)
        return jnp.asarray(visits, jnp.float32) @ all_actions_objective(jtrpo.Categorical(logits), batch)

    gradient = np.asarray(jax.vmap(jax.grad(objective), (None, 0))(logits, jnp.asarray(estimates[0], jnp.float32)))
    error = gradient.mean(axis=0) - mdp.policy_gradient()
    assert (np.abs(error) < 4 * gradient.std(axis=0) / np.sqrt(DRAWS)).all()


# Restoring.


def remembering(observation, memory):
    """A policy that acts on the sum of all it has seen in the episode."""
    memory = memory + observation
    return jtrpo.Categorical(memory[:, :2]), memory


def test_a_restored_state_goes_on_with_the_same_bits():
    environment = jtrpo.TrainConfig("CartPole-v1").environment
    num_envs, steps = 4, 30
    once = jax.jit(lambda state, key: collect(environment, remembering, state, key, 1, keep_start=True)[:2])
    state = reset(environment, jax.random.key(0), num_envs, jnp.zeros((num_envs, 4)))
    keys, ends, records = jax.random.split(jax.random.key(1), steps), [], []
    for key in keys:
        state, record = once(state, key)
        ends.append(state)
        records.append(record)
    trunk = jax.tree.map(lambda *x: jnp.concatenate(x), *records)
    assert trunk.done.any()
    name = jnp.arange(num_envs * steps, dtype=float)  # written into the log-probabilities to tell the roots apart
    roots, weight = rollout_set(flatten(trunk)._replace(log_prob=name), jax.random.key(2), num_envs * steps)
    assert weight is None
    np.testing.assert_array_equal(np.sort(roots.log_prob[0]), name)  # each once
    back = jnp.argsort(roots.log_prob[0])
    restored = jax.tree.map(lambda x: x[back], root_state(roots))
    for first in (0, 1, 17):
        state = jax.tree.map(lambda x, first=first: x[first * num_envs : (first + 1) * num_envs], restored)
        for key, end, record in list(zip(keys, ends, records, strict=True))[first:]:
            state, again = once(state, key)
            for a, b in zip(jax.tree.leaves((state, again)), jax.tree.leaves((end, record)), strict=True):
                np.testing.assert_array_equal(a, b)


class Clock(probes.Probe):
    """Reward 1 a step; the clock's fifth step ends the episode, by its own or by the time limit."""

    max_episode_steps = 5

    def __init__(self, ends):
        super().__init__(probes.DISCRETE)
        self.ends = ends

    def observe(self, key, state):
        return jnp.full((1,), state, float)

    def outcome(self, key, state, action):
        last = state == 4
        return jnp.float32(1.0), last & (self.ends == "terminated"), last & (self.ends == "truncated")


def standing(state, observation, memory=()):
    nothing = jnp.zeros(observation.shape[:1])
    return RolloutState(state, observation, nothing, nothing.astype(jnp.int32), memory)


def uniform(observation, memory):
    return jtrpo.Categorical(jnp.zeros((observation.shape[0], 2))), memory


@pytest.mark.parametrize("ends", ["terminated", "truncated"])
@pytest.mark.parametrize("length", [1, 3, 8])
def test_ends_within_a_branch_count_from_the_restored_clock(ends, length):
    clock = np.arange(5)
    root = standing(jnp.asarray(clock), jnp.asarray(clock, jnp.float32)[:, None])
    value = lambda observation, memory: 10.0 + observation[:, 0]  # noqa: E731
    action = jnp.broadcast_to(jnp.arange(2)[None], (5, 2))
    settings = {"length": length, "gamma": GAMMA, "reward_scale": 2.0}
    q = action_values(Clock(ends), uniform, value, root, action, jax.random.key(0), **settings)
    steps = np.minimum(length, 5 - clock)
    goes_on = (clock + steps < 5) | (ends == "truncated")
    expected = (1 - GAMMA**steps) / (1 - GAMMA) / 2 + goes_on * GAMMA**steps * (10 + clock + steps)
    np.testing.assert_allclose(q, np.stack([expected] * 2, axis=1), rtol=1e-6)


def test_a_number_that_is_not_finite_reaches_q_unless_the_episode_was_over():
    class Broken(Clock):
        def outcome(self, key, state, action):
            return jnp.float32(1.0), (state == 2) & (action == 1), jnp.bool_(False)

        def observe(self, key, state):
            return jnp.where(state == 4, jnp.nan, jnp.full((1,), state, float))

    root = standing(jnp.array([2]), jnp.array([[2.0]]))
    hides = lambda observation, memory: jnp.zeros(observation.shape[:1])  # noqa: E731
    action = jnp.array([[0, 1]])
    q = action_values(Broken("never"), uniform, hides, root, action, jax.random.key(0), length=3, gamma=1.0)
    assert np.isnan(q[0, 0])
    assert q[0, 1] == 1.0


@pytest.mark.parametrize(
    "settings",
    [{"memory": "gru"}, pytest.param({"memory": "lstm", "shared_torso": True}, marks=pytest.mark.long)],
    ids=str,
)
def test_a_branch_of_one_step_that_repeats_the_trunk_has_its_value_memory_included(settings):
    config = jtrpo.TrainConfig(
        "CartPole-v1", 2048, 4, 12, hidden_sizes=(8,), sampling="vine", vine_states=8, vine_length=2,
        **settings
    )  # fmt: skip
    trainer, agent = jtrpo.make_trainer(config), jtrpo.make_agent(config)
    state = jax.jit(trainer.init)(jax.random.key(0))

    def compare(state):
        trunk = make_collect(config)(state)
        _, following, _ = agent.values(state, trunk)
        root = root_state(jax.tree.map(lambda x: x[None], flatten(trunk)))
        q = action_values(
            config.environment,
            partial(agent.policy_and_critic, state),
            lambda observation, memory: agent.value(state, observation, memory)[0],
            root,
            trunk.action.reshape(-1, 1),
            jax.random.key(0),
            length=1,
            gamma=GAMMA,
        )
        return q[:, 0], (trunk.reward + jnp.where(trunk.terminated, 0.0, GAMMA * following)).reshape(-1)

    np.testing.assert_allclose(*jax.jit(compare)(state), rtol=2e-5, atol=2e-5)


# The set of states, and the actions.


def one_step(size):
    zeros = jnp.zeros(size)
    start = standing((), zeros)._replace(observation=())
    return jtrpo.training.rollout.Trajectory(
        zeros, zeros, zeros, jnp.arange(size, dtype=float), zeros > 0, zeros > 0, zeros, start=start
    )


def test_uncertain_states_are_chosen_more_often_and_the_weighted_mean_stays_unbiased():
    importance = jnp.array([0.0, 1.0, 5.0, 0.0, 2.0, jnp.nan])

    def draw(key):
        roots, weight = rollout_set(one_step(6), key, 4, importance)
        return roots.reward[0], weight

    reward, weight = (np.asarray(x) for x in jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), 4096)))
    share = np.bincount(reward.astype(int).ravel(), minlength=6) / reward.size
    expected = 0.5 / 6 + 0.5 * np.array([0, 1, 5, 0, 2, 0]) / 8
    assert (np.abs(share - expected) < 4 * np.sqrt(expected / reward.size)).all()
    mean = (weight * reward).mean(axis=1)
    assert abs(mean.mean() - 2.5) < 4 * mean.std() / 64
    assert weight.max() <= 2.0 + 1e-6


@pytest.mark.parametrize("importance", [jnp.zeros(5), jnp.full(5, jnp.nan)])
def test_no_uncertainty_at_all_is_uniform(importance):
    _, weight = rollout_set(one_step(5), jax.random.key(0), 16, importance)
    np.testing.assert_allclose(weight, 1.0, rtol=1e-6)


def test_first_actions_are_all_of_a_small_space_or_samples_of_the_policy():
    distribution = jtrpo.Categorical(jnp.zeros((5, 3)))
    every = branch_actions(spaces.Discrete(3), distribution, jax.random.key(0), 3, True)
    np.testing.assert_array_equal(every, [[0, 1, 2]] * 5)
    parts = jtrpo.Product({"a": distribution, "b": jtrpo.DiagGaussian(jnp.zeros((5, 2)), jnp.zeros(2))})
    space = spaces.Dict({"a": spaces.Discrete(3), "b": spaces.Box(-1, 1, (2,))})
    sampled = branch_actions(space, parts, jax.random.key(0), 400, False)
    assert (sampled["a"].shape, sampled["b"].shape) == ((5, 400), (5, 400, 2))
    assert np.abs(np.asarray(sampled["b"]).mean(axis=1)).max() < 4 / np.sqrt(400)
    assert len(np.unique(sampled["b"])) > 0.99 * sampled["b"].size


# The trainer.


def settings(**changes):
    common = {"num_envs": 8, "num_steps": 4, "hidden_sizes": (16,), "sampling": "vine", "vine_states": 12}
    return {**common, "vine_length": 2, "vine_branches": 4, **changes}


@pytest.mark.parametrize(
    ("space", "change"),
    [(probes.DISCRETE, {"vine_choice": "value_error"}), pytest.param(probes.CONTINUOUS, {}, marks=pytest.mark.long)],
    ids=["all actions, value_error", "sampled"],
)
def test_a_probe_is_solved(space, change):
    config = jtrpo.TrainConfig(probes.MatchObservation(space), 20 * 150, **settings(**change))
    assert config.tries_all_actions == isinstance(space, spaces.Discrete)
    result = jax.jit(jtrpo.make_train(config))(jax.random.key(0), jtrpo.Hyperparams(max_kl=0.05))
    branches = 2 if config.tries_all_actions else 4
    assert config.batch_size == 8 * 4 + 12 * branches * 2
    assert (result.metrics.policy.kl <= 0.05 + 1e-9).all()
    returns = jtrpo.make_trainer(config).evaluate(result.state, jax.random.key(1), 64)
    assert returns.mean() > (0.99 if space is probes.DISCRETE else -0.05)


@pytest.mark.slow
def test_a_masked_space_is_sampled_illegal_actions_are_never_tried_and_every_simulated_step_counts():
    calls = []
    plain = probes.ConstantReward(probes.DISCRETE)

    class Masked(probes.ConstantReward):
        observation_space = spaces.Dict({"x": probes.Probe.observation_space, "action_mask": spaces.MultiBinary(2)})

        def show(self, observation):
            return {"x": observation, "action_mask": jnp.array([1, 0], jnp.int8)}

        def reset(self, key):
            observation, state = plain.reset(key)
            return self.show(observation), state

        def step(self, key, state, action):
            jax.debug.callback(lambda _: calls.append(1), action)
            result = plain.step(key, state, action)
            return result._replace(
                observation=self.show(result.observation),
                final_observation=self.show(result.final_observation),
                reward=jnp.where(action == 1, jnp.nan, 1.0),
            )

    config, branches = jtrpo.TrainConfig(Masked(probes.DISCRETE), 1000, **settings()), 4
    assert not config.tries_all_actions
    trainer = jtrpo.make_trainer(config)
    state, metrics = jax.jit(trainer.step)(trainer.init(jax.random.key(0)))
    jax.effects_barrier()
    assert int(metrics.policy.status) == jtrpo.UpdateStatus.ZERO_GRADIENT  # nothing to choose from, and no NaN
    assert config.batch_size == 8 * 4 + 12 * branches * 2
    assert int(metrics.timesteps) == config.batch_size
    assert config.num_updates == -(-1000 // config.batch_size)
    assert config.actual_timesteps == config.num_updates * config.batch_size
    # The callback runs once for each environment that a vmapped step maps over.
    assert len(calls) == config.batch_size


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"total_timesteps": 79},
            "num_envs * num_steps = 8 * 4 = 32 steps and vine_states * branches * vine_length = 12 * 2 * 2 = 48 more, "
            "80 in all, and total_timesteps is 79",
        ),
        ({"vine_length": 501}, "vine_length must be at most the limit of 500 steps an episode; got 501"),
        ({"vine_states": 33}, "at most the states of a collection, num_envs * num_steps = 8 * 4 = 32; got 33"),
        ({"vine_branches": 1}, "vine_branches must be a whole number of at least 2; got 1"),
        ({"vine_states": 0}, "vine_states must be a whole number of at least 1; got 0"),
        ({"sampling": "vines"}, "sampling must be one of 'single_path', 'vine'; got 'vines'"),
        ({"vine_choice": "best"}, "vine_choice must be one of 'uniform', 'value_error'; got 'best'"),
        ({"reuse": 2}, "needs reuse=1 and preconditioner=None; got reuse=2 and preconditioner=None"),
        ({"preconditioner": "diagonal"}, "got reuse=1 and preconditioner='diagonal'"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_met_are_refused_with_the_arithmetic(change, words):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        jtrpo.TrainConfig("CartPole-v1", **settings(**{"total_timesteps": 1000, **change}))
    assert words in str(caught.value)


def test_without_vine_its_settings_are_left_alone():
    config = jtrpo.TrainConfig("CartPole-v1", 64, num_envs=8, num_steps=4, vine_length=9999)
    assert (config.batch_size, config.branch_steps) == (32, 0)
