"""From what a user wrote as ``env`` to an environment."""

import re
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium
from gymnasium.vector import VectorEnv

from jtrpo.envs import atari, brax, craftax, envpool, jumanji, playground, xminigrid
from jtrpo.envs import gymnasium as host
from jtrpo.envs.gymnax import GymnaxEnvironment, make_gymnax
from jtrpo.envs.protocol import Environment
from jtrpo.envs.resetting import comes_from

SUITES: dict[str, Callable[[str], Environment | host.HostEnvironment]] = {
    atari.PREFIX: lambda env_id: host.HostEnvironment(**atari.look_up(env_id)),
    brax.PREFIX: brax.make_brax,
    craftax.PREFIX: craftax.make_craftax,
    envpool.PREFIX: lambda env_id: host.HostEnvironment(**envpool.look_up(env_id)),
    host.PREFIX: host.from_id,
    jumanji.PREFIX: jumanji.make_jumanji,
    playground.PREFIX: playground.make_playground,
    xminigrid.PREFIX: xminigrid.make_xminigrid,
}
"""What makes an environment of an id, by the id's beginning; gymnax's ids have none."""

ADAPTERS: dict[str, Callable[..., Environment]] = {
    "brax": brax.BraxEnvironment,
    "craftax": craftax.CraftaxEnvironment,
    "jumanji": jumanji.JumanjiEnvironment,
    "mujoco_playground": playground.adapt,
    "xminigrid": xminigrid.XMiniGridEnvironment,
}
"""What adapts an environment that is there already, by its package."""

WITH_PARAMETERS = ("craftax", "xminigrid")
"""Those whose environment may come in a pair with its parameters."""


def resolve(env: Any) -> Environment | host.HostEnvironment:
    """Return an environment for an id, an environment of gymnax or another suite, or an :class:`Environment`.

    An environment of gymnax, Craftax or XLand-MiniGrid may come in a pair with its parameters; of gymnax and XLand-MiniGrid with
    a function that draws them for each episode. Vector environments of Gymnasium, and ids that begin with ``gymnasium:``,
    ``envpool:`` or ``atari:``, are for the host trainer.

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
        suite, colon, _ = env.partition(":")
        if colon and suite + colon not in SUITES:
            raise ValueError(f"env={env!r} is of no suite that jtrpo knows; there are {', '.join(SUITES)}")
        return SUITES.get(suite + colon, make_gymnax)(env)
    if isinstance(env, VectorEnv):
        return host.from_vector(env)
    if isinstance(env, tuple) and len(env) == 2 and all(isinstance(part, VectorEnv) for part in env):
        return host.from_vector(*env)
    if isinstance(env, gymnasium.Env):
        raise TypeError(
            f"env={env!r} is one environment of Gymnasium; give a vector of them: "
            "gymnasium.vector.SyncVectorEnv([make, ...]), with a function that makes one for each of num_envs"
        )
    for package, adapter in ADAPTERS.items():
        parts = env if isinstance(env, tuple) and len(env) == 2 else (env,)
        if comes_from(parts[0], package):
            if package not in WITH_PARAMETERS and len(parts) > 1:
                raise TypeError(
                    f"env: an environment of {package} has no parameters; give it alone, not with {parts[1]!r}"
                )
            return adapter(*parts)
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
