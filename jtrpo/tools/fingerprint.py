"""What an environment is recognised by: its class, spaces and parameters, as JSON that is the same in every process."""

import enum
import functools
import hashlib
import json
import re
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv

from jtrpo.envs.gymnasium import HostEnvironment
from jtrpo.training.config import TrainConfig

_MAX_ELEMENTS = 8
"""Elements up to which an array is written out; of a larger one, a digest."""
_MAX_PARAMETERS = 200
"""Parameters up to which an environment's are listed; of more, a digest."""
_MAX_DEPTH = 8


def environment_name(config: TrainConfig) -> str:
    """An id, or what an environment calls itself, or its class; never an address."""
    if isinstance(config.env, str):
        return str(config.env)
    environment = config.environment
    if type(environment).__repr__ is object.__repr__:
        return type(environment).__qualname__
    return _without_address(environment)


def fingerprint(config: TrainConfig) -> dict[str, Any]:
    """Class, spaces and parameters of the environment, by names that begin with ``env.``.

    Of an object, its attributes and theirs: numbers and texts as they are, large arrays by a digest, functions by name and what
    they close over. Of a vector environment on the host, which changes as it runs, only the classes and spaces.
    """
    environment = config.environment
    known = {
        "env.observation_space": _space(environment.observation_space),
        "env.action_space": _space(environment.action_space),
    }
    if isinstance(environment, HostEnvironment):
        vector = config.env[0] if isinstance(config.env, tuple) else config.env
        by_id = str(vector).partition(":")[0]  # gymnasium, envpool or atari
        known["env.class"] = " > ".join(_classes(vector)) if isinstance(vector, VectorEnv) else by_id
        return known
    known["env.class"] = _name(type(environment))
    skipped = ("observation_space", "action_space")
    parts = [(name, value) for name, value in _attributes(environment) if name not in skipped]
    parameters = {
        f"env.{path}": value for name, part in parts for path, value in _parameters(name, part, (id(environment),))
    }
    if len(parameters) > _MAX_PARAMETERS:
        text = json.dumps(parameters, sort_keys=True).encode()
        parameters = {"env.parameters": f"{len(parameters)} values, {_digest(text)}"}
    return known | parameters


def _classes(env: Any) -> Iterator[str]:
    """Of a vector environment and of what it wraps, outermost first."""
    while env is not None:
        yield _name(type(env))
        within = getattr(env, "envs", None)
        env = within[0] if isinstance(within, list | tuple) and within else vars(env).get("env")


def _parameters(path: str, value: Any, ancestors: tuple[int, ...]) -> Iterator[tuple[str, Any]]:
    """The parts of ``value``, each a path and a value for JSON."""
    if id(value) in ancestors or len(ancestors) > _MAX_DEPTH:
        return
    ancestors = (*ancestors, id(value))
    if isinstance(value, np.ndarray) and value.dtype == object:
        value = value.tolist()
    if isinstance(value, bool | str | None):
        yield path, value
    elif isinstance(value, enum.Enum):
        yield path, str(value)
    elif isinstance(value, int | float | complex | bytes | np.generic | np.ndarray | jax.Array):
        yield path, _number(value)
    elif isinstance(value, spaces.Space):
        yield path, _space(value)
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield from _parameters(f"{path}.{_without_address(key)}", value[key], ancestors)
    elif isinstance(value, set | frozenset):
        yield path, sorted(str(dict(_parameters("x", each, ancestors))) for each in value)
    elif isinstance(value, tuple | list):
        names = getattr(value, "_fields", range(len(value)))
        for name, each in zip(names, value, strict=True):
            yield from _parameters(f"{path}.{name}", each, ancestors)
    elif isinstance(value, functools.partial):
        for name, each in (("function", value.func), ("args", value.args), ("keywords", value.keywords)):
            yield from _parameters(f"{path}.{name}", each, ancestors)
    elif isinstance(value, types.MethodType | types.ModuleType):
        yield path, getattr(value, "__qualname__", value.__name__)
    elif isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
        yield path, value.__qualname__
        function = getattr(value, "__wrapped__", value)
        cells = getattr(function, "__closure__", None) or ()
        for name, cell in zip(getattr(getattr(function, "__code__", None), "co_freevars", ()), cells, strict=False):
            if cell != types.CellType():  # an empty cell
                yield from _parameters(f"{path}.{name}", cell.cell_contents, ancestors)
    else:
        yield path, _name(type(value))
        for name, each in _attributes(value):
            yield from _parameters(f"{path}.{name}", each, ancestors)


def _attributes(value: Any) -> list[tuple[str, Any]]:
    """By name, in order; without cached properties."""
    kind = type(value)
    slots = [name for owner in kind.__mro__ for name in _as_tuple(owner.__dict__.get("__slots__", ()))]
    held = {name: getattr(value, name) for name in slots if hasattr(value, name)} | getattr(value, "__dict__", {})
    cached = functools.cached_property
    return sorted((name, each) for name, each in held.items() if not isinstance(getattr(kind, name, None), cached))


def _as_tuple(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _number(value: Any) -> Any:
    if isinstance(value, jax.core.Tracer):
        return f"traced {value.aval}"
    if isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    if isinstance(value, jax.Array) and not value.is_fully_addressable:
        return f"{value.dtype}{list(value.shape)} of several processes"
    if isinstance(value, int):
        return value
    array = np.asarray(value)
    if array.dtype.kind in "SUV" or array.size > _MAX_ELEMENTS:
        return f"{array.dtype}{list(array.shape)} {_digest(np.ascontiguousarray(array).tobytes())}"
    plain = array.astype(complex if array.dtype.kind == "c" else array.dtype if array.dtype.kind in "biu" else float)
    whole = json.dumps(plain.tolist()) if plain.dtype.kind != "c" and np.isfinite(plain).all() else None
    return str(plain.tolist()) if whole is None else json.loads(whole)


def _space(space: Any) -> str:
    """A space in words, each bound included."""
    if isinstance(space, spaces.Dict):
        return f"Dict({', '.join(f'{name}: {_space(child)}' for name, child in sorted(space.spaces.items()))})"
    if isinstance(space, spaces.Tuple):
        return f"Tuple({', '.join(map(_space, space.spaces))})"
    if isinstance(space, spaces.Box):
        low, high = (
            each.flat[0] if each.size and (each == each.flat[0]).all() else each for each in (space.low, space.high)
        )
        return f"Box({_number(low)}, {_number(high)}, {space.shape}, {space.dtype})"
    if isinstance(space, spaces.MultiDiscrete):
        return f"MultiDiscrete({_number(space.nvec)}, start={_number(space.start)})"
    return _without_address(space)


def _without_address(value: Any) -> str:
    return re.sub(r"( at|:)? ?0x[0-9a-fA-F]+", "", value if isinstance(value, str) else repr(value))


def _name(kind: type) -> str:
    """With its module's last name: a script that is run and the same one imported agree."""
    module = kind.__module__
    if module == "__main__":
        main = sys.modules["__main__"]
        spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
        module = (
            spec.name if spec is not None else re.sub(r"\.\w+$", "", re.split(r"[/\\]", file)[-1]) if file else module
        )
    return f"{module.rpartition('.')[2]}.{kind.__qualname__}"


def _digest(content: bytes) -> str:
    return f"sha256 {hashlib.sha256(content).hexdigest()[:16]}"
