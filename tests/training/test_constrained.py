"""Training within limits on costs."""

import dataclasses
import re
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

import jtrpo
from jtrpo.envs.hazard import Hazard
from jtrpo.training.constrained import METHODS, CostState
from jtrpo.training.cost_weight import weigh
from jtrpo.training.learner import make_learner
from tests.core.constrained_mdp import Problem

STEPS = 4  # of an episode


class Tempting:
    """An action of 1 earns 1 and costs 1, an action of 0 neither: within a limit c an episode returns c at most."""

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = spaces.Discrete(2)
    max_episode_steps = STEPS

    def __init__(self, costs=()):
        self.costs = jnp.ones(costs)

    def reset(self, key):
        return jnp.zeros(1), jnp.int32(0)

    def step(self, key, state, action):
        done = state + 1 >= STEPS
        observation, start = self.reset(key)
        return jtrpo.EnvStep(
            observation=observation,
            state=jnp.where(done, start, state + 1),
            reward=action.astype(float),
            terminated=done,
            truncated=jnp.bool_(False),
            final_observation=observation,
            cost=action * self.costs,
        )


def config_of(method, env=None, **settings):
    small = {"num_envs": 16, "num_steps": 16, "hidden_sizes": (4,), "critic": "gauss_newton", "critic_epochs": 1}
    return jtrpo.TrainConfig(env or Tempting(), **{**small, **settings}, constraint_method=method)


def each_limit(limits):
    fixed = jtrpo.Hyperparams(max_kl=0.05)
    axes = jtrpo.Hyperparams(*[None] * len(fixed))._replace(cost_limit=0)
    return fixed._replace(cost_limit=jnp.asarray(limits)), axes


MARKS = {"pcpo": pytest.mark.slow, "lagrangian": pytest.mark.long, "pid_lagrangian": pytest.mark.slow}


@pytest.mark.parametrize("method", [pytest.param(each, marks=MARKS.get(each, ())) for each in METHODS])
def test_an_episode_returns_what_its_limit_allows(method):
    limits = [1.0, 2.0, 4.0]
    hyperparams, axes = each_limit(limits)
    train = jtrpo.make_train(config_of(method, total_timesteps=120 * 256))
    metrics = jax.jit(jax.vmap(train, in_axes=(None, axes)))(jax.random.key(0), hyperparams).metrics
    last = metrics.cost.episode[:, -20:].mean(axis=1)
    np.testing.assert_allclose(last, limits, atol=0.2)
    np.testing.assert_allclose(metrics.episode.return_mean[:, -20:].mean(axis=1), limits, atol=0.25)
    assert (metrics.policy.kl <= metrics.hyperparams.max_kl).all()
    assert metrics.cost.explained_variance.shape == metrics.cost.limit.shape == (3, 120)
    np.testing.assert_allclose(metrics.cost.limit[:, 0], limits)


def test_several_costs_are_each_kept_and_told_apart():
    config = config_of("pcpo", Tempting((2,)), total_timesteps=512)
    result = jax.eval_shape(jtrpo.make_train(config), jax.random.key(0))
    assert [x.shape for x in result.metrics.cost.multiplier] == [(2,), (2,)]  # updates of each
    assert jax.tree.leaves(result.state.costs.critic_params)[0].shape[0] == 2
    assert result.state.costs.integral.shape == (2,)


def test_without_a_method_costs_are_recorded_and_nothing_else_is_there():
    state, metrics = jax.eval_shape(lambda key: step_of(config_of(None), key), jax.random.key(0))
    assert (state.costs, metrics.cost) == ((), ())
    assert metrics.episode.cost_mean.shape == ()


def step_of(config, key):
    trainer = jtrpo.make_trainer(config)
    return trainer.step(trainer.init(key))


def costs_of(method):
    return make_learner(config_of(method)).costs


def nothing_yet(number=1):
    zeros = jnp.zeros(number)
    return CostState((), (), (), jnp.zeros(()), jnp.zeros(()), zeros, zeros)


def test_an_episodes_length_is_that_of_the_last_ones():
    costs, state = costs_of("cpo"), SimpleNamespace(costs=nothing_yet())
    episodes = lambda number, length: SimpleNamespace(finished=jnp.int32(number), length_mean=jnp.float32(length))  # noqa: E731
    state.costs = costs.measure_episodes(state, episodes(0, np.nan))
    assert (float(state.costs.episodes), float(state.costs.length)) == (0.0, 0.0)
    state.costs = costs.measure_episodes(state, episodes(1000, 10.0))
    assert float(state.costs.length) == 10.0
    state.costs = costs.measure_episodes(state, episodes(5, 60.0))
    assert float(state.costs.length) == pytest.approx((20 * 10 + 5 * 60) / 25)  # not 1,000 short ones


