"""``jtrpo envs``: what can be trained on."""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Annotated

import gymnasium
import tyro

from jtrpo.envs.gymnax import environment_ids
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
        suites = {"gymnasium": _of_gymnasium(), "brax": _of_brax(), "envpool": _of_envpool()}
        every = [*environment_ids(), *(f"{suite}:{name}" for suite, names in suites.items() for name in names)]
        if found := [name for name in every if self.word.lower() in name.lower() and (self.word or ":" not in name)]:
            print("\n".join(found), flush=True)
        else:
            raise ValueError(f"no id has {self.word!r} in it; `jtrpo envs` without a word lists those of gymnax")
        for suite, names in suites.items() if not self.word else ():
            extra = "MuJoCo's are in the extra mujoco" if suite == "gymnasium" else f"the extra {suite}"
            there = f"{len(names):,} more, listed by `jtrpo envs {suite}:`" if names else "not installed"
            say(f"{suite}: {there} ({extra})")


def _of_gymnasium() -> list[str]:
    """What is registered and whose package is there; without the ids that only say what to use instead."""
    needs = {"gymnasium.envs.mujoco": "mujoco", "gymnasium.envs.box2d": "Box2D"}
    known = []
    for name, spec in gymnasium.registry.items():
        module = spec.entry_point if isinstance(spec.entry_point, str) else ""
        package = next((package for start, package in needs.items() if module.startswith(start)), "gymnasium")
        if module and find_spec(package) is not None:
            known.append(name)
    return known


def _of_brax() -> list[str]:
    if find_spec("brax") is None:
        return []
    from brax import envs

    return list(envs._envs)


def _of_envpool() -> list[str]:
    if find_spec("envpool") is None:
        return []
    import envpool

    return envpool.list_all_envs()
