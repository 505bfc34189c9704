"""The command line: ``jtrpo train ENV`` and ``jtrpo envs``."""

import dataclasses
import inspect
import json
import os
import platform
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import jax
import tyro

from jtrpo.core.check import check_count
from jtrpo.envs.gymnax import environment_ids
from jtrpo.tools.plot import save_learning_curve
from jtrpo.tools.progress import Progress
from jtrpo.tools.run import EVALUATION_EPISODES, run_training
from jtrpo.training.config import Hyperparams, TrainConfig
from jtrpo.training.tuned import TUNED


@dataclasses.dataclass(frozen=True)
class Train:
    """Train a policy by TRPO, evaluate it over 128 episodes, and sum the run up."""

    env: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ENV")]
    """Environment id, such as CartPole-v1; `jtrpo envs` lists them. Settings that are not given are those that ship for it."""
    seed: int = 0
    """Seed of the random key."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """End with the summary as one line of JSON."""
    plot: Path | None = None
    """Write the learning curve to this file (.png, .svg or .pdf)."""


@dataclasses.dataclass(frozen=True)
class Envs:
    """List the ids of the environments that can be trained on."""


def main(argv: list[str] | None = None) -> None:
    """Run the command line; exits with 2 and a message where the input is wrong."""
    command = _parse(argv, {})
    if (
        isinstance(command, Train) and command.env in TUNED
    ):  # again, with what ships for the environment as the defaults
        config, numbers = TUNED[command.env]
        command = _parse(argv, {**config, **numbers})
    _keep_compiled_programs()
    try:
        _train(command) if isinstance(command, Train) else _envs()
    except (TypeError, ValueError) as error:
        sys.exit(_complain(error))


def _parse(argv: list[str] | None, defaults: dict[str, Any]) -> Any:
    return tyro.cli(
        _with_settings(Train, defaults) | Envs,  # type: ignore[arg-type]
        args=argv,
        prog="jtrpo",
        description="Trust Region Policy Optimization in JAX.",
        config=(tyro.conf.OmitSubcommandPrefixes,),
    )


def _keep_compiled_programs() -> None:
    """Let the next process find what this one compiles, unless the user has chosen a place or switched it off."""
    if jax.config.values["jax_compilation_cache_dir"] is None:
        # One folder per machine: programs for one processor may not run on another that shares the home directory.
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jtrpo" / platform.node()
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def _complain(error: Exception) -> int:
    print(f"jtrpo: {error}", file=sys.stderr)
    return 2


def _envs() -> None:
    print("\n".join(environment_ids()))


def _train(command: Any) -> None:
    check_count("seed", command.seed, at_least=0)
    config = TrainConfig(env=command.env, **_settings(command, _CONFIG_FIELDS))
    hyperparams = Hyperparams(**_settings(command, _HYPERPARAM_FIELDS)).check()
    if command.plot is not None and not command.plot.absolute().parent.is_dir():
        raise ValueError(f"plot={str(command.plot)!r} lies in a folder that does not exist; make it first")
    with Progress(config, command.seed) as progress:
        run = run_training(config, command.seed, hyperparams, progress.update)
    if command.plot is not None:
        save_learning_curve(run.metrics, command.plot, f"{command.env}, seed {command.seed}")
    print(json.dumps(run.summary) if command.json else _sentence(run.summary))


def _sentence(summary: dict[str, Any]) -> str:
    return (
        f"{summary['env']}: return {summary['evaluation_return']:.1f} +- {summary['evaluation_std']:.1f} over "
        f"{EVALUATION_EPISODES} episodes after {summary['total_timesteps']:,} steps\n"
        f"{summary['steps_per_second']:,.0f} steps/s in {summary['run_seconds']:.1f} s, "
        f"compiled in {summary['compile_seconds']:.1f} s; {summary['accepted_fraction']:.0%} of the updates accepted, "
        f"largest KL {summary['max_kl_seen']:.4f}"
    )


# The settings become options by their own definitions: a new field is a new option, its help the class's docstring.
_CONFIG_FIELDS = [
    (field.name, field.type, field.default)
    for field in dataclasses.fields(TrainConfig)
    if field.name != "env" and field.metadata.get("cli", True)
]
_HYPERPARAM_FIELDS = [(name, float, default) for name, default in Hyperparams._field_defaults.items()]


def _with_settings(command: type, defaults: dict[str, Any]) -> type:
    fields: list[Any] = []
    for owner, settings in ((TrainConfig, _CONFIG_FIELDS), (Hyperparams, _HYPERPARAM_FIELDS)):
        texts = _attribute_texts(owner)
        fields += [
            (name, Annotated[kind, tyro.conf.arg(help=texts[name])], defaults.get(name, default))
            for name, kind, default in settings
        ]
    extended = dataclasses.make_dataclass(command.__name__, fields, bases=(command,), frozen=True)
    extended.__doc__ = command.__doc__
    return extended


def _settings(command: Any, fields: list[tuple]) -> dict[str, Any]:
    return {name: getattr(command, name) for name, *_ in fields}


def _attribute_texts(owner: type) -> dict[str, str]:
    section = inspect.cleandoc(owner.__doc__ or "").split("Attributes:")[1].split("\n\n")[0]
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", section, re.MULTILINE)
    return {name: re.sub(r"\s+", " ", text).replace("`", "") for name, text in entries}
