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
from jtrpo.training.tuned import TUNED


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
    config, numbers = TUNED.get(by_default.env, ({}, {}))
    shipped: dict[str, Any] = {**config, **numbers}
    command = _parse(argv, shipped) if shipped else by_default
    defaults = {name: default for name, _, default in (*CONFIG_FIELDS, *HYPERPARAM_FIELDS)}
    given = {}
    for name, default in defaults.items():
        value, other = getattr(by_default, name), getattr(command, name)
        if value != default or other != shipped.get(name, default):  # given, since one of the two is not its default
            given[name] = value
    return dataclasses.replace(command, given=given, argv=tuple(argv))


def _parse(argv: list[str], defaults: dict[str, Any]) -> Any:
    commands: Any = [_with_settings(Train, defaults) if command is Train else command for command in COMMANDS]
    return tyro.cli(
        reduce(or_, commands),
        args=argv,
        prog="jtrpo",
        description="Trust Region Policy Optimization in JAX.",
        config=(tyro.conf.OmitSubcommandPrefixes,),
    )


# The settings become options by their own definitions: a new field is a new option, its help from the class's docstring.
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
