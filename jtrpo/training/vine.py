"""Vine sampling: several short branches from the same states of a trunk of trajectories, with common random numbers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from gymnasium import spaces
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from jtrpo.core.batch import Batch
from jtrpo.core.distributions import Distribution
from jtrpo.core.objective import log_prob_of_each
from jtrpo.envs.protocol import Environment
from jtrpo.training.keys import held_keys
from jtrpo.training.rollout import Actor, RolloutState, Trajectory, act, expand, finite, flatten

if TYPE_CHECKING:
    from jtrpo.training.agent import Agent
    from jtrpo.training.config import TrainConfig
    from jtrpo.training.state import TrainState


def branch(
    environment: Environment,
    agent: Agent,
    state: TrainState,
    trunk: Trajectory,
    key: PRNGKeyArray,
    *,
    num_states: int,
    branches: int,
    all_actions: bool,
    length: int,
    importance: Float[Array, " B"] | None = None,
    gamma: float | Float[Array, ""],
    reward_scale: float | Float[Array, ""] = 1.0,
    noise_interval: int = 1,
    squash: bool = False,
) -> tuple[Trajectory, Batch]:
    """Choose states of the trunk, try actions in each, and estimate their values; the key is consumed.

    Args:
        environment: what to act in.
        agent: policy and critic.
        state: the training's.
        trunk: the collection, its starts kept.
        key: consumed.
        num_states: as for :func:`rollout_set`.
        branches: as for :func:`branch_actions`.
        all_actions: as for :func:`branch_actions`.
        length: as for :func:`action_values`, and so are the other numbers.
        importance: as for :func:`rollout_set`.
        gamma: discount per step.
        reward_scale: what rewards are divided by.
        noise_interval: steps for which the actions' noise is held.
        squash: as for :func:`jtrpo.envs.actions.environment_action`.

    Returns:
        ``(roots, batch)``: the chosen steps, and a batch of ``[S, K]`` actions for the objectives of :mod:`jtrpo.core.vine`.
    """
    choice_key, action_key, branch_key = jax.random.split(key, 3)
    roots, weight = rollout_set(flatten(trunk._replace(memory=())), choice_key, num_states, importance)
    root = root_state(roots)
    distribution, _ = agent.policy(state, root.observation, root.memory)
    action = branch_actions(environment.action_space, distribution, action_key, branches, all_actions)
    value = action_values(
        environment,
        partial(agent.policy_and_critic, state),
        lambda observation, memory: agent.value(state, observation, memory)[0],
        root,
        action,
        branch_key,
        length=length,
        gamma=gamma,
        reward_scale=reward_scale,
        noise_interval=noise_interval,
        squash=squash,
    )
    usable = roots.valid[0] & jnp.isfinite(value).all(axis=1)
    weight = jnp.where(usable, 1.0 if weight is None else weight, 0.0)
    log_prob = log_prob_of_each(distribution, action)
    return roots, Batch(agent.policy_input(state, roots), action, value, log_prob, weight)


def rollout_set(
    steps: Trajectory, key: PRNGKeyArray, num_states: int, importance: Float[Array, " B"] | None = None
) -> tuple[Trajectory, Float[Array, " S"] | None]:
    """Choose the states to branch from, with all that is needed to go back to them; the key is consumed.

    Without ``importance``: uniform over the trunk, without replacement. With it: half of the draws are uniform, half are
    proportional to it, p_i = 1 / (2 B) + importance_i / (2 sum importance), with replacement; the weights 1 / (B p_i), none above
    two, keep the mean over the trunk unbiased.

    Args:
        steps: the trunk, ``[B, ...]`` each, its starts kept.
        key: consumed.
        num_states: how many, ``S``.
        importance: non-negative; what is not finite counts as zero.

    Returns:
        ``(roots, weight)``: the chosen steps as trajectories of one step each, ``[1, S, ...]``, and their weights, ``None`` where
        all are equal.
    """
    size = steps.reward.shape[0]
    if importance is None:
        index, weight = jax.random.choice(key, size, (num_states,), replace=False), None
    else:
        importance = jnp.where(jnp.isfinite(importance), importance, 0.0)
        total = jnp.sum(importance)
        share = jnp.where(total > 0, importance / jnp.where(total > 0, total, 1.0), 1.0 / size)
        probability = 0.5 / size + 0.5 * share
        index = jax.random.categorical(key, jnp.log(probability), shape=(num_states,))
        weight = 1.0 / (size * probability[index])
    roots = jax.tree.map(lambda x: jnp.take(x, index, axis=0)[None], steps)
    return roots._replace(memory=root_state(roots).memory), weight


def root_state(roots: Trajectory) -> RolloutState:
    """Where the environments stood before each root: their states, clocks and memories as they were."""
    start: RolloutState = jax.tree.map(lambda x: x[0], roots.start)
    return start._replace(observation=jax.tree.map(lambda x: x[0], roots.observation))


def branch_actions(
    space: spaces.Space, distribution: Distribution, key: PRNGKeyArray, branches: int, all_actions: bool
) -> PyTree:
    """First actions of the branches, ``[S, K, ...]``: every action of a Discrete space, or samples of the policy.

    Args:
        space: the action space.
        distribution: the policy at the roots, ``[S]``.
        key: consumed.
        branches: how many, ``K``.
        all_actions: every action once, in order; K is the size of the space.
    """
    if all_actions:
        assert isinstance(space, spaces.Discrete)
        num_states = jax.tree.leaves(distribution)[0].shape[0]
        return jnp.broadcast_to(jnp.arange(branches)[None], (num_states, branches))
    return jax.vmap(distribution.sample, out_axes=1)(jax.random.split(key, branches))


def action_values(
    environment: Environment,
    actor: Actor,
    value: Callable[[PyTree, PyTree], Float[Array, " S"]],
    root: RolloutState,
    action: PyTree,
    key: PRNGKeyArray,
    *,
    length: int,
    gamma: float | Float[Array, ""],
    reward_scale: float | Float[Array, ""] = 1.0,
    noise_interval: int = 1,
    common_noise: bool = True,
    squash: bool = False,
) -> Float[Array, "S K"]:
    """Estimate Q(s, a_k) by one branch for each: a_k first, then the policy, then the critic; the key is consumed.

    Q(s, a_k) = r_0 + gamma r_1 + ... + gamma^(n-1) r_(n-1) + gamma^n V(s_n)

    with n the length, or the steps until the episode ended: no value follows a termination, and V of what really followed is
    the bootstrap of a truncation. The branches of a state draw their actions and their environments' noise from the same keys
    (common random numbers), so that what luck adds to all of them cancels in their differences; each branch by itself is
    distributed as without.

    Args:
        environment: what to act in.
        actor: the policy, which carries along whatever memory ``value`` needs.
        value: V of observations, from the memory after the step before.
        root: where to branch from; ``S`` states.
        action: first actions, ``[S, K, ...]``.
        key: consumed.
        length: steps of each branch. All are simulated, even those after an episode's end, which do not count.
        gamma: discount per step.
        reward_scale: what rewards are divided by, so that they are in units of ``value``.
        noise_interval: as in :func:`jtrpo.training.rollout.collect`.
        common_noise: whether the branches of a state share their random numbers.
        squash: as for :func:`jtrpo.envs.actions.environment_action`.

    Source: Schulman et al. 2015, Trust Region Policy Optimization, https://arxiv.org/abs/1502.05477, section 5.2.
    """

    def branch(action: PyTree, key: PRNGKeyArray) -> Float[Array, " S"]:
        def step(carry: tuple, inputs: tuple) -> tuple[tuple, None]:
            state, running, discount, total, last = carry
            is_first, action_key, env_key = inputs
            distribution, memory = actor(state.observation, state.memory)
            sampled = distribution.sample(action_key)
            taken = jax.tree.map(lambda given, own: jnp.where(is_first, given, own), action, sampled)
            following, record, _ = act(environment, state, memory, taken, distribution.log_prob(taken), env_key, squash)
            # An observation that is not finite makes Q NaN, even where a network or a clip would hide it.
            seen = (record.observation, record.final_observation)
            reward = jnp.where(finite(seen, running.shape), record.reward / reward_scale, jnp.nan)
            total = total + jnp.where(running, discount * reward, 0.0)
            discount = jnp.where(running, gamma * discount, discount)
            last = _where(running, (record.final_observation, memory, record.terminated), last)
            return (following, running & ~record.done, discount, total, last), None

        action_key, env_key = jax.random.split(key)
        action_keys = held_keys(action_key, length, noise_interval)
        inputs = (jnp.arange(length) == 0, action_keys, jax.random.split(env_key, length))
        nothing = jnp.zeros_like(root.episode_return)
        running = jnp.ones(nothing.shape, bool)
        start = (root, running, nothing + 1.0, nothing, (root.observation, root.memory, ~running))
        (_, _, discount, total, (final_observation, memory, terminated)), _ = jax.lax.scan(step, start, inputs)
        return total + jnp.where(terminated, 0.0, discount * value(final_observation, memory))

    if common_noise:
        return jax.vmap(branch, in_axes=(1, None), out_axes=1)(action, key)
    keys = jax.random.split(key, jax.tree.leaves(action)[0].shape[1])
    return jax.vmap(branch, in_axes=(1, 0), out_axes=1)(action, keys)


def _where(mask: Bool[Array, " S"], new: PyTree, old: PyTree) -> PyTree:
    return jax.tree.map(lambda x, y: jnp.where(expand(mask, x.ndim), x, y), new, old)


def check_vine(config: TrainConfig) -> None:
    """Raise where a setting does not go with ``sampling="vine"``.

    Raises:
        ValueError: sample reuse, a preconditioner, more states than a collection has, branches longer than an episode, or more
            steps an update than the whole run has.
    """
    if config.reuse != 1 or config.preconditioner is not None:
        raise ValueError(
            "sampling='vine' learns from the newest branches only and without a preconditioner: it needs reuse=1 and "
            f"preconditioner=None; got reuse={config.reuse} and preconditioner={config.preconditioner!r}"
        )
    trunk = f"num_envs * num_steps = {config.num_envs} * {config.num_steps} = {config.trunk_size:,}"
    if config.vine_states > config.trunk_size:
        raise ValueError(
            f"vine_states must be at most the states of a collection, {trunk}; got {config.vine_states:,}: lower it, or "
            "collect more"
        )
    limit = config.time_limit
    if limit is not None and config.vine_length > limit:
        raise ValueError(
            f"vine_length must be at most the limit of {limit:,} steps an episode; got {config.vine_length:,}"
        )
    if config.batch_size > config.total_timesteps:
        branches = f"{config.vine_states:,} * {config.branches} * {config.vine_length:,} = {config.branch_steps:,}"
        raise ValueError(
            f"one update with sampling='vine' takes {trunk} steps and vine_states * branches * vine_length = {branches} more, "
            f"{config.batch_size:,} in all, and total_timesteps is {config.total_timesteps:,}; lower one of the factors or raise "
            "total_timesteps"
        )
