"""The trainer: init, step, evaluate. ``step`` collects and learns; ``learn`` is the algorithm, one named function per line."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from jtrpo.core.advantage import gae
from jtrpo.core.batch import Batch
from jtrpo.core.check import check_callable, check_count, check_static
from jtrpo.core.objective import Objective, likelihood_ratio, log_prob_of_each, mean_kl
from jtrpo.core.trpo import TRPOInfo, trpo_update
from jtrpo.core.vine import all_actions_objective, self_normalized_objective
from jtrpo.envs.gymnasium import HostEnvironment
from jtrpo.envs.protocol import time_limit
from jtrpo.networks.torso import numeric
from jtrpo.training.agent import Agent, make_agent
from jtrpo.training.config import Hyperparams, TrainConfig, as_arrays, check_config, check_hyperparams
from jtrpo.training.critic import CriticInfo, explained_variance, fit_critic, init_critic_optimizer
from jtrpo.training.gauss_newton import fit_gauss_newton
from jtrpo.training.keys import keys_for
from jtrpo.training.mesh import environment_axes, on_each_device, shardings
from jtrpo.training.normalization import (
    RunningStatistics,
    all_finite,
    init_statistics,
    merge,
    moments,
    normalize,
    standard_deviation,
    update_statistics,
)
from jtrpo.training.report import OnUpdate, make_report
from jtrpo.training.reuse import empty_window, slide_window, weigh_for_today
from jtrpo.training.rollout import (
    Actor,
    EpisodeSummary,
    RolloutState,
    Trajectory,
    begin_anew,
    broken,
    collect,
    discounted_returns,
    play_episodes,
    reset,
    staggered,
    strong,
)
from jtrpo.training.samples import SampleInfo, mask_invalid, sample_info
from jtrpo.training.schedule import numbers_in_force
from jtrpo.training.vine import action_values, branch_actions, policy_and_critic, rollout_set, standing_at

DRIFT = 0.1
"""Share of ``max_kl`` by which new statistics of the observations may move the policy that acts."""

GAUSS_NEWTON_DAMPING = 1e-2
"""Of the Gauss-Newton critic, whose trust region does most of the work."""


class TrainState(NamedTuple):
    """Everything the next step needs; save it and training goes on as if it had never stopped.

    Attributes:
        policy_params: the policy network's parameters.
        critic_params: the critic network's parameters.
        critic_optimizer: Adam's moments; ``()`` where the critic is fitted by Gauss-Newton steps.
        env_state: the environments' states, last observations, episodes under way and the networks' memory of them.
        observation_statistics: running moments of the observations.
        return_statistics: running moments of the discounted return.
        discounted_return: discounted return so far in each environment, ``[num_envs]``.
        target_statistics: running moments of the value targets.
        hyperparams: the algorithm's numbers; replace them to change course in mid-training.
        key: random key.
        update: updates done.
        window: the collections before the newest that updates learn from; ``()`` without sample reuse.
    """

    policy_params: PyTree
    critic_params: PyTree
    critic_optimizer: optax.OptState
    env_state: RolloutState
    observation_statistics: RunningStatistics
    return_statistics: RunningStatistics
    discounted_return: Float[Array, " num_envs"]
    target_statistics: RunningStatistics
    hyperparams: Hyperparams
    key: PRNGKeyArray
    update: Int[Array, ""]
    window: PyTree = ()


def check_state(state: Any) -> None:
    """Raise unless ``state`` is of one training.

    Raises:
        TypeError: something else than a :class:`TrainState`.
        ValueError: the states of several trainings, or one that was donated.
    """
    if not isinstance(state, TrainState):
        raise TypeError(
            f"state must be a jtrpo.TrainState, as init gives it; got {type(state).__name__} (step returns a pair, state and "
            "metrics, and make_train's function a TrainResult, whose state it is)"
        )
    if jnp.ndim(state.update) != 0:
        raise ValueError(
            f"state must be of one training; got those of an axis of shape {jnp.shape(state.update)}: jax.vmap over it, or "
            "take one by jax.tree.map(lambda x: x[0], state)"
        )
    known = [x for x in jax.tree.leaves(state) if isinstance(x, jax.Array) and not isinstance(x, jax.core.Tracer)]
    if any(leaf.is_deleted() for leaf in known):
        raise ValueError("state was donated to a step; go on with what the step returned")


class Metrics(NamedTuple):
    """What one update reports.

    Attributes:
        timesteps: environment steps taken so far.
        hyperparams: the numbers in force, schedules and annealing included.
        episode: the episodes that finished while this update's batch was collected.
        samples: how much the samples count.
        policy: the policy update.
        critic: the critic fit.
    """

    timesteps: Array
    hyperparams: Hyperparams
    episode: EpisodeSummary
    samples: SampleInfo
    policy: TRPOInfo
    critic: CriticInfo


class Trainer(NamedTuple):
    """Three pure functions that train a policy.

    Attributes:
        init: ``(key, hyperparams=Hyperparams()) -> TrainState``.
        step: ``(state) -> (state, Metrics)``: one update.
        evaluate: ``(state, key, num_episodes=128, *, deterministic=True) -> returns``, undiscounted, ``[num_episodes]``.
    """

    init: Callable[..., TrainState]
    step: Callable[[TrainState], tuple[TrainState, Metrics]]
    evaluate: Callable[..., Float[Array, " num_episodes"]]


class TrainResult(NamedTuple):
    """What a whole training returns.

    Attributes:
        state: the state after the last update.
        metrics: one entry per update along the leading axis.
    """

    state: TrainState
    metrics: Metrics


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
    return _build(config)[0]


def make_collect(config: TrainConfig) -> Callable[[TrainState], Trajectory]:
    """Build ``(state) -> Trajectory``: what the next step of that state will collect, and nothing else of it.

    Args:
        config: static settings.
    """
    return _build(config)[1]


class Learner(NamedTuple):
    """What of a training never touches an environment: the same for those in JAX and for those on the host.

    Attributes:
        init: ``(key, hyperparams, env_state, observation) -> TrainState``, from one observation; without a window of collections.
        learn: ``(state, trajectory, episodes) -> (state, Metrics)``: one update, from what that state collected.
    """

    init: Callable[[PRNGKeyArray, Hyperparams, RolloutState, PyTree], TrainState]
    learn: Callable[[TrainState, Trajectory, EpisodeSummary], tuple[TrainState, Metrics]]


def make_learner(config: TrainConfig) -> Learner:
    """Build the part of a training that is left when its environments are taken away.

    Args:
        config: static settings.
    """
    agent = make_agent(config)
    axis_name = None if config.mesh is None else environment_axes(config.mesh)
    sequence_length = 1 if config.memory is None else config.num_steps
    vine = config.sampling == "vine"
    normalizes = config.normalize_observations and any(jax.tree.leaves(numeric(config.environment.observation_space)))
    environment: Any = config.environment  # which only the branches of "vine" act in, and those are never on the host
    objective: Objective = likelihood_ratio
    if vine:
        objective = all_actions_objective if config.tries_all_actions else self_normalized_objective

    def init(key: PRNGKeyArray, hyperparams: Hyperparams, env_state: RolloutState, observation: PyTree) -> TrainState:
        policy_key, critic_key, key = keys_for(key, "policy", "critic", "training")
        critic_params = agent.init_critic(critic_key, observation)
        return strong(
            TrainState(
                policy_params=agent.init_policy(policy_key, observation),
                critic_params=critic_params,
                critic_optimizer=init_critic_optimizer(critic_params) if config.critic == "adam" else (),
                env_state=env_state,
                observation_statistics=init_statistics(observation, samples=1e-12),
                return_statistics=init_statistics(0.0),
                discounted_return=jnp.zeros((config.num_envs,)),
                target_statistics=init_statistics(0.0),
                hyperparams=as_arrays(hyperparams),
                key=key,
                update=jnp.int32(0),
            )
        )

    def learn(state: TrainState, trajectory: Trajectory, episodes: EpisodeSummary) -> tuple[TrainState, Metrics]:
        key, _, critic_key, vine_key = step_keys(state)
        base, numbers = state.hyperparams, numbers_in_force(config, state.hyperparams, state.update)
        # Where one number is out of range none counts, and by their NaN nothing learns.
        in_range = numbers.in_range()
        usable = jax.tree.map(lambda x: jnp.where(in_range, x, jnp.nan), numbers)
        state = state._replace(key=key, hyperparams=usable)
        trajectory = mask_invalid(trajectory)
        state, recent = recall(state, trajectory)
        acting = state
        state = learn_statistics(state, trajectory)
        state, batch, target, variance_explained, samples = estimate_advantages(state, recent, acting)
        where, tried = branch(state, trajectory, batch, vine_key) if vine else (recent, batch)
        state, policy_info = improve_policy(state, tried, acting, where)
        state, critic_loss, fitted = improve_critic(state, recent, target, batch.weight, critic_key)
        state = state._replace(hyperparams=base, update=state.update + 1)
        critic_info = CriticInfo(critic_loss, variance_explained, fitted)
        return state, Metrics(timesteps_after(state), numbers, episodes, samples, policy_info, critic_info)

    def learn_statistics(state: TrainState, trajectory: Trajectory) -> TrainState:
        # Before anything is learned from the collection, so that no number of it is in the units of earlier ones.
        if normalizes:
            state = state._replace(observation_statistics=follow_observations(state, trajectory))
        if config.scale_rewards:
            running, returns = discounted_returns(trajectory, state.discounted_return, state.hyperparams.gamma)
            statistics = update_statistics(state.return_statistics, returns, trajectory.valid, axis_name)
            state = state._replace(return_statistics=statistics, discounted_return=running)
        return state

    def follow_observations(state: TrainState, trajectory: Trajectory) -> RunningStatistics:
        old = state.observation_statistics
        new = moments(old, trajectory.observation, trajectory.valid, axis_name)
        acting = agent.distribution(state, trajectory)
        weight = agent.flatten(trajectory.valid).astype(float)

        def go(part: Array) -> RunningStatistics:
            """A part of the way to the merged statistics, which is the share n_b / (n_a + n_b) of that to the new ones."""
            return merge(old, new, part * old.samples / (old.samples + new.samples * (1.0 - part)))

        part = jnp.ones(())
        for _ in range(2):  # the drift is about quadratic in the part, the more so the smaller it is
            there = agent.distribution(state._replace(observation_statistics=go(part)), trajectory)
            if (
                config.constraint == "kl_max"
            ):  # in the measure that bounds the step, or no candidate would ever be inside
                drift = jnp.max(jnp.where(weight > 0, acting.kl(there), 0.0))
                drift = drift if axis_name is None else jax.lax.pmax(drift, axis_name)
            else:
                drift = mean_kl(acting, there, weight=weight, axis_name=axis_name)
            most = DRIFT * state.hyperparams.max_kl
            part = jnp.where(drift > most, part * jnp.sqrt(most / drift), part)
        return go(jnp.where(jnp.isfinite(drift), part, 0.0))

    def recall(state: TrainState, trajectory: Trajectory) -> tuple[TrainState, Trajectory]:
        if config.reuse == 1:
            return state, trajectory
        window, recent = slide_window(state.window, trajectory)
        return state._replace(window=window), recent

    def estimate_advantages(
        state: TrainState, trajectory: Trajectory, acting: TrainState
    ) -> tuple[TrainState, Batch, Array, Array, SampleInfo]:
        value, next_value, critic_memory = agent.values(state, trajectory)
        log_prob, ratio = agent.flatten(trajectory.log_prob), None
        if config.reuse > 1:
            now = agent.distribution(acting, trajectory).log_prob(agent.flatten(trajectory.action))
            flat_ratio = jnp.where(agent.flatten(trajectory.valid), jnp.exp(now - log_prob), 1.0)
            ratio = flat_ratio.reshape(trajectory.reward.shape[::-1]).T
            log_prob = weigh_for_today(log_prob, now)
        known = jnp.isfinite(value) & (jnp.isfinite(next_value) | trajectory.terminated)
        usable = trajectory.valid & known
        advantage, target = gae(
            jnp.where(usable, trajectory.reward / reward_scale(state), 0.0),
            jnp.where(usable, value, 0.0),
            jnp.where(usable, next_value, 0.0),
            trajectory.terminated,
            trajectory.truncated | ~usable,
            gamma=state.hyperparams.gamma,
            gae_lambda=state.hyperparams.gae_lambda,
            ratio=ratio,
        )
        newest = slice(config.reuse - 1, None, config.reuse)
        critic_memory = jax.tree.map(lambda x: x[newest], critic_memory)
        memory = state.env_state.memory._replace(critic=critic_memory)
        state = state._replace(env_state=state.env_state._replace(memory=memory))
        action, flat_advantage, weight = agent.flatten((trajectory.action, advantage, usable.astype(advantage.dtype)))
        batch = Batch(agent.policy_sees(state, trajectory), action, flat_advantage, log_prob, weight)
        new_value, new_target, new = (agent.flatten(x[:, newest]) for x in (value, target, usable))
        explained = explained_variance(new_value, new_target, new, axis_name)
        samples = sample_info(usable, usable[:, newest], ratio, axis_name)
        return state, batch, agent.flatten(target), explained, samples

    def reward_scale(state: TrainState) -> float | Float[Array, ""]:
        return standard_deviation(state.return_statistics) if config.scale_rewards else 1.0

    def branch(state: TrainState, trunk: Trajectory, batch: Batch, key: PRNGKeyArray) -> tuple[Trajectory, Batch]:
        choice_key, action_key, branch_key = jax.random.split(key, 3)
        error = jnp.abs(batch.advantage) if config.vine_choice == "value_error" else None
        roots, weight = rollout_set(agent.flatten(trunk._replace(memory=())), choice_key, config.vine_states, error)
        root = standing_at(roots)
        distribution, _ = agent.policy(state, root.observation, root.memory)
        action = branch_actions(
            environment.action_space, distribution, action_key, config.branches, config.tries_all_actions
        )
        value = action_values(
            environment,
            _actor(config, agent, state),
            lambda observation, memory: agent.value(state, observation, memory)[0],
            root,
            action,
            branch_key,
            length=config.vine_length,
            gamma=state.hyperparams.gamma,
            reward_scale=reward_scale(state),
            hold_noise=_hold_noise(config),
            squash=config.squash,
        )
        usable = roots.valid[0] & jnp.isfinite(value).all(axis=1)
        weight = jnp.where(usable, 1.0 if weight is None else weight, 0.0)
        log_prob = log_prob_of_each(distribution, action)
        return roots, Batch(agent.policy_sees(state, roots), action, value, log_prob, weight)

    def improve_policy(
        state: TrainState, batch: Batch, acting: TrainState, trajectory: Trajectory
    ) -> tuple[TrainState, TRPOInfo]:
        numbers = state.hyperparams
        params, info = trpo_update(
            agent.policy_network,
            state.policy_params,
            batch,
            objective=objective,
            acting=agent.distribution(acting, trajectory) if normalizes else None,
            max_kl=numbers.max_kl,
            cg_iterations=config.cg_iterations,
            cg_damping=numbers.cg_damping,
            cg_tolerance=numbers.cg_tolerance,
            backtrack_factor=numbers.backtrack_factor,
            max_backtracks=config.max_backtracks,
            entropy_coefficient=numbers.entropy_coefficient,
            fisher_fraction=config.fisher_fraction,
            normalize_advantage=config.normalize_advantages,
            constraint=config.constraint,
            preconditioner=config.preconditioner,
            sequence_length=1 if vine else sequence_length,
            axis_name=axis_name,
        )
        # Where no candidate was within the bound, the policy may not be moved by its statistics alone.
        measured = info.kl_max if config.constraint == "kl_max" else info.kl
        inside = (measured <= numbers.max_kl) | (config.constraint == "none")
        statistics, kl, kl_max = jax.tree.map(
            partial(jnp.where, inside),
            (state.observation_statistics, info.kl, info.kl_max),
            (acting.observation_statistics, jnp.zeros_like(info.kl), jnp.zeros_like(info.kl_max)),
        )
        state = state._replace(policy_params=params, observation_statistics=statistics)
        return state, info._replace(kl=kl, kl_max=kl_max)

    def improve_critic(
        state: TrainState, trajectory: Trajectory, target: Array, weight: Array | None, key: PRNGKeyArray
    ) -> tuple[TrainState, Float[Array, ""], Bool[Array, ""]]:
        assert weight is not None
        if config.normalize_values:
            statistics = update_statistics(state.target_statistics, target, weight > 0, axis_name)
            state = state._replace(target_statistics=statistics)
            target = normalize(statistics, target)
        optimizer, seen = state.critic_optimizer, agent.critic_sees(state, trajectory)
        old = (state.critic_params, optimizer)
        if config.critic == "gauss_newton":
            params, loss = fit_gauss_newton(
                agent.critic_network,
                state.critic_params,
                seen,
                target,
                weight=weight,
                max_change=state.hyperparams.critic_max_change,
                damping=GAUSS_NEWTON_DAMPING,
                steps=config.critic_epochs,
                cg_iterations=config.cg_iterations,
                fraction=config.critic_fraction,
                sequence_length=sequence_length,
                axis_name=axis_name,
            )
        else:
            params, optimizer, loss = fit_critic(
                agent.critic_network,
                state.critic_params,
                optimizer,
                seen,
                target,
                key,
                weight=weight,
                learning_rate=state.hyperparams.critic_learning_rate,
                epochs=config.critic_epochs,
                minibatches=config.critic_minibatches,
                sequence_length=sequence_length,
                axis_name=axis_name,
            )
        fitted = all_finite((loss, params, optimizer))
        params, optimizer = jax.tree.map(partial(jnp.where, fitted), (params, optimizer), old)
        return state._replace(critic_params=params, critic_optimizer=optimizer), loss, fitted

    def timesteps_after(state: TrainState) -> Array:
        whole = jnp.int32 if config.actual_timesteps < 2**31 else float
        return state.update.astype(whole) * config.batch_size

    return Learner(init, learn)


def check_evaluate(state: TrainState, num_episodes: int, deterministic: bool, max_steps: int) -> None:
    """Raise by the name of the argument where an evaluation cannot be."""
    check_state(state)
    check_static("num_episodes", num_episodes, int)
    check_count("num_episodes", num_episodes, at_least=1)
    check_static("deterministic", deterministic, bool)
    check_count("max_steps", max_steps, at_least=1)


def step_keys(state: TrainState) -> list[PRNGKeyArray]:
    """Four keys: of the next state, of this one's collection, of its critic fit and of its branches."""
    return keys_for(state.key, "next", "collection", "critic fit", "branches")


