"""``jtrpo envs``: what can be trained on."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Annotated

import gymnasium
import tyro

from jtrpo.envs.atari import games
from jtrpo.envs.gymnax import environment_ids
from jtrpo.envs.velocity import TASKS
from jtrpo.tools.console import say


@dataclass(frozen=True)
class Envs:
    """List the ids of the environments that can be trained on: gymnax's, and with a word those of every suite with that word."""

    word: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="[WORD]")] = ""
    """Part of an id, such as hopper or brax:."""

    def run(self) -> None:
        """Print the ids, one a line; on standard error, without a word, what other suites have.

        Raises:
            ValueError: a word that is in no id.
        """
        listed = {suite: _ids(suite) for suite in SUITES}
        every = [*environment_ids(), *(f"{suite}:{name}" for suite, names in listed.items() for name in names)]
        if found := [name for name in every if self.word.lower() in name.lower() and (self.word or ":" not in name)]:
            print("\n".join(found), flush=True)
        else:
            raise ValueError(f"no id has {self.word!r} in it; `jtrpo envs` without a word lists those of gymnax")
        for suite, names in listed.items() if not self.word else ():
            there = f"{len(names):,} more, listed by `jtrpo envs {suite}:`" if names else "none here"
            say(f"{suite}: {there} ({SUITES[suite][1]})")


def _ids(suite: str) -> list[str]:
    package, _, ids = SUITES[suite]
    try:
        return ids() if find_spec(package) else []
    except Exception as error:  # whatever its import raises, the others are there
        say(f"{suite}: cannot be imported: {error}")
        return []


def _of_gymnasium() -> list[str]:
    """What is registered and whose package is there; without the ids that only say what to use instead."""
    needs = {"gymnasium.envs.mujoco": "mujoco", "gymnasium.envs.box2d": "Box2D"}
    known = []
    for name, spec in gymnasium.registry.items():
        module = spec.entry_point if isinstance(spec.entry_point, str) else ""
        package = next((package for start, package in needs.items() if module.startswith(start)), "gymnasium")
        if module and find_spec(package) is not None:
            known.append(name)
    return known + [task for task in TASKS if task.removeprefix("Safety").replace("Velocity-v1", "-v4") in known]


def _of_brax() -> list[str]:
    from brax import envs

    return list(envs._envs)


def _of_craftax() -> list[str]:
    from jtrpo.envs.craftax import IDS

    return list(IDS)


def _of_envpool() -> list[str]:
    import envpool

    return [*envpool.list_all_envs(), *TASKS]


def _of_jumanji() -> list[str]:
    import jumanji

    return sorted(jumanji.registered_environments())


def _of_playground() -> list[str]:
    from mujoco_playground import registry

    return list(registry.ALL_ENVS)


def _of_xminigrid() -> list[str]:
    import xminigrid

    return list(xminigrid.registered_environments())


SUITES: dict[str, tuple[str, str, Callable[[], list[str]]]] = {
    "gymnasium": ("gymnasium", "MuJoCo's are in the extra mujoco", _of_gymnasium),
    "brax": ("brax", "the extra brax", _of_brax),
    "playground": ("mujoco_playground", "the extra playground", _of_playground),
    "craftax": ("craftax", "the extra craftax", _of_craftax),
    "jumanji": ("jumanji", "the extra jumanji", _of_jumanji),
    "xminigrid": ("xminigrid", "the extra xminigrid", _of_xminigrid),
    "envpool": ("envpool", "the extra envpool", _of_envpool),
    "atari": ("ale_py", "the extra atari", lambda: sorted(games())),
}
"""The package that a suite needs, the extra that brings it, and what it has."""
