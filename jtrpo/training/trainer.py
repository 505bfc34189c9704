"""The trainer: init, step, evaluate. ``step`` collects and learns."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jtrpo.core.check import check_callable, check_count
from jtrpo.envs.gymnasium import HostEnvironment
from jtrpo.envs.metrics import own_numbers
from jtrpo.envs.protocol import Environment
from jtrpo.envs.reset_pool import ResetPool
from jtrpo.training.config import TrainConfig, check_config
from jtrpo.training.constrained import check_cost_shape
from jtrpo.training.custom import try_own_functions
from jtrpo.training.episodes import EpisodeSummary, no_episodes, summarize
from jtrpo.training.evaluation import check_evaluate, play_episodes
from jtrpo.training.hyperparams import Hyperparams, check_hyperparams
from jtrpo.training.keys import keys_for
from jtrpo.training.learner import Learner, make_learner
from jtrpo.training.mesh import shardings
from jtrpo.training.report import OnUpdate, make_report
from jtrpo.training.reuse import empty_window
from jtrpo.training.rollout import Trajectory, collect, non_finite, reset, reset_where, staggered_resets
from jtrpo.training.samples import mask_invalid
from jtrpo.training.state import (
    EvaluatedResult,
    Metrics,
    TrainResult,
    TrainState,
    check_state,
    state_shardings,
    step_keys,
)


class Trainer(NamedTuple):
    """Three pure functions that train a policy.

    Attributes:
        init: ``(key, hyperparams=Hyperparams()) -> TrainState``.
        step: ``(state) -> (state, Metrics)``: one update.
        evaluate: ``(state, key, num_episodes=128, *, deterministic=True, max_steps=10_000, summary=False) ->
            returns``, undiscounted, ``[num_episodes]``; with ``summary`` ``(returns, episodes)``, their numbers as in
            ``Metrics.episode``. An episode that is not over after ``max_steps`` counts as far as it came.
    """

    init: Callable[..., TrainState]
    step: Callable[[TrainState], tuple[TrainState, Metrics]]
    evaluate: Callable[..., Any]


def make_trainer(config: TrainConfig) -> Trainer:
    """Build the three functions of a training run. Each is pure and may be jitted and vmapped.

    Args:
        config: static settings.

    Examples:
        >>> config = jtrpo.TrainConfig("CartPole-v1", num_envs=4, num_steps=8, hidden_sizes=(8,))
        >>> trainer = jtrpo.make_trainer(config)
        >>> state = jax.jit(trainer.init)(jax.random.key(0))
        >>> state, metrics = jax.jit(trainer.step)(state)
        >>> int(metrics.timesteps), bool(metrics.policy.kl <= metrics.hyperparams.max_kl)
        (32, True)

    Source: Schulman et al. 2015, Trust Region Policy Optimization, https://arxiv.org/abs/1502.05477, algorithm 1 with the
    generalised advantages of https://arxiv.org/abs/1506.02438.
    """
    training = _training(config)
    try_own_functions(config, lambda key: training.step(training.init(key)))
    return Trainer(training.init, training.step, training.evaluate)


def make_collect(config: TrainConfig) -> Callable[[TrainState], Trajectory]:
    """Build ``(state) -> Trajectory``: what the next step of that state will collect, and nothing else of it.

    Args:
        config: static settings.
    """
    return _training(config).next_trajectory


def make_train(
    config: TrainConfig,
    on_update: OnUpdate | None = None,
    *,
    evaluate_every: int = 0,
    evaluation_episodes: int = 128,
) -> Callable[..., Any]:
    """Build a whole training as one pure function: ``(key, hyperparams=Hyperparams()) -> TrainResult``.

    ``jit`` it; ``vmap`` it over keys (seeds) or over hyper-parameters with a leading axis.

    Args:
        config: static settings.
        on_update: called on the host with the number of each update, from 1, and its metrics while the compiled training goes on:
            :class:`jtrpo.tools.progress.Progress`, say. Under ``vmap`` it is called once for all, with metrics of all. An
            exception in it is logged, and never reaches the training.
        evaluate_every: updates between two evaluations by the most probable actions; one more follows the last update. With them
            the function returns an :class:`EvaluatedResult`, whose ``best_state`` is that of each seed under ``vmap``. The
            training is the same as without. 0: none.
        evaluation_episodes: episodes of each evaluation.

    Examples:
        Three seeds at once; ``train(keys)`` would run them, and this only asks for the shapes:

        >>> config = jtrpo.TrainConfig("CartPole-v1", total_timesteps=64, num_envs=4, num_steps=8, hidden_sizes=(8,))
        >>> train = jax.jit(jax.vmap(jtrpo.make_train(config)))
        >>> keys = jax.random.split(jax.random.key(0), 3)
        >>> jax.eval_shape(train, keys).metrics.policy.kl.shape  # [seeds, updates]
        (3, 2)
        >>> train = jax.vmap(jtrpo.make_train(config, evaluate_every=1))
        >>> jax.eval_shape(train, keys).best_return.shape  # [seeds]
        (3,)
    """
    if on_update is not None:
        check_callable("on_update", on_update, "(update, metrics) -> None", takes=2)
    check_count("evaluate_every", evaluate_every, at_least=0)
    check_count("evaluation_episodes", evaluation_episodes, at_least=1)
    trainer = make_trainer(config)
    report = None if on_update is None else make_report(on_update)

    def step(state: TrainState, _: Any = None) -> tuple[TrainState, Metrics]:
        state, metrics = trainer.step(state)
        if report is not None:
            report(state.update, metrics)
        return state, metrics

    def train(key: PRNGKeyArray, hyperparams: Hyperparams = Hyperparams()) -> TrainResult:
        return TrainResult(*jax.lax.scan(step, trainer.init(key, hyperparams), length=config.num_updates))

    if evaluate_every == 0:
        return train
    updates = np.arange(1, config.num_updates + 1)
    due = (updates % evaluate_every == 0) | (updates == config.num_updates)

    def evaluate(state: TrainState) -> tuple[Float[Array, ""], EpisodeSummary]:
        (key,) = keys_for(state.key, "evaluation in training")
        returns, episodes = trainer.evaluate(state, key, evaluation_episodes, summary=True)
        return returns.mean(), episodes

    def no_evaluation(state: TrainState) -> tuple[Float[Array, ""], EpisodeSummary]:
        own = (state.env_state.episode_cost, state.env_state.episode_metrics)
        return -jnp.full((), jnp.inf), summarize(no_episodes(config.num_envs, jnp, *own))

    def evaluated_step(carry: tuple, due: Array) -> tuple[tuple, tuple]:
        state, best, most = carry
        state, metrics = step(state)
        # `due` is the same for every seed, so that this stays a branch under vmap.
        score, episodes = jax.lax.cond(due, evaluate, no_evaluation, state)
        best = jax.tree.map(partial(jnp.where, score > most), state, best)
        return (state, best, jnp.where(score > most, score, most)), (metrics, score, episodes)

    def evaluated_train(key: PRNGKeyArray, hyperparams: Hyperparams = Hyperparams()) -> EvaluatedResult:
        state = trainer.init(key, hyperparams)
        start = (state, state, jnp.asarray(-jnp.inf, float))
        (state, best, most), (metrics, *evaluated) = jax.lax.scan(evaluated_step, start, jnp.asarray(due))
        returns, episodes = jax.tree.map(lambda x: x[np.flatnonzero(due)], evaluated)
        return EvaluatedResult(state, metrics, best, most, returns, episodes)

    return evaluated_train


@dataclass(frozen=True, eq=False)
class _Training:
    """A learner, and the environment, in JAX, that it is evaluated in; it may learn in shorter episodes of that."""

    config: TrainConfig
    environment: Environment
    learner: Learner
    max_episode_steps: int | None

    @cached_property
    def own_numbers(self) -> tuple[tuple[str, ...], tuple[int, ...] | None]:
        return own_numbers(self.environment, self.config.env_metrics)

    def init(self, key: PRNGKeyArray, hyperparams: Hyperparams = Hyperparams()) -> TrainState:
        check_hyperparams(hyperparams)
        config = self.config
        (env_key,) = keys_for(key, "environments")
        memory = self.learner.agent.empty_memory(config.num_envs)
        env_state = reset(config.training_environment, env_key, config.num_envs, memory, *self.own_numbers)
        observation = jax.tree.map(lambda x: x[0], env_state.observation)
        state = self.learner.init(key, hyperparams, env_state, observation)
        if config.reuse > 1:
            one = jax.eval_shape(lambda: mask_invalid(self.next_trajectory(state)))
            state = state._replace(window=empty_window(one, config.reuse))
        state = jax.tree.map(jnp.copy, state)  # no two share an array, so that a step may donate all of them
        where = state_shardings(config.mesh, state)
        return state if where is None else jax.lax.with_sharding_constraint(state, where)

    def step(self, state: TrainState) -> tuple[TrainState, Metrics]:
        check_state(state)
        state, trajectory, episodes = self.collect(state, step_keys(state)[1])
        return self.learner.learn(state, trajectory, episodes)

    def next_trajectory(self, state: TrainState) -> Trajectory:
        check_state(state)
        return self.collect(state, step_keys(state)[1])[1]

    def collect(self, state: TrainState, key: PRNGKeyArray) -> tuple[TrainState, Trajectory, EpisodeSummary]:
        config, agent = self.config, self.learner.agent
        vine = config.sampling == "vine"
        collect_key, reset_key = jax.random.split(key)
        environment: Any = config.training_environment
        if config.reset_pool:
            reset_key, pool_key = jax.random.split(reset_key)
            environment = ResetPool(environment, pool_key, config.reset_pool)
        env_state, trajectory, episodes = collect(
            environment,
            partial(agent.policy_and_critic if vine else agent.policy, state),
            state.env_state,
            collect_key,
            config.num_steps,
            config.noise_interval,
            keep_start=vine,
            squash=config.squash,
            keep_distribution=self.learner.keeps_distribution,
        )
        cut = non_finite(env_state)
        if self.max_episode_steps is not None and config.num_steps < self.max_episode_steps:
            cut |= staggered_resets(config.num_envs, config.num_steps, state.update, self.max_episode_steps)
        env_state, trajectory = reset_where(config.training_environment, env_state, trajectory, reset_key, cut)
        return state._replace(env_state=env_state), trajectory, episodes

    def evaluate(
        self,
        state: TrainState,
        key: PRNGKeyArray,
        num_episodes: int = 128,
        *,
        deterministic: bool = True,
        max_steps: int = 10_000,
        summary: bool = False,
    ) -> Any:
        check_evaluate(state, num_episodes, deterministic, max_steps, summary)
        config, agent = self.config, self.learner.agent

        def actor(observation: PyTree, memory: PyTree, key: PRNGKeyArray) -> tuple[PyTree, PyTree]:
            distribution, memory = agent.policy(state, observation, memory)
            return distribution.mode() if deterministic else distribution.sample(key), memory

        (key,) = keys_for(key, "evaluation")
        played = play_episodes(
            self.environment,
            actor,
            key,
            num_episodes,
            max_steps,
            agent.empty_memory(num_episodes),
            config.squash,
            config.noise_interval,
            *(self.own_numbers if summary else ()),
        )
        result = (played.return_sum, summarize(played)) if summary else played.return_sum
        if config.mesh is not None:
            result = jax.lax.with_sharding_constraint(result, shardings(config.mesh, result, PartitionSpec()))
        return result


def _training(config: TrainConfig) -> _Training:
    check_config(config)
    environment = config.environment
    if isinstance(environment, HostEnvironment):
        raise ValueError(
            f"{environment} is stepped in Python and cannot be part of a compiled program: use jtrpo.make_host_trainer(config) "
            "instead of make_train or make_trainer"
        )
    limit = config.time_limit  # here, before anything is traced: it may be a JAX array
    if config.env_cost is not None:
        raise ValueError(
            f"env_cost={config.env_cost!r} is for environments of Gymnasium; one in JAX gives its cost in EnvStep.cost"
        )
    training = _Training(config, environment, make_learner(config), limit)
    if config.env_metrics or config.constraint_method is not None:
        check_cost_shape(config, training.own_numbers[1])  # a wrong name among the metrics is refused here, too
    return training