def state_shardings(config: TrainConfig, state: TrainState) -> TrainState | None:
    """Where each array of a state (or of its shapes) lies on the configuration's mesh; ``None`` without a mesh."""
    return None if config.mesh is None else shardings(config.mesh, state, _specs(config)[0])


def _specs(config: TrainConfig) -> tuple[Any, Any]:
    """How a state and a trajectory lie on the mesh: what belongs to environments is divided, all else is everywhere."""
    assert config.mesh is not None
    axes = environment_axes(config.mesh)
    everywhere: Any = PartitionSpec()
    first: Any = PartitionSpec(axes)
    second: Any = PartitionSpec(None, axes)
    third: Any = PartitionSpec(None, None, axes)
    trajectory: Any = Trajectory(*[second] * len(Trajectory._fields))._replace(memory=first)
    window: Any = Trajectory(*[third] * len(Trajectory._fields))._replace(memory=second) if config.reuse > 1 else ()
    state: Any = TrainState(*[everywhere] * len(TrainState._fields))
    return state._replace(env_state=first, discounted_return=first, window=window), trajectory


def _hold_noise(config: TrainConfig) -> int:
    return config.gsde_interval if config.box_distribution == "gsde" else 1


def _actor(config: TrainConfig, agent: Agent, state: TrainState) -> Actor:
    return partial(policy_and_critic, agent, state) if config.sampling == "vine" else partial(agent.policy, state)


