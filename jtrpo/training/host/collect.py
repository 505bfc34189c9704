"""Collection and evaluation in environments on the host: the loops that step them."""

from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, PyTree

from jtrpo.training.episodes import EpisodeTotals, add_finished, no_episodes
from jtrpo.training.host.environments import LiveEnvironments
from jtrpo.training.rollout import Trajectory, finite, reset_memory

Act = Callable[..., tuple[PyTree, Float[np.ndarray, " N"], PyTree, PyTree]]
"""``(*, observation, memory, step) -> (action, log_prob, action for the environment, memory)``, in NumPy all but the memory."""


def collect_on_host(
    live: LiveEnvironments, act: Act, trajectory: Trajectory, staggered: Bool[np.ndarray, " N"] | None = None
) -> tuple[Trajectory, EpisodeTotals, PyTree, Bool[np.ndarray, " N"], Bool[np.ndarray, " N"]]:
    """Fill a trajectory; each environment has a row of its own to write to next, since not every step is a sample.

    Args:
        live: the environments, which step on.
        act: the policy.
        trajectory: room for it, with the memory to begin with.
        staggered: which first episodes to cut after it, as :func:`staggered_resets` says; ``None``: none.

    Returns:
        ``(trajectory, episodes, memory, beyond, unseen_end)``, the last two where an environment went on after its last
        sample, and where an episode ended then.
    """
    num_steps, num_envs = trajectory.reward.shape
    memory, row, step = trajectory.memory, np.zeros(num_envs, int), 0
    beyond, unseen_end = np.zeros((2, num_envs), bool)
    before_step = (trajectory.observation, trajectory.action, trajectory.log_prob)
    after_step = (
        trajectory.reward,
        trajectory.terminated,
        trajectory.truncated,
        trajectory.final_observation,
        trajectory.cost,
    )
    while row.min() < num_steps:
        action, log_prob, to_environment, memory = act(observation=live.observation, memory=memory, step=step)
        acts, full = live.acts, row == num_steps
        sample = np.flatnonzero(acts & ~full)
        # Before the step: an environment may write into the same memory.
        _write(before_step, row, sample, (live.observation, action, log_prob))
        result = live.step(to_environment)
        live.episodes.add(result)
        done = result.terminated | result.truncated
        memory = reset_memory_on_host(memory, done | ~acts)
        beyond |= acts & full
        unseen_end |= done & full
        ends = (result.terminated, result.truncated)
        _write(after_step, row, sample, (result.reward, *ends, result.final_observation, result.cost))
        row[sample] += 1
        step += bool(acts.any())
    cut = ~np.asarray(_compiled_finite(live.observation, (num_envs,)))
    if staggered is not None:
        cut |= staggered
    cut &= ~np.asarray(trajectory.done[-1])
    if cut.any():
        cut = live.reset_where(cut)
        live.episodes.reset_where(cut)
        memory = reset_memory_on_host(memory, cut)
        np.asarray(trajectory.truncated)[-1] |= cut & ~np.asarray(trajectory.done[-1])  # in place: these are NumPy's
    return trajectory, live.episodes.take(), memory, beyond, unseen_end


def _write(room: tuple, row: np.ndarray, env: np.ndarray, record: tuple) -> None:
    every = len(env) == len(row)
    row = row[env]
    for into, one in zip(jax.tree.leaves(room), jax.tree.leaves(record), strict=True):
        into[row, env] = one if every else one[env]


def play_on_host(
    live: LiveEnvironments,
    act: Act,
    empty_memory: Callable[[int], PyTree],
    wanted: Int[np.ndarray, " N"],
    max_steps: int,
) -> EpisodeTotals:
    """Play whole episodes in environments that have just begun: the totals of one each, those of each environment in turn.

    Args:
        live: the environments.
        act: the policy.
        empty_memory: ``(batch) -> memory`` for the first step of an episode.
        wanted: episodes of each environment, fixed beforehand, so that short ones do not count more often.
        max_steps: an episode that is still running then counts with its return so far.

    Source: Stable-Baselines3's ``evaluate_policy``,
    https://github.com/DLR-RM/stable-baselines3/blob/master/stable_baselines3/common/evaluation.py.
    """
    counts = live.episodes
    room = (counts.returns, counts.lengths, counts.cost, counts.metrics, counts.metrics)
    every = jax.tree.map(lambda x: np.zeros((sum(wanted), *x.shape[1:]), x.dtype), room)
    row, end = np.cumsum(wanted) - wanted, np.cumsum(wanted)
    memory, step = empty_memory(len(wanted)), 0
    while (row < end).any():
        *_, to_environment, memory = act(observation=live.observation, memory=memory, step=step)
        result = live.step(to_environment)
        live.episodes.count(result)
        done = result.terminated | result.truncated
        endless = ~done & (live.episodes.lengths >= max_steps)
        for env in np.flatnonzero(done | endless):
            if row[env] < end[env]:
                last = {name: result.metrics[name][env] for name in live.episodes.metrics}
                episode = (*live.episodes.under_way(int(env)), last)
                jax.tree.map(lambda into, one, at=row[env]: into.__setitem__(at, one), every, episode)
                row[env] += 1
        begun = done | (live.reset_where(endless) if endless.any() else endless)
        live.episodes.reset_where(begun)
        memory = reset_memory_on_host(memory, begun | ~result.acted)
        step += 1
    returns, lengths, cost, sums, last = every
    none, ended = no_episodes(len(returns), np, cost, sums), np.ones(len(returns), bool)
    return add_finished(none, ended, returns, lengths, np, cost, sums, last)  # type: ignore[arg-type]


def reset_memory_on_host(memory: PyTree, done: Bool[np.ndarray, " N"]) -> PyTree:
    """Empty the memory where an episode ended, or only begins."""
    return _compiled_reset(memory, done) if jax.tree.leaves(memory) else memory


_compiled_reset, _compiled_finite = jax.jit(reset_memory), jax.jit(finite, static_argnums=1)
