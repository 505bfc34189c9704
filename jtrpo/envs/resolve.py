"""From what a user wrote as ``env`` to an environment."""

from typing import Any

from jtrpo.envs.brax import PREFIX, make_brax
from jtrpo.envs.gymnax import GymnaxEnvironment, make_gymnax
from jtrpo.envs.protocol import Environment


def resolve(env: Any) -> Environment:
    """Return an environment for an id, a gymnax environment with or without its parameters, or an :class:`Environment`.

    Raises:
        TypeError: none of these.
        ValueError: an unknown id.
    """
    if isinstance(env, str):
        return make_brax(env) if env.startswith(PREFIX) else make_gymnax(env)
    if isinstance(env, tuple) and len(env) == 2 and hasattr(env[0], "default_params"):
        return GymnaxEnvironment(*env)
    if hasattr(env, "default_params"):
        return GymnaxEnvironment(env)
    if isinstance(env, Environment):
        return env
    raise TypeError(
        "env must be an id such as 'CartPole-v1', a gymnax environment, a pair (gymnax environment, its parameters), or an "
        f"object with observation_space, action_space, reset and step (jtrpo.Environment); got {env!r}"
    )
