"""What the command line takes: a class for each command, whose fields are its options."""

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Annotated, Any

import tyro

from jtrpo.training.config import TrainConfig
from jtrpo.training.hyperparams import Hyperparams
from jtrpo.training.tuned import TUNED


@dataclasses.dataclass(frozen=True)
class Train:
    """Train a policy by TRPO, evaluate it over 128 episodes, and sum the run up."""

    env: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ENV")]
    """Environment id, such as CartPole-v1; `jtrpo envs` lists them. Settings that are not given are those that ship for it.
    gymnasium:ID trains on an environment of Gymnasium."""
    seed: int = 0
    """Seed of the random key, below 2**32."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """End with the summary as one line of JSON."""
    plot: Path | None = None
    """Write the learning curve to this file (.png, .svg or .pdf)."""
    checkpoint_dir: Path | None = None
    """Save the run in this folder: checkpoints, config.json, metrics.csv, and at the end summary.json and curve.png."""
    checkpoint_every: int = 10
    """Updates between two checkpoints."""
    evaluate_every: int = 0
    """Updates between two evaluations, each saved as a checkpoint with its score; 0: only at the end."""
    keep: int = 3
    """Newest checkpoints to keep, besides the best by evaluation."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Go on from the newest whole checkpoint of the folder, or begin where there is none yet."""
    tensorboard: Path | None = None
    """Log to TensorBoard in this folder (extra tensorboard)."""
    wandb: str | None = None
    """Log to this project of Weights & Biases (extra wandb); WANDB_MODE=offline keeps it on this machine."""
    devices: int = 1
    """Devices of this machine to divide the environments among; 0: all there are."""
    distributed: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """One of several processes that train together on all their devices; the same command in each. Without the three options
    that follow, as the cluster has it (SLURM, Kubernetes, MPI or TPU)."""
    coordinator: str | None = None
    """Address and port of process 0 for --distributed, such as 10.0.0.1:1234."""
    num_processes: int | None = None
    """How many processes there are."""
    process_id: int | None = None
    """Which one this is, from 0. Process 0 reports and draws; checkpoints need a folder that all share."""
    quiet: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Show no progress; warnings and the summary stay."""
    debug_nans: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Stop at the first number that is not finite, and name its step and array."""
    given: tyro.conf.Suppress[dict[str, Any]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Score the best checkpoint of a run by evaluation, or its newest where none was evaluated."""

    directory: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """Folder that was given as --checkpoint-dir."""
    env: str | None = None
    """Environment id, where the folder's is one that imports a module."""
    episodes: int = 128
    """Episodes to play, with the most likely actions and again with sampled ones."""
    seed: int = 0
    """Seed of the random key, below 2**32."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """End with the result as one line of JSON."""


@dataclasses.dataclass(frozen=True)
class Watch:
    """Play one episode with the policy of a saved run, and write it as an animated picture."""

    directory: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """Folder that was given as --checkpoint-dir."""
    env: str | None = None
    """Environment id, where the folder's is one that imports a module."""
    out: Path = Path("policy.gif")
    """Picture to write (.gif, .webp or .png)."""
    sample: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Draw actions from the policy, instead of its most likely ones."""
    seed: int = 0
    """Seed of the random key, below 2**32."""


@dataclasses.dataclass(frozen=True)
class Plot:
    """Draw the curves of saved runs; runs that differ in nothing but their seed are one curve with a band."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DIR...")]
    """Folders that were given as --checkpoint-dir."""
    metric: str = "episode.return_mean"
    """A column of their metrics.csv, such as policy.kl."""
    out: Path = Path("runs.png")
    """Picture to write (.png, .svg or .pdf)."""


@dataclasses.dataclass(frozen=True)
class Report:
    """Write a page about saved runs: settings, curves and evaluation, in one HTML file."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DIR...")]
    """Folders that were given as --checkpoint-dir."""
    out: Path = Path("report.html")
    """Page to write."""


@dataclasses.dataclass(frozen=True)
class Envs:
    """List the ids of the environments that can be trained on."""


def parse(argv: list[str] | None) -> Any:
    """A command with its options; exits with 2 and a message where they are wrong.

    Of ``train``, with what ships for the environment as the defaults; ``given`` holds the settings that the user gave.
    """
    plain = _parse(argv, {})
    if not isinstance(plain, Train):
        return plain
    config, numbers = TUNED.get(plain.env, ({}, {}))
    shipped: dict[str, Any] = {**config, **numbers}
    command = _parse(argv, shipped) if shipped else plain
    defaults = {name: default for name, _, default in (*CONFIG_FIELDS, *HYPERPARAM_FIELDS)}
    given = {}
    for name, default in defaults.items():
        one, other = getattr(plain, name), getattr(command, name)
        if one != default or other != shipped.get(name, default):  # each default would have shown in one of them
            given[name] = one
    return dataclasses.replace(command, given=given)


def _parse(argv: list[str] | None, defaults: dict[str, Any]) -> Any:
    return tyro.cli(
        _with_settings(Train, defaults) | Evaluate | Watch | Plot | Report | Envs,  # type: ignore[arg-type]
        args=argv,
        prog="jtrpo",
        description="Trust Region Policy Optimization in JAX.",
        config=(tyro.conf.OmitSubcommandPrefixes,),
    )


# The settings become options by their own definitions: a new field is a new option, its help the class's docstring.
CONFIG_FIELDS = [
    (field.name, field.type, field.default)
    for field in dataclasses.fields(TrainConfig)
    if field.name != "env" and field.metadata.get("cli", True)
]
HYPERPARAM_FIELDS = [(name, float, default) for name, default in Hyperparams._field_defaults.items()]


def _with_settings(command: type, defaults: dict[str, Any]) -> type:
    fields: list[Any] = []
    for owner, settings in ((TrainConfig, CONFIG_FIELDS), (Hyperparams, HYPERPARAM_FIELDS)):
        texts = _attribute_texts(owner)
        fields += [
            (name, Annotated[kind, tyro.conf.arg(help=texts.get(name))], defaults.get(name, default))
            for name, kind, default in settings
        ]
    extended = dataclasses.make_dataclass(command.__name__, fields, bases=(command,), frozen=True)
    extended.__doc__ = command.__doc__
    return extended


def _attribute_texts(owner: type) -> dict[str, str]:
    _, _, attributes = inspect.cleandoc(owner.__doc__ or "").partition("Attributes:")  # none with python -OO
    section = attributes.split("\n\n")[0]
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", section, re.MULTILINE)
    return {name: re.sub(r"\s+", " ", text).replace("`", "") for name, text in entries}
