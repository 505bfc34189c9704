"""Evaluation: whole episodes side by side, undiscounted."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PRNGKeyArray, PyTree

from jtrpo.core.check import check_count, check_static
from jtrpo.envs.metrics import reported
from jtrpo.envs.protocol import Environment
from jtrpo.training.episodes import EpisodeTotals, add_finished, no_episodes
from jtrpo.training.rollout import expand, reset, step_environments, strip_weak_types
from jtrpo.training.state import TrainState, check_state


def play_episodes(
    environment: Environment,
    actor: Callable[[PyTree, PyTree, PRNGKeyArray], tuple[PyTree, PyTree]],
    key: PRNGKeyArray,
    num_episodes: int,
    max_steps: int,
    memory: PyTree = (),
    squash: bool = False,
    noise_interval: int = 1,
    metrics: tuple[str, ...] = (),
    cost_shape: tuple[int, ...] | None = None,
) -> EpisodeTotals:
    """Play ``num_episodes`` whole episodes, side by side: the totals of one each; the key is consumed.

    Args:
        environment: what to act in.
        actor: ``(observations, memory, key) -> (actions, memory)``.
        key: consumed.
        num_episodes: episodes, one in each environment.
        max_steps: an episode that is still running then counts with its return so far.
        memory: an empty one, ``[num_episodes, ...]`` each.
        squash: as for :func:`environment_action`.
        noise_interval: steps for which the actor's key is held, as in :func:`jtrpo.training.rollout.collect`.
        metrics: as for :func:`jtrpo.training.rollout.reset`.
        cost_shape: likewise.
    """
    reset_key, play_key = jax.random.split(key)
    start = reset(environment, reset_key, num_episodes, (), metrics, cost_shape)

    def running(carry: tuple) -> Bool[Array, ""]:
        step, alive = carry[0], carry[-2]
        return jnp.any(alive) & (step < max_steps)

    def advance(carry: tuple) -> tuple:
        step, env_state, observation, memory, key, held, alive, (sums, last) = carry
        key, action_key, env_key = jax.random.split(key, 3)
        held = action_key if noise_interval == 1 else jnp.where(step % noise_interval == 0, action_key, held)
        action, memory = actor(observation, memory, held)
        result = step_environments(environment, env_state, observation, action, env_key, squash)
        own = reported(metrics, result)
        new = (result.reward, 1, () if cost_shape is None else result.cost, own)
        sums = jax.tree.map(lambda total, x: total + jnp.where(expand(alive, total.ndim), x, 0), sums, new)
        last = jax.tree.map(lambda old, x: jnp.where(alive, x, old), last, own)
        alive = alive & ~(result.terminated | result.truncated)
        return step + 1, *strip_weak_types((result.state, result.observation, memory)), key, held, alive, (sums, last)

    nothing = (start.episode_return, start.episode_length, start.episode_cost, start.episode_metrics)
    initial = (
        jnp.int32(0),
        start.env_state,
        start.observation,
        memory,
        play_key,
        play_key,
        jnp.ones((num_episodes,), bool),
        (nothing, start.episode_metrics),
    )
    (returns, lengths, cost, sums), last = jax.lax.while_loop(running, advance, initial)[-1]
    none = no_episodes(num_episodes, cost=cost, metrics=sums)
    every = jnp.ones((num_episodes,), bool)
    return add_finished(none, every, returns, lengths, cost=cost, sums=sums, last=last)


def check_evaluate(state: TrainState, num_episodes: int, deterministic: bool, max_steps: int, summary: bool) -> None:
    """Raise by the name of the argument where an evaluation cannot be."""
    check_state(state)
    check_static("num_episodes", num_episodes, int)
    check_count("num_episodes", num_episodes, at_least=1)
    check_static("deterministic", deterministic, bool)
    check_static("summary", summary, bool)
    check_count("max_steps", max_steps, at_least=1)
