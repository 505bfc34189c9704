"""Environments on the host, and where they stand."""

from collections.abc import Callable

import jax
import numpy as np
from gymnasium.vector import VectorEnv
from jaxtyping import Bool, PRNGKeyArray, PyTree

from jtrpo.envs.gymnasium import HostStep, HostVector
from jtrpo.training.episodes import EpisodeSummary, add_finished, no_episodes, summarize
from jtrpo.training.state import TrainState


class EpisodeCounts:
    """Returns and lengths of the episodes under way, and of those that finished since the last summary."""

    def __init__(self, num_envs: int):
        self.returns, self.lengths = np.zeros(num_envs), np.zeros(num_envs, int)
        self._totals = no_episodes(num_envs, np)

    def add(self, result: HostStep) -> None:
        """Count a step."""
        self.returns += np.where(result.acted, result.reward, 0.0)
        self.lengths += result.acted
        done = result.terminated | result.truncated
        self._totals = add_finished(self._totals, done, self.returns, self.lengths, np)  # type: ignore[arg-type]
        self.reset_where(done)

    def reset_where(self, which: Bool[np.ndarray, " N"]) -> None:
        """Begin to count anew in some environments."""
        self.returns[which], self.lengths[which] = 0.0, 0

    def summary(self) -> EpisodeSummary:
        """What finished since the last summary."""
        totals, self._totals = self._totals, no_episodes(len(self.returns), np)
        return jax.device_get(summarize(totals))


class LiveEnvironments:
    """Environments on the host and where they stand: the one thing here that changes in place.

    Args:
        make: ``(num_envs) -> VectorEnv``, called when they are needed.
        lent: whether they are another's to close.

    Attributes:
        vector: the environments.
        observation: what the policy sees next, ``[N, ...]`` each.
        episodes: those under way.
    """

    vector: HostVector | None
    observation: PyTree
    episodes: EpisodeCounts

    def __init__(self, make: Callable[[int], VectorEnv] | None, lent: bool = False):
        self._make, self._lent, self.vector = make, lent, None
        self._owner: np.ndarray | None = None

    def begin(self, key: PRNGKeyArray, num_envs: int) -> None:
        """Begin an episode in every environment; the key is consumed."""
        if self.vector is None:
            assert self._make is not None
            self.vector = HostVector(self._make(num_envs))
        self.observation = self.vector.reset(int(jax.random.randint(key, (), 0, 2**30)))
        self.episodes = EpisodeCounts(self.vector.num_envs)

    def step(self, action: PyTree) -> HostStep:
        """Act once in every environment."""
        assert self.vector is not None
        result = self.vector.step(action)
        self.observation = result.observation
        return result

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
