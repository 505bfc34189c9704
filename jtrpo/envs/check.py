"""Checks of spaces, and of what an environment really returns against what it promises; shapes alone, at no cost at run time."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jaxtyping import PyTree

from jtrpo.envs.protocol import EnvStep


def parts(space: spaces.Dict | spaces.Tuple) -> dict[Any, spaces.Space]:
    """The spaces that a Dict or Tuple is made of, by name or place."""
    return dict(space.spaces) if isinstance(space, spaces.Dict) else dict(enumerate(space.spaces))


def check_space(space: Any, name: str) -> None:
    """Raise unless JAX can hold every element of a space of supported kinds.

    Raises:
        TypeError: not a Box, Discrete, MultiDiscrete, MultiBinary, or a Dict or Tuple of them.
        ValueError: numbers that JAX's types cannot hold, or names of a Dict that cannot be put in order.
    """
    if not isinstance(space, spaces.Space):
        raise TypeError(f"{name} must be a space of gymnasium.spaces; got {space!r} of type {type(space).__name__}")
    if isinstance(space, spaces.Dict | spaces.Tuple):
        children = parts(space)
        if len({type(key) for key in children}) > 1:
            raise ValueError(f"{name} must have names of one type, all strings, say; got {list(children)}")
        for key, child in children.items():
            check_space(child, f"{name}[{key!r}]")
        return
    if not isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        raise TypeError(
            f"{name} {space} is not supported; give Box, Discrete, MultiDiscrete, MultiBinary, or a Dict or Tuple of them"
        )
    try:
        dtype = np.dtype(jax.dtypes.canonicalize_dtype(space.dtype))
    except TypeError:
        raise ValueError(f"{name} {space} has numbers of {space.dtype}, which JAX does not know; use float32") from None
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        count = space.n if isinstance(space, spaces.Discrete) else space.nvec
        pairs = zip(np.ravel(space.start), np.ravel(count), strict=True)
        ends = [end for start, n in pairs for end in (int(start), int(start) + int(n) - 1)]
        limits = [np.iinfo(kind) for kind in (dtype, jax.dtypes.canonicalize_dtype(int))]
        if any(not limit.min <= end <= limit.max for limit in limits for end in ends):
            raise ValueError(
                f"{name} {space} counts from {min(ends)} to {max(ends)}, beyond {dtype} and JAX's own integers; count from "
                "another start, or with another dtype"
            )
    if isinstance(space, spaces.Box):
        limit = np.iinfo(dtype) if dtype.kind in "iu" else np.finfo(np.float16 if dtype.kind == "b" else dtype)
        if np.any(space.low > limit.max) or np.any(space.high < limit.min):
            raise ValueError(f"{name} {space} lies beyond the numbers of {dtype}, JAX's own; use smaller ones")


def canonical(space: spaces.Space, observation: Any, name: str, xp: Any = jnp, batch: int = 0) -> PyTree:
    """An observation as plain dictionaries, tuples and arrays, or an error unless it fits its space.

    For a Dict: any mapping, NamedTuple or dataclass of the same names. For a Tuple: any tuple or list. Types are those of the
    space; numbers that they cannot hold keep their own.

    Args:
        space: of one observation.
        observation: one, or a batch.
        name: for messages.
        xp: ``jax.numpy`` or ``numpy``.
        batch: leading axes.

    Raises:
        ValueError: another structure or shape, or on the host numbers that the space's type cannot hold.
    """
    if isinstance(space, spaces.Dict | spaces.Tuple):
        children, given = parts(space), _parts(space, observation)
        if given is None or set(given) != set(children):
            found = type(observation).__name__ if given is None else list(given)
            kind = "dict" if isinstance(space, spaces.Dict) else "tuple"
            raise ValueError(
                f"the environment's {name} must be a {kind} of {list(children)}, as observation_space says; got {found}"
            )
        each = {key: canonical(child, given[key], f"{name}[{key!r}]", xp, batch) for key, child in children.items()}
        return each if isinstance(space, spaces.Dict) else tuple(each.values())
    try:
        array = xp.asarray(observation)
    except (TypeError, ValueError):
        array = None
    if array is None or array.dtype == object or array.shape[batch:] != space.shape:
        got = type(observation).__name__ if array is None or array.dtype == object else f"shape {array.shape[batch:]}"
        raise ValueError(
            f"the environment's {name} has {got}, but its observation_space says {space.shape}: mend one of them"
        )
    return xp.asarray(array, _held_by(space, array.dtype, name, strict=xp is np))


def _held_by(space: spaces.Space, given: Any, name: str, strict: bool) -> Any:
    wanted = np.dtype(jax.dtypes.canonicalize_dtype(space.dtype))
    whole = jnp.issubdtype(wanted, jnp.integer) or wanted.kind == "b"
    if whole and not jnp.issubdtype(given, jnp.inexact):
        return wanted
    if strict and whole:
        raise ValueError(
            f"the environment's {name} has {given}, but its observation_space says {space.dtype}: mend one"
        )
    if strict:
        return wanted
    return given if whole else jnp.promote_types(given, wanted)


def _parts(space: spaces.Space, observation: Any) -> Mapping | None:
    if isinstance(space, spaces.Tuple):
        return dict(enumerate(observation)) if isinstance(observation, tuple | list) else None
    if isinstance(observation, Mapping):
        return observation
    if hasattr(observation, "_asdict"):
        return observation._asdict()
    if dataclasses.is_dataclass(observation) and not isinstance(observation, type):
        return {field.name: getattr(observation, field.name) for field in dataclasses.fields(observation)}
    return None


def check_reset(space: spaces.Space, result: Any) -> tuple[PyTree, PyTree]:
    """Return the ``(observation, state)`` with which an episode begins, the observation as :func:`canonical` has it.

    Raises:
        TypeError: not a pair, or a state that is not made of arrays.
        ValueError: an observation that does not fit its space.
    """
    if not isinstance(result, tuple) or len(result) != 2:
        raise TypeError(f"the environment's reset must return (observation, state); got {type(result).__name__}")
    for path, leaf in jax.tree_util.tree_leaves_with_path(result[1]):
        if not isinstance(leaf, jax.Array | np.ndarray | np.generic | bool | int | float):
            raise TypeError(
                f"the environment's state{jax.tree_util.keystr(path)} must be an array; got {type(leaf).__name__}: make it one, "
                "or register its class with jax.tree_util"
            )
    return canonical(space, result[0], "observation at reset"), result[1]


def check_step(space: spaces.Space, state: PyTree, observation: PyTree, result: Any) -> EnvStep:
    """Return one step of one environment in the types of the step before.

    Args:
        space: of the observations.
        state: the environment's, before the step.
        observation: before the step, as :func:`canonical` has it.
        result: what ``step`` returned.

    Raises:
        TypeError: not an :class:`EnvStep`.
        ValueError: another shape or kind of number than the protocol asks for, or than before the step.
    """
    if not isinstance(result, EnvStep):
        raise TypeError(f"the environment's step must return a jtrpo.EnvStep; got {type(result).__name__}")
    following, final = (
        _as_before(observation, canonical(space, getattr(result, name), name), name)
        for name in ("observation", "final_observation")
    )
    scalars = {name: _as_number(getattr(result, name), name) for name in ("reward", "terminated", "truncated")}
    for name, value in scalars.items():
        if value.ndim != 0:
            raise ValueError(f"the environment's {name} must be a scalar; got an array of shape {value.shape}")
        if name != "reward" and value.dtype != bool:
            raise ValueError(
                f"the environment's {name} must be a bool; got {value.dtype}: compare, or use .astype(bool)"
            )
    scalars["reward"] = jnp.asarray(scalars["reward"], float)
    metrics = _metrics(result.metrics)
    cost = None if result.cost is None else jnp.asarray(_as_number(result.cost, "cost"), float)
    if cost is not None and (cost.ndim > 1 or cost.size == 0):
        raise ValueError(f"the environment's cost must be a scalar or a vector; got an array of shape {cost.shape}")
    state = _as_before(state, result.state, "state")
    return EnvStep(following, state, final_observation=final, metrics=metrics, cost=cost, **scalars)


def _metrics(given: Any) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise TypeError(f"the environment's metrics must be a dictionary of scalars; got {type(given).__name__}")
    numbers = {name: jnp.asarray(_as_number(value, f"metrics[{name!r}]"), float) for name, value in given.items()}
    for name, value in numbers.items():
        if value.ndim:
            raise ValueError(f"the environment's metrics[{name!r}] must be a scalar; got shape {value.shape}")
    return numbers


def _as_number(value: Any, name: str) -> Any:
    try:
        array = jnp.asarray(value)
    except (TypeError, ValueError):
        array = None
    if array is None or jnp.iscomplexobj(array):
        kind = type(value).__name__ if array is None else array.dtype
        raise ValueError(
            f"the environment's {name} must be a {'bool' if name in ('terminated', 'truncated') else 'real number'}; got {kind}"
        )
    return array


def _as_before(before: PyTree, after: PyTree, name: str) -> PyTree:
    old: Any = jax.tree.structure(before)
    new: Any = jax.tree.structure(after)
    if not (old == new or str(old) == str(new)):  # equal where a node's own data compare as equal, or look the same
        raise ValueError(
            f"the environment's {name} must keep its structure; it is {old} at first and {new} after a step"
        )

    def same(path: Any, x: Any, y: Any) -> Any:
        y = jnp.asarray(y)
        if x.shape == y.shape and (x.dtype == y.dtype or jnp.promote_types(x.dtype, y.dtype) == x.dtype):
            return y.astype(x.dtype)
        (was, shape), (now, other) = (x.dtype, x.shape), (y.dtype, y.shape)
        raise ValueError(
            f"the environment's {name}{jax.tree_util.keystr(path)} must keep its type and shape; it is {was} of shape {shape} at "
            f"first and {now} of shape {other} after a step: make reset return what step returns"
        )

    return jax.tree_util.tree_map_with_path(same, before, after)
