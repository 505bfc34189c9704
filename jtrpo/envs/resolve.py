"""From what a user wrote as ``env`` to an environment."""

import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium
from gymnasium.vector import VectorEnv

from jtrpo.envs import brax, envpool
from jtrpo.envs import gymnasium as host
from jtrpo.envs.gymnax import GymnaxEnvironment, make_gymnax
from jtrpo.envs.protocol import Environment


def resolve(env: Any) -> Environment | host.HostEnvironment:
    """Return an environment for an id, a gymnax environment, or an :class:`Environment`.

    A gymnax environment may come in a pair with its parameters, or with a function that draws them for each episode.
    Vector environments of Gymnasium, and ids that begin with ``gymnasium:`` or ``envpool:``, are for the host trainer.

    Raises:
        TypeError: none of these.
        ValueError: an unknown id.
    """
    for one in env if isinstance(env, tuple) else (env,):
        if isinstance(one, type):
            raise TypeError(
                f"env must be an environment, not a class; got {one.__name__}: make one, {one.__name__}(...)"
            )
    if isinstance(env, str):
        if env.startswith(host.PREFIX):
            return host.from_id(env)
        if env.startswith(envpool.PREFIX):
            return host.HostEnvironment(**envpool.look_up(env))
        return brax.make_brax(env) if env.startswith(brax.PREFIX) else make_gymnax(env)
    if isinstance(env, VectorEnv):
        return host.from_vector(env)
    if isinstance(env, tuple) and len(env) == 2 and all(isinstance(part, VectorEnv) for part in env):
        return host.from_vector(*env)
    if isinstance(env, gymnasium.Env):
        raise TypeError(
            f"env={env!r} is one environment of Gymnasium; give a vector of them: "
            "gymnasium.vector.SyncVectorEnv([make, ...]), with a function that makes one for each of num_envs"
        )
    if isinstance(env, tuple) and len(env) == 2 and hasattr(env[0], "default_params"):
        return GymnaxEnvironment(*env)
    if hasattr(env, "default_params"):
        return GymnaxEnvironment(env)
    if isinstance(env, Environment):
        return env
    raise TypeError(
        "env must be an id such as 'CartPole-v1', a gymnax environment, a pair (gymnax environment, its parameters or a "
        "function that draws them), a gymnasium.vector.VectorEnv, or an object with observation_space, action_space, reset and "
        "step (jtrpo.Environment); "
        f"got {env!r}"
    )


def can_wait(env: Any) -> bool:
    """Whether ``env`` is an id that gymnax brings along, and gymnax, whose import starts JAX, is not there yet."""
    if not isinstance(env, str) or "gymnax" in sys.modules:
        return False
    package = find_spec("gymnax")
    registry = None if package is None or package.origin is None else Path(package.origin).with_name("registration.py")
    return (
        registry is not None
        and registry.is_file()
        and re.search(rf'"{re.escape(env)}"', registry.read_text()) is not None
    )
