"""Hyper-parameters that change in the course of a run: by a schedule, or by how well the last update was predicted."""

from collections.abc import Iterable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jtrpo.core.trpo import TRPOInfo
from jtrpo.training.config import Hyperparams, TrainConfig

FACTOR = 1.5
LIMITS = {"max_kl": (1e-4, 0.1), "cg_damping": (1e-4, 10.0)}
"""Bounds within which a number adapts; one that starts outside moves towards them."""


def numbers_in_force(config: TrainConfig, hyperparams: Hyperparams, update: Int[Array, ""]) -> Hyperparams:
    """Return the numbers of an update: scheduled, annealed to ``1 / num_updates`` of their value, or as they are."""
    left = jnp.maximum(config.num_updates - update, 1) / config.num_updates
    annealed = {name: left * getattr(hyperparams, name) for name in config.anneal}
    scheduled = {name: jnp.asarray(schedule(update), float) for name, schedule in config.schedules.items()}
    return hyperparams._replace(**annealed, **scheduled)


def reduction_ratio(info: TRPOInfo) -> Float[Array, ""]:
    """(L(new) - L(old)) / (g . step): one where the objective is linear along the step; zero for a refused update."""
    taken = info.predicted_improvement > 0
    gain = (info.objective_after - info.objective_before) / jnp.where(taken, info.predicted_improvement, 1.0)
    return jnp.where(taken, gain, 0.0)


def adapt(hyperparams: Hyperparams, names: Iterable[str], info: TRPOInfo) -> Hyperparams:
    """Trust the model more where it predicted well, less where it did not.

    With rho the reduction ratio: rho > 3/4 multiplies ``max_kl`` by 3/2 and divides ``cg_damping`` by it; rho < 1/4, a refused
    update included, does the reverse.

    Source: Martens and Grosse 2015, https://arxiv.org/abs/1503.05671, section 6.5, for the damping (Levenberg-Marquardt);
    Nocedal and Wright 2006, Numerical Optimization, algorithm 4.1, for the radius.
    """
    rho = reduction_ratio(info)
    growth = jnp.where(rho > 0.75, FACTOR, jnp.where(rho < 0.25, 1.0 / FACTOR, 1.0))
    change = {"max_kl": growth, "cg_damping": 1.0 / growth}
    return hyperparams._replace(
        **{name: jnp.clip(getattr(hyperparams, name) * change[name], *LIMITS[name]) for name in names}
    )
