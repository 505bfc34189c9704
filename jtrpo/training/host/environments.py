"""Environments on the host, and where they stand."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from gymnasium.vector import VectorEnv
from jaxtyping import Bool, PRNGKeyArray, PyTree

from jtrpo.envs.host_vector import HostStep, HostVector
from jtrpo.envs.velocity import SpeedCost
from jtrpo.training.episodes import EpisodeTotals, add_finished, no_episodes
from jtrpo.training.state import TrainState


class EpisodeCounts:
    """Returns and lengths of the episodes under way, and of those that finished since they were last taken."""

    def __init__(self, num_envs: int, metrics: tuple[str, ...] = (), has_cost: bool = False):
        self.returns, self.lengths = np.zeros(num_envs), np.zeros(num_envs, int)
        self.metrics = {name: np.zeros(num_envs) for name in metrics}
        self.cost: Any = np.zeros(num_envs) if has_cost else ()
        self._totals = self._none()

    def count(self, result: HostStep) -> None:
        """Add a step to the episodes under way."""
        self.returns += np.where(result.acted, result.reward, 0.0)
        self.lengths += result.acted
        pairs = [(self.metrics[name], result.metrics[name]) for name in self.metrics]
        for total, value in [*pairs, *([] if isinstance(self.cost, tuple) else [(self.cost, result.cost)])]:
            total += np.where(result.acted, value, 0.0)

    def add(self, result: HostStep) -> None:
        """Count a step, and the episodes that end with it."""
        self.count(result)
        done: Any = result.terminated | result.truncated
        if not done.any():
            return
        returns, lengths, sums, last = self.returns, self.lengths, self.metrics, result.metrics
        self._totals = add_finished(self._totals, done, returns, lengths, np, self.cost, sums, last)  # type: ignore[arg-type]
        self.reset_where(done)

    def under_way(self, env: int) -> tuple:
        """Return, length, cost and sums of the metrics of one environment's episode."""
        return jax.tree.map(lambda x: x[env], (self.returns, self.lengths, self.cost, self.metrics))

    def reset_where(self, which: Bool[np.ndarray, " N"]) -> None:
        """Begin to count anew in some environments."""
        for total in (self.returns, self.lengths, *self.metrics.values(), *jax.tree.leaves(self.cost)):
            total[which] = 0

    def take(self) -> EpisodeTotals:
        """What finished since it was last taken."""
        totals, self._totals = self._totals, self._none()
        return totals

    def _none(self) -> EpisodeTotals:
        return no_episodes(len(self.returns), np, self.cost, self.metrics)


class LiveEnvironments:
    """Environments on the host and where they stand: the one thing here that changes in place.

    Args:
        make: ``(num_envs, seed) -> VectorEnv``, called when they are needed.
        lent: whether they are another's to close.
        metrics: names of the numbers of ``info`` to count.
        cost: name of the one that is a cost, or what makes one of some; ``None``: there is none.
        limit: steps after which episodes are cut; ``None``: the environments' own limit.

    Attributes:
        vector: the environments.
        observation: what the policy sees next, ``[N, ...]`` each.
        episodes: those under way.
    """

    vector: HostVector | None
    observation: PyTree
    episodes: EpisodeCounts

    def __init__(
        self,
        make: Callable[[int, int], VectorEnv] | None,
        lent: bool = False,
        metrics: tuple[str, ...] = (),
        cost: str | SpeedCost | None = None,
        limit: int | None = None,
    ):
        self._make, self._lent, self.vector, self._limit = make, lent, None, limit
        self._metrics, self._cost = metrics, cost
        self._owner: np.ndarray | None = None

    def begin(self, key: PRNGKeyArray, num_envs: int, share: int = 0) -> None:
        """Begin an episode in every environment, once made with a look for the numbers by name.

        Args:
            key: consumed; each environment's seed is its number, among those of all shares, more than one that this gives.
            num_envs: environments to make.
            share: number of these environments' share.

        Raises:
            ValueError: a number that no ``info`` gives.
        """
        first = int(jax.random.randint(key, (), 0, 2**30))
        seed = first + share * num_envs
        if self.vector is None or self.vector.seeded_when_made:
            assert self._make is not None
            self.close()
            self.vector = HostVector(self._make(num_envs, seed), self._metrics, self._cost)
            try:
                self.vector.check_names(seed)
            except ValueError:
                self.close()
                raise
        self.observation = self.vector.reset(first + share * self.vector.num_envs)
        self.episodes = EpisodeCounts(self.vector.num_envs, self._metrics, self._cost is not None)

    @property
    def acts(self) -> Bool[np.ndarray, " N"]:
        """Which environments take the next action; the others only begin an episode."""
        assert self.vector is not None
        return self.vector.acts

    def step(self, action: PyTree) -> HostStep:
        """Act once in every environment."""
        assert self.vector is not None
        result = self.vector.step(action)
        if self._limit is not None:
            result = self._cut(result, self._limit)
        self.observation = result.observation
        return result

    def _cut(self, result: HostStep, limit: int) -> HostStep:
        """The same step, after which the episodes that are as long as the limit are over."""
        assert self.vector is not None
        cut = result.acted & ~(result.terminated | result.truncated) & (self.episodes.lengths + 1 >= limit)
        if not cut.any():
            return result
        final = jax.tree.map(np.copy, result.final_observation)  # the reset may write into the same memory
        observation, _ = self.vector.reset_where(cut)
        return result._replace(observation=observation, truncated=result.truncated | cut, final_observation=final)

    def reset_where(self, which: Bool[np.ndarray, " N"]) -> Bool[np.ndarray, " N"]:
        """Begin new episodes in some environments; return in which they really begin."""
        assert self.vector is not None
        self.observation, which = self.vector.reset_where(which)
        return which

    def close(self) -> None:
        """Close what was made here; it is made again when it is needed."""
        if self.vector is not None and not self._lent:
            self.vector.env.close()
        self.vector = self._owner = None

    def belong_to(self, state: TrainState) -> None:
        """Stand where this state left them."""
        self._owner = np.asarray(jax.random.key_data(state.key))

    def claimed_by(self, state: TrainState) -> bool:
        """Whether they stand where this state left them; from now on, and if a step is broken off, they do not."""
        owner, self._owner = self._owner, None
        return owner is not None and np.array_equal(owner, jax.random.key_data(state.key))
