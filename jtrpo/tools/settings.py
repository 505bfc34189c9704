"""The settings of a run as JSON, by name: written, compared, and made into a configuration again."""

import dataclasses
import json
import sys
from typing import Any

import jax

from jtrpo.envs.resolve import SUITES
from jtrpo.networks.network import Network
from jtrpo.tools.fingerprint import environment_name, fingerprint
from jtrpo.training.config import TrainConfig
from jtrpo.training.hyperparams import Hyperparams

FUNCTIONS = ("policy_network", "critic_network", "advantage_estimator", "objective", "on_batch")
"""Settings that are functions of the user's own: recognised by their names."""


def describe(config: TrainConfig, hyperparams: Hyperparams | None = None, seed: int | None = None) -> dict[str, Any]:
    """Settings as JSON, by name: functions by the numbers they schedule, an environment by its fingerprint."""
    settings = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    del settings["mesh"]  # a run may be resumed on other devices
    settings["env"] = environment_name(config)
    settings["schedules"] = sorted(config.schedules)
    settings |= {name: _function_name(settings[name]) for name in FUNCTIONS}
    if hyperparams is not None:
        settings |= {name: float(value) for name, value in hyperparams._asdict().items()}
    if seed is not None:
        settings["seed"] = int(seed)
    return json.loads(json.dumps(settings | fingerprint(config)))


def differences(there: dict[str, Any], here: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Settings that differ, by name: the values there and here."""
    there = with_defaults(there)
    return {name: (there[name], here[name]) for name in here if name in there and there[name] != here[name]}


def with_defaults(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as :func:`describe` gave them, and those that did not exist then, by default."""
    fields = {field.name: field.default for field in dataclasses.fields(TrainConfig) if field.name != "mesh"}
    defaults = {name: value for name, value in fields.items() if value is not dataclasses.MISSING}
    defaults |= {name: _function_name(defaults[name]) for name in FUNCTIONS}
    return json.loads(json.dumps(defaults)) | settings


def versions() -> dict[str, str]:
    """What the bits of a run depend on besides its settings."""
    device = jax.devices()[0]
    version = sys.modules["jtrpo"].__version__  # tools may not import jtrpo itself
    return {"jtrpo": version, "jax": jax.__version__, "device": f"{device.platform}: {device.device_kind}"}


def listed(different: dict[str, tuple[Any, Any]]) -> str:
    """What :func:`differences` found, in words."""
    return "; ".join(f"{name} is {old!r} there and {new!r} here" for name, (old, new) in different.items())


def config_of(settings: dict[str, Any], env: Any, networks: dict[str, Network | None]) -> TrainConfig:
    """The configuration of a run from settings that were read from a file: they import nothing and call nothing by name.

    Raises:
        ValueError: settings that cannot be used, an environment that is unknown or has other spaces, or a missing network.
    """
    names = {field.name for field in dataclasses.fields(TrainConfig)} - {"schedules", "mesh", *FUNCTIONS}
    wanted = {name: value for name, value in settings.items() if name in names} | networks
    missing = [f"{name}={settings[name]!r}" for name, given in networks.items() if given is None and settings.get(name)]
    if missing:
        raise ValueError(
            f"the run had networks of your own, {' and '.join(missing)}; give the same jtrpo.Network again"
        )
    if env is not None:
        wanted["env"] = env
    name = wanted.get("env")
    # All before the last colon must be one of ours: Gymnasium imports what stands there.
    if env is None and (not isinstance(name, str) or f"{name.rpartition(':')[0]}:" not in {":", *SUITES}):
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


def _function_name(function: Any) -> str | None:
    if isinstance(function, Network):
        function = function.apply
    return None if function is None else getattr(function, "__qualname__", type(function).__qualname__)
