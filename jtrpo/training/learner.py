"""Learning: from a state and what it collected to the next state. The same for environments in JAX and for those on the host."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from jtrpo.core.batch import AxisName, Batch, largest_over, stratified
from jtrpo.core.check import check_same_form
from jtrpo.core.cpo import cpo_update
from jtrpo.core.distributions import Distribution
from jtrpo.core.objective import Objective, likelihood_ratio, mean_kl
from jtrpo.core.pcpo import pcpo_update
from jtrpo.core.trpo import TRPOInfo, trpo_update
from jtrpo.core.vine import all_actions_objective, self_normalized_objective
from jtrpo.networks.torso import numeric
from jtrpo.training.agent import Agent, make_agent
from jtrpo.training.config import TrainConfig
from jtrpo.training.constrained import CostEstimate, CostInfo, Costs, alone
from jtrpo.training.critic import CriticInfo, explained_variance, fit_critic, init_critic_optimizer
from jtrpo.training.custom import check_advantages
from jtrpo.training.episodes import EpisodeSummary
from jtrpo.training.gauss_newton import fit_gauss_newton
from jtrpo.training.hyperparams import Hyperparams, as_arrays
from jtrpo.training.keys import keys_for
from jtrpo.training.mesh import environment_axes, on_each_device
from jtrpo.training.normalization import (
    RunningStatistics,
    all_finite,
    init_statistics,
    merge_within,
    moments,
    normalize,
    standard_deviation,
    update_statistics,
)
from jtrpo.training.reuse import newest, slide_window, truncated_log_prob
from jtrpo.training.rollout import RolloutState, Trajectory, discounted_returns, flatten, strip_weak_types
from jtrpo.training.samples import SampleInfo, mask_invalid, sample_info
from jtrpo.training.schedule import current_hyperparams
from jtrpo.training.state import Metrics, TrainState, mesh_specs, step_keys
from jtrpo.training.vine import branch

DRIFT = 0.1
"""Share of ``max_kl`` by which new statistics of the observations may move the policy that acts."""

GAUSS_NEWTON_DAMPING = 1e-2
"""Of the Gauss-Newton critic, whose trust region does most of the work."""


@dataclass(frozen=True, eq=False)
class Learner:
    """What of a training never touches an environment. ``learn_here`` is the algorithm, one named step per line.

    Attributes:
        config: static settings.
        agent: policy and critic.
        objective: what the policy update raises, see :mod:`jtrpo.core.objective`.
        costs: with ``constraint_method``, what is about the costs.
    """

    config: TrainConfig
    agent: Agent
    objective: Objective
    costs: Costs | None = None

    @property
    def axis_name(self) -> AxisName:
        """Mapped axes over which the environments are spread."""
        return None if self.config.mesh is None else environment_axes(self.config.mesh)

    @property
    def follows_observations(self) -> bool:
        """Whether there are statistics of observations to learn."""
        some = any(jax.tree.leaves(numeric(self.config.environment.observation_space)))
        return self.config.normalize_observations and some

    @property
    def keeps_distribution(self) -> bool:
        """Whether what actions were drawn from is kept, so that the KL from it needs no second forward pass."""
        config = self.config
        of_this_policy = config.reuse == 1 and config.sampling != "vine"
        of_single_steps = config.box_distribution != "gsde" and config.policy_network is None
        return self.follows_observations and of_this_policy and of_single_steps

    @property
    def sequence_length(self) -> int:
        """Steps of a batch that stay together."""
        return self.config.num_steps if self.agent.has_memory else 1

    def init(
        self, key: PRNGKeyArray, hyperparams: Hyperparams, env_state: RolloutState, observation: PyTree
    ) -> TrainState:
        """First state, from one observation; without a window of collections."""
        policy_key, critic_key, cost_key, key = keys_for(key, "policy", "critic", "cost critics", "training")
        critic_params = self.agent.init_critic(critic_key, observation)
        return strip_weak_types(
            TrainState(
                policy_params=self.agent.init_policy(policy_key, observation),
                critic_params=critic_params,
                critic_optimizer=init_critic_optimizer(critic_params) if self.config.critic == "adam" else (),
                env_state=env_state,
                observation_statistics=init_statistics(observation, samples=1e-12),
                return_statistics=init_statistics(0.0),
                discounted_return=jnp.zeros((self.config.num_envs,)),
                target_statistics=init_statistics(0.0),
                hyperparams=as_arrays(hyperparams),
                key=key,
                update=jnp.int32(0),
                costs=() if self.costs is None else self.costs.init(cost_key, observation, env_state.episode_cost),
            )
        )

    def learn(self, state: TrainState, trajectory: Trajectory, episodes: EpisodeSummary) -> tuple[TrainState, Metrics]:
        """One update, from what ``state`` collected; on a mesh every device learns from its share of it."""
        if self.config.mesh is None:
            return self.learn_here(state, trajectory, episodes)
        everywhere = PartitionSpec()
        state_specs, trajectory_specs = mesh_specs(self.config.mesh, window=self.config.reuse > 1)
        specs = (state_specs, trajectory_specs, everywhere)
        learn = on_each_device(self.config.mesh, self.learn_here, specs, (state_specs, everywhere))
        return learn(state, trajectory, episodes)

    def learn_here(
        self, state: TrainState, trajectory: Trajectory, episodes: EpisodeSummary
    ) -> tuple[TrainState, Metrics]:
        """The same on one device; its means are over all."""
        key, _, critic_key, vine_key, cost_key = step_keys(state)
        base, numbers = state.hyperparams, self.current_hyperparams(state)
        # If one number is out of range all become NaN, so that nothing is learned.
        in_range = numbers.in_range()
        state = state._replace(key=key, hyperparams=jax.tree.map(lambda x: jnp.where(in_range, x, jnp.nan), numbers))
        trajectory = mask_invalid(trajectory)
        state, recent = self.add_earlier_collections(state, trajectory)
        acting = state
        state = self.learn_statistics(state, trajectory)
        state, batch, target, variance_explained, samples = self.estimate_advantages(state, recent, acting)
        cost = None
        if self.costs is not None:
            state, cost = self.costs.estimate(state, recent, acting, episodes)
            batch = self.costs.put_into(batch, state, cost)
        steps, policy_batch = recent, batch
        if self.config.sampling == "vine":
            steps, policy_batch = self.branch(state, trajectory, batch, vine_key)
        if self.config.on_batch is not None:
            wanted = "on_batch must return a batch like the one that it gets"
            policy_batch = check_same_form(wanted, self.config.on_batch(policy_batch, state), policy_batch)
        state, policy_info, multiplier = self.improve_policy(state, policy_batch, steps, acting, cost)
        # The statistics are undone, if at all, after the critic's fit, which so shares the forward pass of its targets.
        state, critic_loss, fitted = self.improve_critic(state, recent, target, batch.weight, critic_key)
        cost_info: CostInfo | tuple = ()
        if self.costs is not None and cost is not None:
            state, cost_info = self.costs.fit(state, recent, cost, multiplier, batch.weight, cost_key)
        state, policy_info = self.undo_drift(state, policy_info, acting)
        state = state._replace(hyperparams=base, update=state.update + 1)
        critic_info = CriticInfo(critic_loss, variance_explained, fitted)
        return state, Metrics(self.timesteps(state), numbers, episodes, samples, policy_info, critic_info, cost_info)

    def current_hyperparams(self, state: TrainState) -> Hyperparams:
        """Numbers of this update."""
        config = self.config
        return current_hyperparams(state.hyperparams, state.update, config.num_updates, config.anneal, config.schedules)

    def add_earlier_collections(self, state: TrainState, trajectory: Trajectory) -> tuple[TrainState, Trajectory]:
        """With sample reuse, the newest collection beside those of the window."""
        if self.config.reuse == 1:
            return state, trajectory
        window, recent = slide_window(state.window, trajectory)
        return state._replace(window=window), recent

    def learn_statistics(self, state: TrainState, trajectory: Trajectory) -> TrainState:
        """Before anything is learned from the collection, so that no number of it is in the units of earlier ones."""
        if self.follows_observations:
            state = state._replace(observation_statistics=self.follow_observations(state, trajectory))
        if self.config.scale_rewards:
            running, returns = discounted_returns(trajectory, state.discounted_return, state.hyperparams.gamma)
            statistics = update_statistics(state.return_statistics, returns, trajectory.valid, self.axis_name)
            state = state._replace(return_statistics=statistics, discounted_return=running)
        return state

    def follow_observations(self, state: TrainState, trajectory: Trajectory) -> RunningStatistics:
        """Statistics with the collection's observations, as far as they move the policy that acts by ``DRIFT * max_kl``.

        The drift is measured on as many steps as Fisher products are; the update's own measurement is of all.
        """
        new = moments(state.observation_statistics, trajectory.observation, trajectory.valid, self.axis_name)
        bounds_all = self.config.constraint == "kl_max"  # as of the step: else no candidate might ever be inside
        fraction = 1.0 if bounds_all else self.config.fisher_fraction
        weight = flatten(trajectory.valid).astype(float)
        some = partial(
            stratified,
            size=weight.size,
            fraction=fraction,
            sequence_length=self.sequence_length,
            axis_name=self.axis_name,
        )

        def distribution(statistics: RunningStatistics) -> tuple[Distribution, Any]:
            seen = self.agent.policy_input(state._replace(observation_statistics=statistics), trajectory)
            seen, counted = some(seen, weight)
            return self.agent.policy_network(state.policy_params, seen), counted

        acting, counted = distribution(state.observation_statistics)

        def drift(statistics: RunningStatistics) -> Float[Array, ""]:
            there, _ = distribution(statistics)
            if bounds_all:
                largest = jnp.max(jnp.where(counted > 0, acting.kl(there), 0.0))
                return largest_over(largest, self.axis_name)
            return mean_kl(acting, there, weight=counted, axis_name=self.axis_name)

        return merge_within(state.observation_statistics, new, drift, DRIFT * state.hyperparams.max_kl)

    def reward_scale(self, state: TrainState) -> float | Float[Array, ""]:
        """What rewards are divided by."""
        return standard_deviation(state.return_statistics) if self.config.scale_rewards else 1.0

    def estimate_advantages(
        self, state: TrainState, trajectory: Trajectory, acting: TrainState
    ) -> tuple[TrainState, Batch, Float[Array, " B"], Float[Array, ""], SampleInfo]:
        """Return the state, the policy's batch, the critic's targets, the variance that it explained, and which samples count."""
        agent, reuse = self.agent, self.config.reuse
        value, next_value, critic_memory = agent.values(state, trajectory)
        log_prob, ratio = flatten(trajectory.log_prob), None
        if reuse > 1:
            now = agent.distribution(acting, trajectory).log_prob(flatten(trajectory.action))
            flat_ratio = jnp.where(flatten(trajectory.valid), jnp.exp(now - log_prob), 1.0)
            ratio = flat_ratio.reshape(trajectory.reward.shape[::-1]).T
            log_prob = truncated_log_prob(log_prob, now)
        usable = trajectory.valid & jnp.isfinite(value) & (jnp.isfinite(next_value) | trajectory.terminated)
        corrected = {} if ratio is None else {"ratio": ratio}
        estimate = self.config.advantage_estimator(
            jnp.where(usable, trajectory.reward / self.reward_scale(state), 0.0),
            jnp.where(usable, value, 0.0),
            jnp.where(usable, next_value, 0.0),
            trajectory.terminated,
            trajectory.truncated | ~usable,
            gamma=state.hyperparams.gamma,
            gae_lambda=state.hyperparams.gae_lambda,
            **corrected,
        )
        advantage, target = check_advantages(estimate, trajectory.reward.shape)
        memory = state.env_state.memory._replace(critic=jax.tree.map(lambda x: newest(x, reuse, 0), critic_memory))
        state = state._replace(env_state=state.env_state._replace(memory=memory))
        action, flat_advantage, weight = flatten((trajectory.action, advantage, usable.astype(advantage.dtype)))
        batch = Batch(agent.policy_input(state, trajectory), action, flat_advantage, log_prob, weight)
        new_value, new_target, new = (flatten(newest(x, reuse, 1)) for x in (value, target, usable))
        explained = explained_variance(new_value, new_target, new, self.axis_name)
        samples = sample_info(usable, newest(usable, reuse, 1), ratio, self.axis_name)
        return state, batch, flatten(target), explained, samples

    def branch(self, state: TrainState, trunk: Trajectory, batch: Batch, key: PRNGKeyArray) -> tuple[Trajectory, Batch]:
        """With vine sampling, the states that were branched from, and the batch of their branches."""
        config = self.config
        return branch(
            config.training_environment,
            self.agent,
            state,
            trunk,
            key,
            num_states=config.vine_states,
            branches=config.branches,
            all_actions=config.tries_all_actions,
            length=config.vine_length,
            importance=jnp.abs(batch.advantage) if config.vine_choice == "value_error" else None,
            gamma=state.hyperparams.gamma,
            reward_scale=self.reward_scale(state),
            noise_interval=config.noise_interval,
            squash=config.squash,
        )

    def improve_policy(
        self, state: TrainState, batch: Batch, steps: Trajectory, acting: TrainState, cost: CostEstimate | None = None
    ) -> tuple[TrainState, TRPOInfo, Any]:
        """One update within the trust region, and the multiplier of each cost.

        ``acting`` is the state that collected ``steps``, those of the batch.
        """
        config, numbers = self.config, state.hyperparams
        acted = flatten(steps.distribution)
        if self.follows_observations and not jax.tree.leaves(acted):
            acted = self.agent.distribution(acting, steps)
        shared: dict[str, Any] = {
            "acting": acted if self.follows_observations else None,
            "max_kl": numbers.max_kl,
            "cg_iterations": config.cg_iterations,
            "cg_damping": numbers.cg_damping,
            "cg_tolerance": numbers.cg_tolerance,
            "backtrack_factor": numbers.backtrack_factor,
            "max_backtracks": config.max_backtracks,
            "entropy_coefficient": numbers.entropy_coefficient,
            "fisher_fraction": config.fisher_fraction,
            "normalize_advantage": config.normalize_advantages,
            "sequence_length": 1 if config.sampling == "vine" else self.sequence_length,
            "axis_name": self.axis_name,
        }
        network, params = self.agent.policy_network, state.policy_params
        if cost is not None and config.constraint_method in ("cpo", "pcpo"):
            shared |= {"cost": alone(cost.step), "cost_limit": alone(cost.aim) / cost.length}
            update = cpo_update if config.constraint_method == "cpo" else pcpo_update
            params, within = update(network, params, batch, **shared)
            return state._replace(policy_params=params), within.update, within.multiplier
        own: dict[str, Any] = {"constraint": config.constraint, "preconditioner": config.preconditioner}
        params, info = trpo_update(network, params, batch, objective=self.objective, **shared, **own)
        return state._replace(policy_params=params), info, () if cost is None else cost.multiplier

    def undo_drift(self, state: TrainState, info: TRPOInfo, acting: TrainState) -> tuple[TrainState, TRPOInfo]:
        """If no candidate was within the bound, new statistics must not move the policy that acts either."""
        measured = info.kl_max if self.config.constraint == "kl_max" else info.kl
        inside = (measured <= state.hyperparams.max_kl) | (self.config.constraint == "none")
        statistics, kl, kl_max = jax.tree.map(
            partial(jnp.where, inside),
            (state.observation_statistics, info.kl, info.kl_max),
            (acting.observation_statistics, jnp.zeros_like(info.kl), jnp.zeros_like(info.kl_max)),
        )
        return state._replace(observation_statistics=statistics), info._replace(kl=kl, kl_max=kl_max)

    def improve_critic(
        self,
        state: TrainState,
        trajectory: Trajectory,
        target: Float[Array, " B"],
        weight: Float[Array, " B"] | None,
        key: PRNGKeyArray,
    ) -> tuple[TrainState, Float[Array, ""], Bool[Array, ""]]:
        """Fit the critic; return the loss, and whether all was finite: otherwise the old critic stays."""
        if self.config.normalize_values:
            counted = None if weight is None else weight > 0
            statistics = update_statistics(state.target_statistics, target, counted, self.axis_name)
            state = state._replace(target_statistics=statistics)
            target = normalize(statistics, target)
        old = (state.critic_params, state.critic_optimizer)
        fit = self.fit_gauss_newton if self.config.critic == "gauss_newton" else self.fit_adam
        params, optimizer, loss = fit(state, self.agent.critic_input(state, trajectory), target, weight, key)
        fitted = all_finite((loss, params, optimizer))
        params, optimizer = jax.tree.map(partial(jnp.where, fitted), (params, optimizer), old)
        return state._replace(critic_params=params, critic_optimizer=optimizer), loss, fitted

    def fit_adam(
        self, state: TrainState, seen: PyTree, target: Array, weight: Array | None, key: PRNGKeyArray
    ) -> tuple[PyTree, PyTree, Float[Array, ""]]:
        """Critic parameters, Adam's moments and the loss."""
        return fit_critic(
            self.agent.critic_network,
            state.critic_params,
            state.critic_optimizer,
            seen,
            target,
            key,
            weight=weight,
            learning_rate=state.hyperparams.critic_learning_rate,
            epochs=self.config.fit_epochs,
            minibatches=self.config.critic_minibatches,
            sequence_length=self.sequence_length,
            axis_name=self.axis_name,
        )

    def fit_gauss_newton(
        self, state: TrainState, seen: PyTree, target: Array, weight: Array | None, key: PRNGKeyArray
    ) -> tuple[PyTree, PyTree, Float[Array, ""]]:
        """The same by Gauss-Newton steps, which have no moments and draw nothing."""
        params, loss = fit_gauss_newton(
            self.agent.critic_network,
            state.critic_params,
            seen,
            target,
            weight=weight,
            max_change=state.hyperparams.critic_max_change,
            damping=GAUSS_NEWTON_DAMPING,
            steps=self.config.fit_epochs,
            cg_iterations=self.config.cg_iterations,
            fraction=self.config.critic_fraction,
            sequence_length=self.sequence_length,
            axis_name=self.axis_name,
        )
        return params, state.critic_optimizer, loss

    def timesteps(self, state: TrainState) -> Array:
        """Environment steps taken."""
        whole = jnp.int32 if self.config.actual_timesteps < 2**31 else float
        return state.update.astype(whole) * self.config.batch_size


def make_learner(config: TrainConfig) -> Learner:
    """Build the learner that ``config`` describes."""
    objective = config.objective or likelihood_ratio
    if config.sampling == "vine":
        objective = all_actions_objective if config.tries_all_actions else self_normalized_objective
    agent = make_agent(config)
    if config.constraint_method is None:
        return Learner(config, agent, objective)
    # Of costs the limit is known in their own units, so that targets are scaled instead.
    settings = replace(config, constraint_method=None, scale_rewards=False, normalize_values=True)
    of_costs = Learner(settings, replace(agent, rescale_values=True), objective)
    return Learner(config, agent, objective, Costs(config.constraint_method, of_costs, config.time_limit))
