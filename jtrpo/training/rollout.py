"""Trajectory collection: many environments, one scan."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from jtrpo.core.distributions import Distribution
from jtrpo.envs.actions import environment_action
from jtrpo.envs.check import check_reset, check_step
from jtrpo.envs.protocol import Environment, EnvStep
from jtrpo.training.report import undefined

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
    """

    env_state: PyTree
    observation: PyTree
    episode_return: Float[Array, " N"]
    episode_length: Int[Array, " N"]
    memory: PyTree = ()


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

    @property
    def done(self) -> Bool[Array, "T N"]:
        """Whether an episode ended with the step."""
        return self.terminated | self.truncated


class EpisodeSummary(NamedTuple):
    """The episodes that finished during one collection; means and extremes are NaN where none did (infinite with
    ``jax_debug_nans``).

    Attributes:
        finished: number of episodes.
        return_mean: mean undiscounted return.
        return_min: smallest return.
        return_max: largest return.
        length_mean: mean number of steps.
    """

    finished: Int[Array, ""]
    return_mean: Float[Array, ""]
    return_min: Float[Array, ""]
    return_max: Float[Array, ""]
    length_mean: Float[Array, ""]


def reset(environment: Environment, key: PRNGKeyArray, num_envs: int, memory: PyTree = ()) -> RolloutState:
    """Begin ``num_envs`` episodes with an empty ``memory``; the key is consumed."""

    def begin(key: PRNGKeyArray) -> tuple[PyTree, PyTree]:
        return check_reset(environment.observation_space, environment.reset(key))

    observation, env_state = jax.vmap(begin)(jax.random.split(key, num_envs))
    zeros = jnp.zeros((num_envs,))
    return strong(RolloutState(env_state, observation, zeros, zeros.astype(jnp.int32), memory))