def _build(config: TrainConfig) -> tuple[Trainer, Callable[[TrainState], Trajectory]]:
    check_config(config)
    environment = config.environment
    if isinstance(environment, HostEnvironment):
        raise ValueError(
            f"{environment} is stepped in Python and cannot be part of a compiled program: use jtrpo.make_host_trainer(config) "
            "instead of make_train or make_trainer"
        )
    max_episode_steps = time_limit(getattr(environment, "max_episode_steps", None))
    agent, learner = make_agent(config), make_learner(config)
    hold_noise = _hold_noise(config)
    learn, mesh = learner.learn, config.mesh
    if mesh is not None:
        state_specs, trajectory_specs = _specs(config)
        everywhere = PartitionSpec()
        learn = on_each_device(mesh, learn, (state_specs, trajectory_specs, everywhere), (state_specs, everywhere))

    def init(key: PRNGKeyArray, hyperparams: Hyperparams = Hyperparams()) -> TrainState:
        check_hyperparams(hyperparams)
        (env_key,) = keys_for(key, "environments")
        env_state = reset(environment, env_key, config.num_envs, agent.empty_memory(config.num_envs))
        state = learner.init(key, hyperparams, env_state, jax.tree.map(lambda x: x[0], env_state.observation))
        if config.reuse > 1:
            state = state._replace(
                window=empty_window(jax.eval_shape(lambda: mask_invalid(next_trajectory(state))), config.reuse)
            )
        return place(jax.tree.map(jnp.copy, state))  # each array its own, so that a step may be given all of them

    def step(state: TrainState) -> tuple[TrainState, Metrics]:
        check_state(state)
        state, trajectory, episodes = collect_trajectories(state, step_keys(state)[1])
        return learn(state, trajectory, episodes)

    def next_trajectory(state: TrainState) -> Trajectory:
        check_state(state)
        return collect_trajectories(state, step_keys(state)[1])[1]

    def collect_trajectories(state: TrainState, key: PRNGKeyArray) -> tuple[TrainState, Trajectory, EpisodeSummary]:
        collect_key, renew_key = jax.random.split(key)
        env_state, trajectory, episodes = collect(
            environment,
            _actor(config, agent, state),
            state.env_state,
            collect_key,
            config.num_steps,
            hold_noise,
            keep_start=config.sampling == "vine",
            squash=config.squash,
        )
        cut = broken(env_state)
        if max_episode_steps is not None and config.num_steps < max_episode_steps:
            cut |= staggered(trajectory, state.update, max_episode_steps)
        env_state, trajectory = begin_anew(environment, env_state, trajectory, renew_key, cut)
        return state._replace(env_state=env_state), trajectory, episodes

    def evaluate(
        state: TrainState,
        key: PRNGKeyArray,
        num_episodes: int = 128,
        *,
        deterministic: bool = True,
        max_steps: int = 10_000,
    ) -> Float[Array, " num_episodes"]:
        check_evaluate(state, num_episodes, deterministic, max_steps)

        def actor(observation: PyTree, memory: PyTree, key: PRNGKeyArray) -> tuple[PyTree, PyTree]:
            distribution, memory = agent.policy(state, observation, memory)
            return distribution.mode() if deterministic else distribution.sample(key), memory

        (key,) = keys_for(key, "evaluation")
        memory = agent.empty_memory(num_episodes)
        returns = play_episodes(environment, actor, key, num_episodes, max_steps, memory, config.squash)
        if mesh is not None:
            returns = jax.lax.with_sharding_constraint(returns, shardings(mesh, returns, PartitionSpec()))
        return returns

    def place(state: TrainState) -> TrainState:
        where = state_shardings(config, state)
        return state if where is None else jax.lax.with_sharding_constraint(state, where)

    return Trainer(init, step, evaluate), next_trajectory


