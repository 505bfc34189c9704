"""Adapter for MuJoCo Playground (``pip install "jtrpo[playground]"``)."""

import subprocess
from typing import Any

import jax

from jtrpo.envs.brax import BraxEnvironment
from jtrpo.envs.resetting import check_known, missing

PREFIX = "playground:"


def make_playground(env_id: str) -> BraxEnvironment:
    """Make an environment by its id, such as ``playground:CartpoleBalance``, with the time limit of its own settings.

    On a CPU it is stepped by MJX in JAX, elsewhere by what it says itself.

    Raises:
        ValueError: MuJoCo Playground is not installed, an unknown id, or models that cannot be loaded from outside.
    """
    try:
        from mujoco_playground import registry
    except ImportError as error:
        raise missing(env_id, "MuJoCo Playground", "playground", error) from error
    name = env_id.removeprefix(PREFIX)
    check_known(env_id, name, registry.ALL_ENVS, "MuJoCo Playground")
    settings = registry.get_default_config(name)
    on_cpu: dict[str, Any] = {"impl": "jax"} if jax.default_backend() == "cpu" and "impl" in settings else {}
    try:
        env = registry.load(name, config_overrides=on_cpu)
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:  # robots' models are downloaded at first use
        raise ValueError(f"env={env_id!r} loads models from outside, which failed ({error})") from error
    return adapt(env)


def adapt(env: Any) -> BraxEnvironment:
    """An environment of MuJoCo Playground with the time limit and the repeats of actions of its own settings."""
    settings = env.unwrapped._config
    return BraxEnvironment(env, int(settings.episode_length), int(settings.get("action_repeat", 1)))
