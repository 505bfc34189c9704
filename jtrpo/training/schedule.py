"""Hyper-parameters that change in the course of a run."""

import jax.numpy as jnp
from jaxtyping import Array, Int

from jtrpo.training.config import Hyperparams, TrainConfig


def numbers_in_force(config: TrainConfig, hyperparams: Hyperparams, update: Int[Array, ""]) -> Hyperparams:
    """Return the numbers of an update: scheduled, annealed to ``1 / num_updates`` of their value, or as they are."""
    left = jnp.maximum(config.num_updates - update, 1) / config.num_updates
    annealed = {name: left * getattr(hyperparams, name) for name in config.anneal}
    scheduled = {name: jnp.asarray(schedule(update), float) for name, schedule in config.schedules.items()}
    return hyperparams._replace(**annealed, **scheduled)