def make_train(config: TrainConfig, on_update: OnUpdate | None = None) -> Callable[..., TrainResult]:
    """Build a whole training as one pure function: ``(key, hyperparams=Hyperparams()) -> TrainResult``.

    ``jit`` it; ``vmap`` it over keys (seeds) or over hyper-parameters with a leading axis.

    Args:
        config: static settings.
        on_update: called on the host with the number of each update, from 1, and its metrics while the compiled training goes on:
            :class:`jtrpo.tools.progress.Progress`, say. Under ``vmap`` it is called once for all, with metrics of all. An
            exception in it is logged, and never reaches the training.

    Examples:
        Three seeds at once; ``train(keys)`` would run them, and this only asks for the shapes:

        >>> config = jtrpo.TrainConfig("CartPole-v1", total_timesteps=64, num_envs=4, num_steps=8, hidden_sizes=(8,))
        >>> train = jax.jit(jax.vmap(jtrpo.make_train(config)))
        >>> keys = jax.random.split(jax.random.key(0), 3)
        >>> jax.eval_shape(train, keys).metrics.policy.kl.shape  # [seeds, updates]
        (3, 2)
    """
    if on_update is not None:
        check_callable("on_update", on_update, "(update, metrics) -> None")
    trainer = make_trainer(config)
    report = None if on_update is None else make_report(on_update)

    def train(key: PRNGKeyArray, hyperparams: Hyperparams = Hyperparams()) -> TrainResult:
        def step(state: TrainState, _: None) -> tuple[TrainState, Metrics]:
            state, metrics = trainer.step(state)
            if report is not None:
                report(state.update, metrics)
            return state, metrics

        return TrainResult(*jax.lax.scan(step, trainer.init(key, hyperparams), length=config.num_updates))

    return train
