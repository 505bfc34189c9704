"""Trajectory collection: many environments, one scan."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from jtrpo.core.distributions import Distribution
from jtrpo.envs.actions import environment_action
from jtrpo.envs.check import check_reset, check_step
from jtrpo.envs.metrics import reported
from jtrpo.envs.protocol import Environment, EnvStep
from jtrpo.training.episodes import EpisodeSummary, add_finished, no_episodes, summarize
from jtrpo.training.keys import held_keys

Actor = Callable[[PyTree, PyTree], tuple[Distribution, PyTree]]
"""A policy at fixed parameters and statistics: raw observations ``[N, ...]`` and memory to a distribution and memory."""


class RolloutState(NamedTuple):
    """Where the environments stand between two collections; ``N`` environments.

    Attributes:
        env_state: the environments' own states, ``[N, ...]`` each.
        observation: what the policy sees next, ``[N, ...]`` each.
        episode_return: undiscounted return of the episode under way, ``[N]``.
        episode_length: its steps so far, ``[N]``.
        memory: what recurrent networks carry along, zero at an episode's start, ``[N, ...]`` each; ``()`` without.
        episode_cost: sum of the costs of the episode under way, ``[N]`` or ``[N, K]``; ``()`` without costs.
        episode_metrics: its sums of the environment's own numbers that are reported, ``[N]`` each.
    """

    env_state: PyTree
    observation: PyTree
    episode_return: Float[Array, " N"]
    episode_length: Int[Array, " N"]
    memory: PyTree = ()
    episode_cost: Any = ()
    episode_metrics: Mapping[str, Float[Array, " N"]] = {}  # never written to


class Trajectory(NamedTuple):
    """What one collection gathered; ``T`` steps of ``N`` environments.

    Attributes:
        observation: as the environment gave it, ``[T, N, ...]`` each.
        action: as sampled, before the map into the action space, ``[T, N, ...]``.
        log_prob: of ``action`` under the behaviour policy, in nats.
        reward: undiscounted, as the environment gave it.
        terminated: the episode ended by itself.
        truncated: the episode was cut off.
        final_observation: what really followed the action, before any reset.
        memory: what recurrent networks carried before the first step, ``[N, ...]`` each.
        start: where each step began, all but the observation, ``[T, N, ...]`` each; ``()`` unless asked for.
        valid: whether every number of the step is finite, ``[T, N]``; ``()`` before :func:`mask_invalid`.
        cost: as the environment gave it, ``[T, N]``, or ``[T, N, K]`` for a vector; ``()`` without costs.
        distribution: what ``action`` was drawn from, ``[T, N, ...]`` each; ``()`` unless asked for.
    """

    observation: PyTree
    action: PyTree
    log_prob: Float[Array, "T N"]
    reward: Float[Array, "T N"]
    terminated: Bool[Array, "T N"]
    truncated: Bool[Array, "T N"]
    final_observation: PyTree
    memory: PyTree = ()
    start: PyTree = ()
    valid: Any = ()
    cost: Any = ()
    distribution: Any = ()

    @property
    def done(self) -> Bool[Array, "T N"]:
        """Whether an episode ended with the step."""
        return self.terminated | self.truncated


def reset(
    environment: Environment,
    key: PRNGKeyArray,
    num_envs: int,
    memory: PyTree = (),
    metrics: tuple[str, ...] = (),
    cost_shape: tuple[int, ...] | None = None,
) -> RolloutState:
    """Begin ``num_envs`` episodes; the key is consumed.

    Args:
        environment: what to begin them in.
        key: consumed.
        num_envs: their number.
        memory: an empty one.
        metrics: names of the environment's own numbers to report, as :func:`jtrpo.envs.metrics.own_numbers` has them.
        cost_shape: of a step's cost, likewise; ``None``: costs are not recorded.
    """

    def begin(key: PRNGKeyArray) -> tuple[PyTree, PyTree]:
        return check_reset(environment.observation_space, environment.reset(key))

    observation, env_state = jax.vmap(begin)(jax.random.split(key, num_envs))
    zeros = jnp.zeros((num_envs,))
    cost = () if cost_shape is None else jnp.zeros((num_envs, *cost_shape))
    own = dict.fromkeys(metrics, zeros)
    return strip_weak_types(RolloutState(env_state, observation, zeros, zeros.astype(jnp.int32), memory, cost, own))


def collect(
    environment: Environment,
    actor: Actor,
    start: RolloutState,
    key: PRNGKeyArray,
    num_steps: int,
    noise_interval: int = 1,
    keep_start: bool = False,
    squash: bool = False,
    keep_distribution: bool = False,
) -> tuple[RolloutState, Trajectory, EpisodeSummary]:
    """Run the policy for ``num_steps`` in every environment; the key is consumed.

    Episode statistics are reduced on the way: memory grows with the batch, never with the number of episodes.

    Args:
        environment: what to act in.
        actor: the policy.
        start: where the environments stand.
        key: consumed.
        num_steps: steps in each environment.
        noise_interval: steps for which the key that samples actions is held; more than one only makes sense for a distribution
            whose noise depends on the state as well, such as :class:`StateDependentNoise`.
        keep_start: keep where each step began, so that it can be gone back to.
        squash: as for :func:`environment_action`.
        keep_distribution: keep what each action was drawn from.
    """
    num_envs = start.episode_length.shape[0]

    def step(
        carry: tuple[RolloutState, Any], keys: tuple[PRNGKeyArray, PRNGKeyArray]
    ) -> tuple[tuple[RolloutState, Any], Trajectory]:
        state, totals = carry
        action_key, env_key = keys
        distribution, memory = actor(state.observation, state.memory)
        action = distribution.sample(action_key)
        log_prob = distribution.log_prob(action)
        following, record, metrics = act(environment, state, memory, action, log_prob, env_key, squash)
        if keep_start:
            record = record._replace(start=state._replace(observation=()))
        if keep_distribution:
            record = record._replace(distribution=distribution)
        sums = jax.tree.map(jnp.add, state.episode_metrics, metrics)
        totals = add_finished(
            totals,
            record.done,
            state.episode_return + record.reward,
            state.episode_length + 1,
            cost=jax.tree.map(jnp.add, state.episode_cost, record.cost),
            sums=sums,
            last=metrics,
        )
        return (following, totals), record

    action_key, env_key = jax.random.split(key)
    keys = (held_keys(action_key, num_steps, noise_interval), jax.random.split(env_key, num_steps))
    totals = no_episodes(num_envs, cost=start.episode_cost, metrics=start.episode_metrics)
    (end, totals), trajectory = jax.lax.scan(step, (start, totals), keys)
    return end, trajectory._replace(memory=start.memory), summarize(totals)


def act(
    environment: Environment,
    state: RolloutState,
    memory: PyTree,
    action: PyTree,
    log_prob: Float[Array, " N"],
    key: PRNGKeyArray,
    squash: bool = False,
) -> tuple[RolloutState, Trajectory, Mapping[str, Float[Array, " N"]]]:
    """Take one step in every environment; the key is consumed.

    Args:
        environment: what to act in.
        state: where the environments stand.
        memory: what recurrent networks carry after having seen the observation.
        action: before the map into the action space.
        log_prob: of the action, for the record.
        key: consumed.
        squash: as for :func:`environment_action`.

    Returns:
        ``(state, record, metrics)``, the record without a time axis, the metrics those of the step that are reported.
    """
    result = step_environments(environment, state.env_state, state.observation, action, key, squash)
    done = result.terminated | result.truncated
    metrics = reported(state.episode_metrics, result)
    cost = result.cost if jax.tree.leaves(state.episode_cost) else ()

    def add(total: Array, value: Array) -> Array:
        return jnp.where(expand(done, value.ndim), 0.0, total + value)

    following = RolloutState(
        result.state,
        result.observation,
        jnp.where(done, 0.0, state.episode_return + result.reward),
        jnp.where(done, 0, state.episode_length + 1),
        reset_memory(memory, done | ~finite((state.observation, action, log_prob), done.shape)),
        jax.tree.map(add, state.episode_cost, cost),
        jax.tree.map(add, state.episode_metrics, metrics),
    )
    record = Trajectory(
        observation=state.observation,
        action=action,
        log_prob=log_prob,
        reward=result.reward,
        terminated=result.terminated,
        truncated=result.truncated,
        final_observation=result.final_observation,
        cost=cost,
    )
    return strip_weak_types(following), record, metrics


def step_environments(
    environment: Environment, state: PyTree, observation: PyTree, action: PyTree, key: PRNGKeyArray, squash: bool
) -> EnvStep:
    """Act once in every environment; the key is consumed. Actions are those of the policy, before the map into the space."""

    def one(key: PRNGKeyArray, state: PyTree, observation: PyTree, action: PyTree) -> EnvStep:
        result = environment.step(key, state, action)
        return check_step(environment.observation_space, state, observation, result)

    action = environment_action(environment.action_space, action, squash)
    keys = jax.random.split(key, jax.tree.leaves(action)[0].shape[0])
    return jax.vmap(one)(keys, state, observation, action)


def discounted_returns(
    trajectory: Trajectory, running: Float[Array, " N"], gamma: float | Float[Array, ""]
) -> tuple[Float[Array, " N"], Float[Array, "T N"]]:
    """Discounted sum of the rewards since each episode began: what rewards are scaled by the spread of.

        R_t = r_t + gamma R_{t-1}

    Args:
        trajectory: after :func:`mask_invalid`.
        running: R before the first step, ``[N]``.
        gamma: discount per step.

    Returns:
        ``(running, returns)``: R to go on from, and R after each step.
    """

    def step(running: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        reward, ends = inputs
        running = reward + gamma * running
        return jnp.where(ends | ~jnp.isfinite(running), 0.0, running), running

    return jax.lax.scan(step, running, (trajectory.reward, trajectory.done | ~trajectory.valid))


def staggered_resets(
    num_envs: int, num_steps: int, update: Int[Array, ""], max_episode_steps: int
) -> Bool[Array, " N"]:
    """Which first episodes to cut after this collection, at evenly spread times, so that time limits do not fall in step.

    Environments that start together and run into the same time limit stay in the same phase of their episodes for ever:
    every batch then shows one phase only, and policy and critic forget the others. In the first ``max_episode_steps`` steps
    an even share of the environments therefore begins anew after each collection, each of them once.

    Args:
        num_envs: number of environments.
        num_steps: steps of each in a collection.
        update: number of the collection, from 0.
        max_episode_steps: the time limit.
    """
    # In NumPy, and quotient and remainder apart: the products may need more than 32 bits, and more than 64.
    whole, rest = divmod(max_episode_steps, num_envs * num_steps)
    env, never = np.arange(num_envs), np.iinfo(np.int32).max
    first = env * min(whole, never) + env * rest // (num_envs * num_steps)
    return jnp.asarray(np.minimum(first, never), jnp.int32) == update + 1


def non_finite(state: RolloutState) -> Bool[Array, " N"]:
    """Which environments show an observation that is not finite: they may never leave it by themselves."""
    return ~finite(state.observation, state.episode_length.shape)


def reset_where(
    environment: Environment, state: RolloutState, trajectory: Trajectory, key: PRNGKeyArray, cut: Bool[Array, " N"]
) -> tuple[RolloutState, Trajectory]:
    """Cut the episodes under way in some environments; the cut counts as a truncation.

    Args:
        environment: what was acted in.
        state: at the end of the collection.
        trajectory: the collection.
        key: for the new episodes; consumed.
        cut: where to; an episode that has just ended is left alone.
    """
    cut = cut & ~trajectory.done[-1]

    def restart(state: RolloutState) -> RolloutState:
        begun = reset(environment, key, cut.shape[0])
        fresh = jax.tree.map(jnp.zeros_like, state)._replace(env_state=begun.env_state, observation=begun.observation)
        return jax.tree.map(lambda new, old: jnp.where(expand(cut, new.ndim), new, old), fresh, state)

    state = jax.lax.cond(jnp.any(cut), restart, lambda state: state, state)
    return state, trajectory._replace(truncated=trajectory.truncated.at[-1].set(trajectory.truncated[-1] | cut))


def flatten(tree: PyTree) -> PyTree:
    """``[T, N, ...] -> [B, ...]``, each environment's steps in sequence."""
    return jax.tree.map(lambda x: jax.lax.collapse(jnp.swapaxes(x, 0, 1), 0, 2), tree)


def expand(mask: Bool[Array, " N"], ndim: int) -> Array:
    """Mask with trailing axes, to select along the leading one."""
    return jnp.reshape(mask, mask.shape + (1,) * (ndim - 1))


def reset_memory(memory: PyTree, done: Bool[Array, " N"]) -> PyTree:
    """Empty the memory of the environments whose episode ended, and memory that is no longer finite."""
    lost = done | ~finite(memory, done.shape)
    return jax.tree.map(lambda x: jnp.where(expand(lost, x.ndim), jnp.zeros_like(x), x), memory)


def finite(tree: PyTree, shape: tuple[int, ...]) -> Bool[Array, "..."]:
    """Whether every number is finite, for each entry along the leading axes of ``shape``."""
    good = jnp.ones(shape, bool)
    for leaf in jax.tree.leaves(tree):
        good &= jnp.isfinite(leaf).reshape(*shape, -1).all(axis=-1)
    return good


def strip_weak_types(tree: PyTree) -> PyTree:
    """Arrays without weak types, so that a state traces the same before and after a step, a save or a restore."""
    return jax.tree.map(lambda x: jax.lax.convert_element_type(x, jnp.asarray(x).dtype), tree)
