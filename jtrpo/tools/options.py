"""From what was typed to a command: its own options, and for ``train`` every setting of a training besides."""

import dataclasses
import inspect
import re
from functools import reduce
from operator import or_
from typing import Annotated, Any, Protocol

import tyro

from jtrpo.tools.commands import COMMANDS, Train
from jtrpo.training.config import TrainConfig
from jtrpo.training.hyperparams import Hyperparams
from jtrpo.training.tuned import shipped


class Command(Protocol):
    """A command with its options."""

    def run(self) -> None:
        """Do it."""


def parse(argv: list[str]) -> Command:
    """A command with its options; exits with 2 and a message where they are wrong.

    The defaults of ``train`` are the settings that ship for the environment; ``given`` holds those that the user gave.
    """
    by_default = _parse(argv, {})
    if not isinstance(by_default, Train):
        return by_default
    config, numbers = shipped(by_default.env)
    settings: dict[str, Any] = {**config, **numbers}
    command = _parse(argv, settings) if settings else by_default
    values, with_shipped = _settings(by_default), _settings(command)
    given = {
        name: values[name]
        for name, _, default in (*CONFIG_FIELDS, *HYPERPARAM_FIELDS)
        # What is not the default in one of the two cases was given.
        if values[name] != default or with_shipped[name] != settings.get(name, default)
    }
    return dataclasses.replace(command, given=given, argv=tuple(argv))


def _parse(argv: list[str], defaults: dict[str, Any]) -> Any:
    commands: Any = [_with_settings(Train, defaults) if command is Train else command for command in COMMANDS]
    return tyro.cli(
        reduce(or_, commands),
        args=argv,
        prog="jtrpo",
        description="Trust Region Policy Optimization in JAX.",
        config=(tyro.conf.OmitSubcommandPrefixes, tyro.conf.OmitArgPrefixes),
    )


# The settings become options by their own definitions: a new field is a new option, its help and heading from the docstring.
CONFIG_FIELDS = [
    (field.name, field.type, field.default)
    for field in dataclasses.fields(TrainConfig)
    if field.name != "env" and field.metadata.get("cli", True)
]
HYPERPARAM_FIELDS = [(name, float, default) for name, default in Hyperparams._field_defaults.items()]


@dataclasses.dataclass(frozen=True)
class _Settings:
    """The settings under one heading."""


def _with_settings(command: type, defaults: dict[str, Any]) -> type:
    """The command with a :class:`_Settings` for each heading, which ``--help`` shows as a box of its own."""
    headings: dict[str, list[Any]] = {}
    for owner, settings in ((TrainConfig, CONFIG_FIELDS), (Hyperparams, HYPERPARAM_FIELDS)):
        attributes = documented_attributes(owner)
        for name, kind, default in settings:
            heading, text = attributes.get(name, ("Setting", None))
            option = (name, Annotated[kind, tyro.conf.arg(help=text)], defaults.get(name, default))
            headings.setdefault(heading, []).append(option)
    fields: list[Any] = []
    for heading, options in headings.items():
        title = heading[0].lower() + heading[1:]  # tyro adds "options"
        group = dataclasses.make_dataclass("Settings", options, bases=(_Settings,), frozen=True)
        default = dataclasses.field(default_factory=group)
        fields.append((title.replace(" ", "_"), Annotated[group, tyro.conf.arg(name=title, help="")], default))
    extended = dataclasses.make_dataclass(command.__name__, fields, bases=(command,), frozen=True)
    extended.__doc__ = command.__doc__
    return extended


def _settings(command: Train) -> dict[str, Any]:
    """The settings that were parsed, by name."""
    groups = [value for value in vars(command).values() if isinstance(value, _Settings)]
    return {name: value for group in groups for name, value in vars(group).items()}


def documented_attributes(owner: type) -> dict[str, tuple[str, str]]:
    """Heading and description of each attribute, from the docstring's sections ``Attributes: heading``; none with ``-OO``."""
    found: dict[str, tuple[str, str]] = {}
    sections = re.findall(r"^Attributes: (.+)\n((?: {4}.*\n?)+)", inspect.cleandoc(owner.__doc__ or ""), re.MULTILINE)
    for heading, section in sections:
        for name, text in re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", section, re.MULTILINE):
            plain = re.sub(r"(?::\w+:)?`+([^`]*)`+", r"\1", text)  # without roles and marks of code
            found[name] = heading, re.sub(r"\s+", " ", plain)
    return found