def collect(
    environment: Environment,
    actor: Actor,
    start: RolloutState,
    key: PRNGKeyArray,
    num_steps: int,
    hold_noise: int = 1,
    keep_start: bool = False,
    squash: bool = False,
) -> tuple[RolloutState, Trajectory, EpisodeSummary]:
    """Run the policy for ``num_steps`` in every environment; the key is consumed.

    Episode statistics are reduced on the way: memory grows with the batch, never with the number of episodes.

    Args:
        environment: what to act in.
        actor: the policy.
        start: where the environments stand.
        key: consumed.
        num_steps: steps in each environment.
        hold_noise: steps for which the key that samples actions is held; more than one only makes sense for a distribution
            whose noise depends on the state as well, such as :class:`StateDependentNoise`.
        keep_start: keep where each step began, so that it can be gone back to.
        squash: as for :func:`environment_action`.
    """
    num_envs = start.episode_length.shape[0]

    def step(
        carry: tuple[RolloutState, Any], keys: tuple[PRNGKeyArray, PRNGKeyArray]
    ) -> tuple[tuple[RolloutState, Any], Trajectory]:
        state, totals = carry
        action_key, env_key = keys
        distribution, memory = actor(state.observation, state.memory)
        action = distribution.sample(action_key)
        following, record = act(environment, state, memory, action, distribution.log_prob(action), env_key, squash)
        if keep_start:
            record = record._replace(start=state._replace(observation=()))
        episode_return, episode_length = state.episode_return + record.reward, state.episode_length + 1
        totals = _add_finished(totals, record.done, episode_return, episode_length)
        return (following, totals), record

    nothing = jnp.zeros((num_envs,))
    totals = (nothing.astype(jnp.int32), nothing, nothing + jnp.inf, nothing - jnp.inf, nothing.astype(jnp.int32))
    action_key, env_key = jax.random.split(key)
    action_keys = jax.random.split(action_key, -(-num_steps // hold_noise))
    keys = (jnp.repeat(action_keys, hold_noise)[:num_steps], jax.random.split(env_key, num_steps))
    (end, totals), trajectory = jax.lax.scan(step, (start, totals), keys)
    return end, trajectory._replace(memory=start.memory), _summarize(totals)


def act(
    environment: Environment,
    state: RolloutState,
    memory: PyTree,
    action: PyTree,
    log_prob: Float[Array, " N"],
    key: PRNGKeyArray,
    squash: bool = False,
) -> tuple[RolloutState, Trajectory]:
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
        ``(state, record)``, the record without a time axis.
    """
    result = _step(environment, state.env_state, state.observation, action, key, squash)
    done = result.terminated | result.truncated
    following = RolloutState(
        result.state,
        result.observation,
        jnp.where(done, 0.0, state.episode_return + result.reward),
        jnp.where(done, 0, state.episode_length + 1),
        forget(memory, done | ~finite((state.observation, action, log_prob), done.shape)),
    )
    record = Trajectory(
        observation=state.observation,
        action=action,
        log_prob=log_prob,
        reward=result.reward,
        terminated=result.terminated,
        truncated=result.truncated,
        final_observation=result.final_observation,
    )
    return strong(following), record


def _step(
    environment: Environment, state: PyTree, observation: PyTree, action: PyTree, key: PRNGKeyArray, squash: bool
) -> EnvStep:
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


def staggered(trajectory: Trajectory, update: Int[Array, ""], max_episode_steps: int) -> Bool[Array, " N"]:
    """Which first episodes to cut after this collection, at evenly spread times, so that time limits do not fall in step.

    Environments that start together and run into the same time limit stay in the same phase of their episodes for ever:
    every batch then shows one phase only, and policy and critic forget the others. In the first ``max_episode_steps`` steps
    an even share of the environments therefore begins anew after each collection, each of them once.

    Args:
        trajectory: the collection.
        update: its number, from 0.
        max_episode_steps: the time limit.
    """
    num_steps, num_envs = trajectory.reward.shape
    # Before anything is traced, and with the whole and the rest apart: the products may be beyond 32 bits, and beyond 64.
    whole, rest = divmod(max_episode_steps, num_envs * num_steps)
    env, never = np.arange(num_envs), np.iinfo(np.int32).max
    first = env * min(whole, never) + env * rest // (num_envs * num_steps)
    return jnp.asarray(np.minimum(first, never), jnp.int32) == update + 1


def broken(state: RolloutState) -> Bool[Array, " N"]:
    """Which environments show an observation that is not finite: they may never leave it by themselves."""
    return ~finite(state.observation, state.episode_length.shape)


def begin_anew(
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

    def renew(state: RolloutState) -> RolloutState:
        fresh = reset(environment, key, cut.shape[0], jax.tree.map(jnp.zeros_like, state.memory))
        return jax.tree.map(lambda new, old: jnp.where(expand(cut, new.ndim), new, old), fresh, state)

    state = jax.lax.cond(jnp.any(cut), renew, lambda state: state, state)
    return state, trajectory._replace(truncated=trajectory.truncated.at[-1].set(trajectory.truncated[-1] | cut))


def expand(mask: Bool[Array, " N"], ndim: int) -> Array:
    """Mask with trailing axes, to select along the leading one."""
    return jnp.reshape(mask, mask.shape + (1,) * (ndim - 1))


def forget(memory: PyTree, done: Bool[Array, " N"]) -> PyTree:
    """Empty the memory of the environments whose episode ended, and memory that is no longer finite."""
    lost = done | ~finite(memory, done.shape)
    return jax.tree.map(lambda x: jnp.where(expand(lost, x.ndim), jnp.zeros_like(x), x), memory)


def finite(tree: PyTree, shape: tuple[int, ...]) -> Bool[Array, "..."]:
    """Whether every number is finite, for each entry along the leading axes of ``shape``."""
    good = jnp.ones(shape, bool)
    for leaf in jax.tree.leaves(tree):
        good &= jnp.isfinite(leaf).reshape(*shape, -1).all(axis=-1)
    return good


def _add_finished(totals: tuple, done: Array, episode_return: Array, episode_length: Array) -> tuple:
    count, return_sum, return_min, return_max, length_sum = totals
    return (
        count + done,
        return_sum + jnp.where(done, episode_return, 0.0),
        jnp.where(done, jnp.minimum(return_min, episode_return), return_min),
        jnp.where(done, jnp.maximum(return_max, episode_return), return_max),
        length_sum + jnp.where(done, episode_length, 0),
    )


def _summarize(totals: tuple) -> EpisodeSummary:
    count, return_sum, return_min, return_max, length_sum = totals
    finished = jnp.sum(count)
    mean = lambda total: jnp.where(  # noqa: E731
        finished > 0, jnp.sum(total, dtype=float) / jnp.maximum(finished, 1), undefined()
    )
    some = lambda extreme: jnp.where(finished > 0, extreme, undefined())  # noqa: E731
    return EpisodeSummary(
        finished=finished,
        return_mean=mean(return_sum),
        return_min=some(jnp.min(return_min)),
        return_max=some(jnp.max(return_max)),
        length_mean=mean(length_sum),
    )


def play_episodes(
    environment: Environment,
    actor: Callable[[PyTree, PyTree, PRNGKeyArray], tuple[PyTree, PyTree]],
    key: PRNGKeyArray,
    num_episodes: int,
    max_steps: int,
    memory: PyTree = (),
    squash: bool = False,
) -> Float[Array, " num_episodes"]:
    """Undiscounted returns of ``num_episodes`` whole episodes, side by side; the key is consumed.

    Args:
        environment: what to act in.
        actor: ``(observations, memory, key) -> (actions, memory)``.
        key: consumed.
        num_episodes: episodes, one in each environment.
        max_steps: an episode that is still running then counts with its return so far.
        memory: an empty one, ``[num_episodes, ...]`` each.
        squash: as for :func:`environment_action`.
    """
    reset_key, play_key = jax.random.split(key)
    start = reset(environment, reset_key, num_episodes)

    def running(carry: tuple) -> Bool[Array, ""]:
        step, alive = carry[0], carry[-2]
        return jnp.any(alive) & (step < max_steps)

    def advance(carry: tuple) -> tuple:
        step, env_state, observation, memory, key, alive, total = carry
        key, action_key, env_key = jax.random.split(key, 3)
        action, memory = actor(observation, memory, action_key)
        result = _step(environment, env_state, observation, action, env_key, squash)
        total = total + jnp.where(alive, result.reward, 0.0)
        alive = alive & ~(result.terminated | result.truncated)
        return step + 1, *strong((result.state, result.observation, memory)), key, alive, total

    initial = (
        jnp.int32(0),
        start.env_state,
        start.observation,
        memory,
        play_key,
        jnp.ones((num_episodes,), bool),
        start.episode_return,
    )
    return jax.lax.while_loop(running, advance, initial)[-1]


def strong(tree: PyTree) -> PyTree:
    """Arrays without weak types, so that a state traces the same before and after a step, a save or a restore."""
    return jax.tree.map(lambda x: jax.lax.convert_element_type(x, jnp.asarray(x).dtype), tree)
