"""The settings of a run as JSON, by name: written, compared, and made into a configuration again."""

import dataclasses
import json
import sys
from typing import Any

import jax

from jtrpo.envs.gymnasium import PREFIX
from jtrpo.tools.fingerprint import environment_name, fingerprint
from jtrpo.training.config import TrainConfig
from jtrpo.training.hyperparams import Hyperparams


def describe(config: TrainConfig, hyperparams: Hyperparams | None = None, seed: int | None = None) -> dict[str, Any]:
    """Settings as JSON, by name: functions by the numbers they schedule, an environment by its fingerprint."""
    settings = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    del settings["mesh"]  # a run may go on on other devices
    settings["env"] = environment_name(config)
    settings["schedules"] = sorted(config.schedules)
    if hyperparams is not None:
        settings |= {name: float(value) for name, value in hyperparams._asdict().items()}
    if seed is not None:
        settings["seed"] = int(seed)
    return json.loads(json.dumps(settings | fingerprint(config)))


def differences(there: dict[str, Any], here: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Settings that are in both and differ, by name: the values there and here."""
    return {name: (there[name], here[name]) for name in here if name in there and there[name] != here[name]}


def versions() -> dict[str, str]:
    """What the bits of a run depend on besides its settings."""
    device = jax.devices()[0]
    version = sys.modules["jtrpo"].__version__  # tools may not import jtrpo itself
    return {"jtrpo": version, "jax": jax.__version__, "device": f"{device.platform}: {device.device_kind}"}


def listed(different: dict[str, tuple[Any, Any]]) -> str:
    """What :func:`differences` found, in words."""
    return "; ".join(f"{name} is {old!r} there and {new!r} here" for name, (old, new) in different.items())


def config_of(settings: dict[str, Any], env: Any) -> TrainConfig:
    """The configuration of a run from settings that were read from a file: they import nothing and call nothing by name.

    Raises:
        ValueError: settings that cannot be used, or an environment that is not known or has other spaces.
    """
    names = {field.name for field in dataclasses.fields(TrainConfig)} - {"schedules", "mesh"}
    wanted = {name: value for name, value in settings.items() if name in names}
    if env is not None:
        wanted["env"] = env
    name = wanted.get("env")
    if env is None and (not isinstance(name, str) or ":" in name.removeprefix(PREFIX).removeprefix("brax:")):
        raise ValueError(
            f"the checkpoint names the environment {name!r}, which would import a module; if you trust it, give env={name!r} "
            "(`--env` on the command line)"
        )
    try:
        config = TrainConfig(**wanted)
        actual = fingerprint(config)
    except (TypeError, ValueError) as error:
        what = (
            "environment cannot be made by its name; give env=..."
            if "env=" in str(error)
            else "settings cannot be used"
        )
        raise ValueError(f"the run's {what} ({error})") from error
    spaces = {name: actual[name] for name in ("env.observation_space", "env.action_space")}
    if different := differences(settings, spaces):
        raise ValueError(
            f"env is not an environment for the run's policy: {listed(different)}; give one with the same spaces"
        )
    return config
