"""What most suites leave to others: the next episode begins where one ended."""

import difflib
from abc import abstractmethod
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray, PyTree

from jtrpo.envs.protocol import EnvStep


class ResettingEnvironment:
    """``step`` for an adapter that has ``reset`` and ``step_without_reset``."""

    @abstractmethod
    def reset(self, key: PRNGKeyArray) -> tuple[PyTree, PyTree]:
        """Begin an episode: ``(observation, state)``."""

    @abstractmethod
    def step_without_reset(self, key: PRNGKeyArray, state: PyTree, action: Any) -> EnvStep:
        """Act once, and stay where an episode ended."""

    def step(self, key: PRNGKeyArray, state: PyTree, action: Any) -> EnvStep:
        """Act once."""
        step_key, reset_key = jax.random.split(key)
        result = self.step_without_reset(step_key, state, action)
        done = result.terminated | result.truncated
        going_on = (result.final_observation, result.state)
        observation, state = jax.tree.map(lambda new, old: jnp.where(done, new, old), self.reset(reset_key), going_on)
        return result._replace(observation=observation, state=state)


def missing(env_id: str, suite: str, extra: str, error: ImportError) -> ValueError:
    """What to say where the package of a suite is not installed."""
    return ValueError(f'env={env_id!r} needs {suite}: pip install "jtrpo[{extra}]" ({error})')


def check_known(env_id: str, name: str, known: Iterable[str], suite: str) -> None:
    """Raise ``ValueError`` with the nearest names where a suite does not know one."""
    known = sorted(known)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or known[:20]
        raise ValueError(f"env={env_id!r} is not an environment of {suite}; did you mean {' or '.join(near)}?")


def check_stays(env: Any, remedy: str) -> None:
    """Raise ``ValueError`` where an environment, or one that it wraps, begins the next episode by itself; told by its classes."""
    while env is not None:
        names = [base.__name__ for base in type(env).__mro__]
        if any("AutoReset" in name and "NoAutoReset" not in name for name in names):
            raise ValueError(f"env: {names[0]} must not reset itself: {remedy}")
        env = vars(env).get("_env")


def comes_from(env: Any, package: str) -> bool:
    """Whether an object's class, or one that it inherits from, is a package's; nothing is imported to tell."""
    return any(base.__module__.split(".")[0] == package for base in type(env).__mro__)
