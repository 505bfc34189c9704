"""Trainings of many settings side by side, which stop and go on."""

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from jtrpo.envs.gymnasium import HostEnvironment
from jtrpo.training.host.trainer import HostTrainer, check_evaluation, trainer_for
from jtrpo.training.hyperparams import Hyperparams
from jtrpo.training.keys import keys_for
from jtrpo.training.state import TrainState
from jtrpo.training.tuned import tuned

EPISODES = 32
"""Greedy episodes by which each policy is scored."""

PIECES = 20
"""Calls in which a round's updates are computed, so that an interruption need not wait for all."""

Setting = dict[str, Any]
"""What a training differs in from what ships for its environment, by name."""


@dataclass
class Trainings:
    """Trainings of settings that differ in numbers only, each from several seeds.

    Environments in JAX train under two ``vmap``, over settings and seeds, in one program; those on the host one after another.

    Attributes:
        env: environment id, or an environment.
        budget: ``total_timesteps``, where that is not what ships.
        static: what all have in common.
        settings: what each differs in from what ships, with ``static``.
        alive: those that are in training.
        states: of these, ``[settings, seeds]``; ``None``: none has begun.
        updates: that they have done.
    """

    env: Any
    budget: Setting
    static: Setting
    settings: list[Setting] = field(default_factory=list)
    alive: np.ndarray = field(default_factory=lambda: np.arange(0))
    states: Any = None
    updates: int = 0

    def __post_init__(self) -> None:
        self.config, self.shipped = tuned(self.env, **self.budget, **self.static)
        self.trainer = trainer_for(self.config)
        if isinstance(self.config.environment, HostEnvironment):
            check_evaluation(self.config.environment)

    def go_on(self, alive: np.ndarray, share: float, keys: PRNGKeyArray) -> np.ndarray:
        """Train some of the settings until a share of the whole is done; their returns ``[settings, seeds]``."""
        if self.states is None:  # the first round, or what came before it was read from a file
            self.states, self.updates = self._begin([self.numbers(self.settings[i]) for i in alive], keys), 0
        else:
            self.states = jax.tree.map(lambda x: x[np.searchsorted(self.alive, alive)], self.states)
        self.alive = alive
        target = max(self.updates, math.ceil(self.config.num_updates * share - 1e-9))
        self.states, returns = self._train(self.states, target - self.updates, keys)
        self.updates = target
        return np.asarray(returns, float)

    def numbers(self, setting: Setting) -> Hyperparams:
        """Those that ship, with those of a setting."""
        return self.shipped._replace(**{name: setting[name] for name in setting if name in Hyperparams._fields})

    def _begin(self, numbers: list[Hyperparams], keys: PRNGKeyArray) -> TrainState:
        if isinstance(self.trainer, HostTrainer):
            return _stacked([_stacked([self.trainer.init(key, each) for key in keys]) for each in numbers])
        over_seeds = jax.vmap(self.trainer.init, (0, None))
        return jax.jit(jax.vmap(over_seeds, (None, 0)))(keys, _stacked(numbers))

    def _train(self, states: TrainState, updates: int, keys: PRNGKeyArray) -> tuple[TrainState, Any]:
        """Some more updates for each, and mean greedy returns."""
        trainer = self.trainer

        def score(state: TrainState, key: PRNGKeyArray) -> Any:
            return trainer.evaluate(state, *keys_for(key, "score"), EPISODES).mean()

        if isinstance(trainer, HostTrainer):
            trained, returns = [], []
            with _environments_may_begin_anew():
                for i, j in np.ndindex(len(self.alive), len(keys)):
                    state = jax.tree.map(lambda x: x[i, j], states)  # noqa: B023
                    for _ in range(updates):
                        state, _ = trainer.step(state)
                    trained.append(state)
                    returns.append(score(state, keys[j]))
            trainer.close()
            shape = (len(self.alive), len(keys))
            states = jax.tree.map(lambda x: x.reshape(shape + x.shape[1:]), _stacked(trained))
            return states, np.reshape(returns, shape)

        for piece in np.diff(np.linspace(0, updates, PIECES + 1).astype(int)):
            states = jax.block_until_ready(self._update(states, piece))
        return states, jax.jit(jax.vmap(jax.vmap(score), (0, None)))(states, keys)

    @cached_property
    def _update(self) -> Callable[[TrainState, int], TrainState]:
        step = jax.vmap(jax.vmap(self.trainer.step))
        return jax.jit(lambda states, updates: jax.lax.fori_loop(0, updates, lambda _, states: step(states)[0], states))


def _stacked(trees: list[Any]) -> Any:
    return jax.tree.map(lambda *x: jnp.stack([jnp.asarray(each) for each in x]), *trees)


@contextmanager
def _environments_may_begin_anew() -> Iterator[None]:
    """Without the warning of a trainer on the host that is given one training's state after another's."""
    log = logging.getLogger("jtrpo")
    quiet = lambda record: not record.getMessage().startswith("environments on the host")  # noqa: E731
    log.addFilter(quiet)
    try:
        yield
    finally:
        log.removeFilter(quiet)
