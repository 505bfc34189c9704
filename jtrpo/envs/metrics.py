"""An environment's own numbers: which of them are reported, and whether there is a cost."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jtrpo.envs.gymnasium import batch_example
from jtrpo.envs.protocol import Environment, EnvStep

_ENDS = ("terminated", "truncated")


def scalars_of(info: Mapping[str, Any]) -> dict[str, Any]:
    """Those entries of a dictionary that are one real number."""
    arrays = {
        name: x for name, x in info.items() if isinstance(x, jax.Array | bool | int | float) and name not in _ENDS
    }
    kinds = (jnp.integer, jnp.floating, jnp.bool_)
    return {
        name: x
        for name, x in arrays.items()
        if jnp.ndim(x) == 0 and any(jnp.issubdtype(jnp.result_type(x), kind) for kind in kinds)
    }


def own_numbers(
    environment: Environment, names: tuple[str, ...] = ()
) -> tuple[tuple[str, ...], tuple[int, ...] | None]:
    """``(names, cost_shape)``: the metrics that are reported and the shape of a step's cost, ``None`` without; shapes alone.

    Args:
        environment: with ``metrics_by_name`` it reports none but those that are named; any other all that it gives.
        names: of the metrics to report; empty: as the environment has it.

    Raises:
        ValueError: a name that the environment does not give, or one that cannot be a column of a table.
    """
    if "metrics_by_name" in vars(type(environment)) and not names and not getattr(environment, "may_cost", False):
        return (), None  # an adapter itself, of what has no cost: nothing is to be traced
    action = batch_example(environment.action_space)
    found: tuple[tuple[str, ...], tuple[int, ...] | None] = ((), None)

    def one() -> tuple[()]:
        nonlocal found
        key = jax.random.key(0)
        result = environment.step(key, environment.reset(key)[1], action)
        if isinstance(result, EnvStep) and isinstance(result.metrics, Mapping):  # or the first step refuses it
            found = tuple(result.metrics), None if result.cost is None else jnp.shape(result.cost)
        return ()

    jax.eval_shape(one)
    given, cost_shape = found
    check_names(names, given, environment)
    if names or getattr(environment, "metrics_by_name", False):
        return names, cost_shape
    return check_columns("the environment's EnvStep.metrics", given), cost_shape


def check_metrics(names: Any, cost: Any = None) -> None:
    """Raise unless ``names`` can be the columns of a table, and ``cost`` the name of a number.

    Raises:
        TypeError: no tuple of texts, or a cost that is none.
        ValueError: a name that is empty, or has a comma, a quote or a space, or one that comes twice.
    """
    if not isinstance(names, tuple):
        raise TypeError(f"env_metrics must be a tuple of names such as ('is_success',); got {names!r}")
    check_columns("env_metrics", names)
    if not isinstance(cost, str | None):
        raise TypeError(f"env_cost must be the name of a number such as 'cost'; got {cost!r}")


def check_columns(where: str, names: tuple[Any, ...]) -> tuple[str, ...]:
    """Return the names, or raise where they cannot be the columns of a table; ``where`` they come from is for the message."""
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"{where} must have texts for names, such as 'is_success'; got {name!r} among {names!r}")
        if not name or re.search(r"[,\"\s]", name) or names.count(name) > 1:
            raise ValueError(f"{where} must have names without spaces, commas and quotes, each once; got {name!r}")
    return names


def check_names(names: Iterable[str], given: Iterable[str], environment: Any) -> None:
    """Raise ``ValueError`` where a name is not among those that an environment gives."""
    for name in names:
        if name not in given:
            raise ValueError(
                f"env_metrics names {name!r}, which {environment} does not give; it gives {', '.join(given) or 'none'}"
            )


def reported(names: Iterable[str], step: EnvStep) -> dict[str, Any]:
    """Those of a step's numbers that are reported; ``ValueError`` where one is missing that the first step had."""
    missing = [name for name in names if name not in step.metrics]
    if missing:
        raise ValueError(
            f"the environment's EnvStep.metrics must have the same names at every step (env_metrics those that it is to report); "
            f"{missing} of the first step are missing in one that has {list(step.metrics)}"
        )
    return {name: step.metrics[name] for name in names}