def test_the_lagrangians_advantages():
    learner = make_learner(config_of("lagrangian"))
    rng = np.random.default_rng(0)
    reward, cost = rng.normal(size=8).astype(np.float32), rng.normal(size=(8, 1)).astype(np.float32)
    targets = 3.0 * rng.normal(size=(1, 8)).astype(np.float32)
    statistics = jax.vmap(lambda _: jtrpo.training.normalization.init_statistics(0.0))(jnp.zeros(1))
    state = SimpleNamespace(costs=nothing_yet()._replace(target_statistics=statistics))
    estimate = SimpleNamespace(advantage=jnp.asarray(cost), target=jnp.asarray(targets), multiplier=jnp.array([0.5]))
    weight = np.array([1, 1, 1, 1, 1, 1, 0, 0], np.float32)
    batch = jtrpo.Batch((), (), jnp.asarray(reward), weight=jnp.asarray(weight))
    got = learner.costs.penalized(state, batch, estimate).advantage[:6]
    reward, cost = reward[:6], cost[:6, 0]
    wanted = (reward - reward.mean()) / reward.std() - 0.5 * (cost - cost.mean()) / targets[0, :6].std()
    np.testing.assert_allclose(got, wanted / 1.5, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"constraint_method": "cop"}, "constraint_method must be one of None, 'cpo'"),
        ({"memory": "gru"}, "does not go with a memory"),
        ({"sampling": "vine", "vine_states": 4, "vine_length": 2}, "does not go with sampling='vine'"),
        ({"constraint": "kl_max"}, "has an update of its own, with constraint='kl' alone; got 'kl_max'"),
        ({"preconditioner": "diagonal"}, "preconditioner=None alone; got 'diagonal'"),
        ({"constraint_method": "lagrangian", "normalize_advantages": False}, "leave normalize_advantages=False out"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        dataclasses.replace(config_of("cpo"), **settings)


def test_an_environment_without_a_cost_or_with_too_many_is_refused():
    with pytest.raises(ValueError, match=r"'CartPole-v1' gives none: return EnvStep.cost, or name a number"):
        jtrpo.make_trainer(config_of("cpo", "CartPole-v1"))
    with pytest.raises(ValueError, match=r"'cpo' takes one cost; got 2: use 'pcpo' or 'lagrangian'"):
        jtrpo.make_trainer(config_of("cpo", Tempting((2,))))
    with pytest.raises(ValueError, match=r"cost_limit must be a finite number at least 0; got -1"):
        jtrpo.Hyperparams(cost_limit=-1.0)


def test_a_hazard_costs_inside_and_ends_at_the_goal():
    hazard, key = Hazard(), jax.random.key(0)
    state = {"position": jnp.array([0.0, 0.0]), "time": jnp.int32(0)}
    inside = hazard.step(key, state, jnp.array([1.0, 0.0]))
    assert (float(inside.cost), bool(inside.terminated)) == (1.0, False)
    assert float(inside.reward) == pytest.approx(0.0, abs=1e-6)  # a tenth nearer, less a tenth
    there = hazard.step(key, {"position": jnp.array([0.65, 0.0]), "time": jnp.int32(59)}, jnp.array([1.0, 0.0]))
    assert (float(there.cost), bool(there.terminated), bool(there.truncated)) == (0.0, True, False)
    late = hazard.step(key, {"position": jnp.array([-0.8, 0.0]), "time": jnp.int32(59)}, jnp.zeros(2))
    assert (bool(late.terminated), bool(late.truncated)) == (False, True)


def test_a_lagrangians_policies_reach_the_optimum_of_a_constrained_mdp(x64):
    """By integral and slope: with the integral alone the policy swings between two that are deterministic, and may stay there."""
    problem = Problem()
    state, action = jnp.divmod(jnp.arange(12), 3)
    limit = 0.85 * float(problem.evaluate(jnp.zeros((4, 3)))[1][1])
    weigh_cost = partial(weigh, "pid_lagrangian", limit=limit, gain=jtrpo.Hyperparams().multiplier_gain)

    def policy(logits, observation):
        return jtrpo.Categorical(observation @ logits)

    def update(carry, number):
        logits, known = carry
        visits, mean, advantage = problem.evaluate(logits)
        weight, (reward, cost) = visits.ravel(), advantage.reshape(-1, 2).T
        *known, multiplier, _ = weigh_cost(*known, mean[1:], first=number == 0)
        reward, cost = (x / jnp.sqrt(weight @ x**2) for x in (reward, cost))
        penalized = (reward - multiplier[0] * cost) / (1 + multiplier[0])
        batch = jtrpo.Batch(jnp.eye(4)[state], action, penalized, weight=weight)
        logits, info = jtrpo.trpo_update(policy, logits, batch, max_kl=0.0003, cg_damping=1e-4)
        return (logits, known), (mean, info.kl)

    start = (jnp.zeros((4, 3)), [jnp.zeros(1), jnp.zeros(1)])
    mean, kl = jax.jit(lambda start: jax.lax.scan(update, start, jnp.arange(2000))[1])(start)
    reward, cost = mean[1000:].mean(axis=0)
    assert (kl <= 0.0003).all()
    assert cost <= limit
    best, _ = problem.optimum([limit])
    assert 0.99 * best <= reward <= best
