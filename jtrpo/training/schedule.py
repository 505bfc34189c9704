"""Hyper-parameters that change in the course of a run."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jtrpo.core.check import check_callable, check_choice, check_number
from jtrpo.training.hyperparams import RANGES, Hyperparams

Schedule = Callable[[Int[Array, ""]], Float[Array, ""]]
"""From the number of updates done to a value, as optax makes them."""

ANNEALED = ("max_kl", "cg_damping", "entropy_coefficient", "critic_learning_rate", "critic_max_change")
"""Hyper-parameters that may be annealed: those for which less and less makes sense."""


def current_hyperparams(
    hyperparams: Hyperparams,
    update: Int[Array, ""],
    num_updates: int,
    anneal: tuple[str, ...] = (),
    schedules: Mapping[str, Schedule] = {},  # never written to
) -> Hyperparams:
    """Return the numbers of an update: scheduled, annealed to ``1 / num_updates`` of their value, or as they are."""
    left = jnp.maximum(num_updates - update, 1) / num_updates
    annealed = {name: left * getattr(hyperparams, name) for name in anneal}
    scheduled = {name: jnp.asarray(schedule(update), float) for name, schedule in schedules.items()}
    return hyperparams._replace(**annealed, **scheduled)


def check_schedules(anneal: Any, schedules: Any, num_updates: int) -> None:
    """Raise by the name of the number that cannot change so.

    Raises:
        TypeError: names that are no tuple, schedules that are no mapping, or one that is no function.
        ValueError: an unknown name, a name in both, or a value out of its number's range.
    """
    if not isinstance(anneal, tuple):
        raise TypeError(f"anneal must be a tuple of names such as ('max_kl',); got {anneal!r}")
    for name in anneal:
        check_choice("anneal", name, ANNEALED)
    if not isinstance(schedules, Mapping):
        raise TypeError(f"schedules must map names of hyper-parameters to functions; got {schedules!r}")
    for name, schedule in schedules.items():
        check_choice("schedules", name, Hyperparams._fields)
        check_callable(f"schedules[{name!r}]", schedule, "(updates done) -> value", takes=1)
        for update in (0, num_updates - 1):  # the values between the two ends are not checked
            value = schedule(np.int32(update))  # NumPy's, which does not start JAX
            check_number(f"schedules[{name!r}]({update})", value, **RANGES[name])
    changing = (*anneal, *schedules)
    for name in changing:
        if changing.count(name) > 1:
            raise ValueError(f"{name} is named more than once among anneal and schedules; choose one")
