"""Checkpoints: the whole state of a run and the settings that made it, restored to the bit or not at all."""

import dataclasses
import math
import os
import re
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import jax
import numpy as np

from jtrpo.core.check import check_count
from jtrpo.envs.gymnasium import PREFIX
from jtrpo.networks.network import Network
from jtrpo.tools.arrays import KEY_IMPLEMENTATIONS, check_arrays, from_arrays, named, to_arrays
from jtrpo.tools.checkpoint_folder import FORMAT, Damaged, clean, found, read, read_run, remove, updates_in, write
from jtrpo.tools.distributed import barrier, is_lead, on_lead
from jtrpo.tools.files import absolute, set_aside, writable
from jtrpo.tools.fingerprint import FUNCTIONS, describe, differences, fingerprint, versions
from jtrpo.tools.lock import Lock
from jtrpo.training.config import TrainConfig
from jtrpo.training.host.trainer import trainer_for
from jtrpo.training.hyperparams import Hyperparams
from jtrpo.training.state import TrainState, state_shardings


class Restored(NamedTuple):
    """What a checkpoint holds.

    Attributes:
        state: of the training.
        score: its mean evaluation return; ``None`` where it was not evaluated.
        update: updates done.
        versions: of jtrpo, jax and the platform that wrote it.
    """

    state: TrainState
    score: float | None
    update: int
    versions: dict[str, str]


class Checkpoints:
    """The checkpoints of one run, in one directory: the newest ones, and the best by evaluation.

        with Checkpoints("runs/cartpole", config) as checkpoints:
            checkpoints.save(state)
        state = Checkpoints("runs/cartpole", config).restore().state

    Each is a folder named by its updates, written in the background under another name until it is whole and was read back. It
    holds the state as plain arrays, by orbax, and the settings with a digest of every file, without which nothing is restored.
    Nothing is unpickled. What jtrpo did not write in the directory is left alone. One process at a time writes there.

    Args:
        directory: made where it does not exist.
        config: of the run; a checkpoint of another is refused. An environment object is known by its class, its spaces and its
            attributes.
        hyperparams: of the run at its start; likewise, where given.
        seed: of the run; likewise.
        keep: how many of the newest to keep; the best by evaluation is kept besides.

    Raises:
        ValueError: a directory that cannot be used, or ``keep`` below 1.
    """

    def __init__(
        self,
        directory: str | Path,
        config: TrainConfig,
        hyperparams: Hyperparams | None = None,
        seed: int | None = None,
        *,
        keep: int = 3,
    ):
        check_count("keep", keep, at_least=1)
        self.directory = writable(directory)
        self._config = config
        self._settings = describe(config, hyperparams, seed)
        self._template = cache(lambda impl: _template(config, impl))
        self._keep = keep
        self._lock = Lock(self.directory)
        self._claimed = self._proved = False
        self._writer: ThreadPoolExecutor | None = None
        self._under_way: Future | None = None
        self._scores: dict[int, float | None] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.wait()
        finally:
            if self._writer is not None:
                self._writer.shutdown()
                self._writer = None
            self._lock.release()
            self._claimed = False

    def claim(self) -> None:
        """Take the directory for this process, until the end of ``with`` or of the process; ``save`` does so by itself.

        Raises:
            ValueError: another process is at work there.
        """
        if self._claimed:
            return
        on_lead(self._lock.acquire)
        if is_lead():
            clean(self.directory)
        barrier()
        self._claimed = True
        self._scores = {}
        for update in found(self.directory):
            try:
                self._scores[update] = read_run(self.directory, update)["score"]
            except ValueError:  # what is damaged has no score, and is not removed
                continue

    def check_run(self, config: TrainConfig, hyperparams: Hyperparams, seed: int) -> None:
        """Raise ``ValueError`` unless these are the settings that the checkpoints are of."""
        if different := differences(self._settings, describe(config, hyperparams, seed)):
            raise ValueError(
                f"checkpoints are of other settings than the run: {_listed(different)}; give both the same"
            )

    def updates(self) -> list[int]:
        """Checkpoints that there are, by the updates done, oldest first."""
        self.wait()
        return updates_in(self.directory)

    def save(self, state: TrainState, score: float | None = None) -> None:
        """Copy the state and write it in the background; at most one is being written at a time.

        Args:
            state: may be donated as soon as this returns. One of the same number of updates is replaced.
            score: mean evaluation return, by which the best is kept.

        Several processes save together, each its own part, and return when all is on the disk, which they must share.

        Raises:
            TypeError: not a state.
            ValueError: a state of another training, of several, or donated; another process is at work in the directory; or the
                checkpoint before could not be written: a full disk, say.
        """
        self.wait()
        impl = self._check_state(state)
        self.claim()
        score = None if score is None else float(score)
        run: dict[str, Any] = {"format": FORMAT, "update": int(state.update), "score": score}
        run |= {"versions": versions(), "settings": self._settings, "key": impl}
        if jax.process_count() > 1:  # at once: threads of several processes would fall out of step
            self._finish(lambda: self._write(run, named(state)))
            return
        arrays = to_arrays(state)
        if self._writer is None:
            self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._under_way = self._writer.submit(self._write, run, arrays)

    def wait(self) -> None:
        """Return once everything is on the disk.

        Raises:
            ValueError: it could not be written.
        """
        if self._under_way is not None:
            under_way, self._under_way = self._under_way, None
            self._finish(under_way.result)

    def restore(self, update: int | None = None) -> Restored:
        """Read a checkpoint back and check it: the newest whole one, or that of ``update``.

        Damaged checkpoints newer than the one returned are told of by a warning and set aside as ``damaged-...``.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it belongs to other settings (the differences are listed), to a newer format, or none is whole.
        """
        there = self.updates()
        if not there:
            raise FileNotFoundError(f"{str(self.directory)!r} holds no checkpoint")
        if update is not None and update not in there:
            raise FileNotFoundError(
                f"{str(self.directory)!r} holds no checkpoint {update!r}; there are {_numbers(there)}"
            )
        damage = []
        for number in there[::-1] if update is None else [update]:
            try:
                restored = self._read(number)
            except Damaged as error:
                damage.append((number, str(error)))
                continue
            if damage:
                self._set_aside(damage, number)
            return restored
        reasons = "; ".join(f"{number}: {reason}" for number, reason in damage)
        others = [number for number in there if number != update]
        if update is not None and others:
            raise ValueError(f"{str(self.directory)!r}: checkpoint {reasons}; there are others, {_numbers(others)}")
        raise ValueError(f"{str(self.directory)!r} holds no whole checkpoint ({reasons}); start anew in another folder")

    def _check_state(self, state: TrainState) -> str | None:
        """Raise unless it can be saved and restored; the implementation of its random key."""
        if not isinstance(state, TrainState):
            raise TypeError(
                f"state must be a TrainState, as a trainer's init and step return; got {type(state).__name__}"
            )
        leaves = jax.tree.leaves(state)
        if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
            raise TypeError("state must hold numbers, and these are traced; save what a jitted function returns")
        if any(isinstance(leaf, jax.Array) and leaf.is_deleted() for leaf in leaves):
            raise ValueError("state was donated to a step; save it before, or save what the step returned")
        if np.ndim(state.update):
            raise ValueError(
                f"state holds several trainings, with leading axes {list(np.shape(state.update))}; save one in a folder of its "
                "own: jax.tree.map(lambda x: x[0], state)"
            )
        impl = (
            str(jax.random.key_impl(state.key)) if jax.dtypes.issubdtype(state.key.dtype, jax.dtypes.prng_key) else None
        )
        if impl not in (None, *KEY_IMPLEMENTATIONS):
            raise ValueError(
                f"state has a random key of {impl!r}; those of {', '.join(KEY_IMPLEMENTATIONS)} can be saved"
            )
        check_arrays(named(state), self._template(impl), "state", "in the training that the folder is for")
        return impl

    def _finish(self, write: Callable[[], None]) -> None:
        try:
            write()
        except jax.errors.JaxRuntimeError:  # another process is lost, and not the disk at fault
            raise
        except Exception as error:
            raise ValueError(
                f"checkpoint_dir={str(self.directory)!r}: the checkpoint could not be written ({_in_short(error)}); the "
                "ones before it are whole. Make room, or mend the folder, and go on from the last"
            ) from error

    def _write(self, run: dict[str, Any], arrays: dict[str, Any]) -> None:
        write(self.directory, run, arrays, prove=not self._proved)
        self._proved = True
        self._scores[run["update"]] = run["score"]
        if is_lead():
            self._forget()
        barrier()

    def _forget(self) -> None:
        """Remove what is neither among the newest nor the best."""
        there = {update: path for update, path in found(self.directory).items() if update in self._scores}
        scores = {update: score for update in there if _is_score(score := self._scores[update])}
        best = max(scores, key=lambda update: (scores[update], update), default=None)
        for update in list(there)[: -self._keep]:
            if update != best:
                remove(there[update])

    def _set_aside(self, damage: list[tuple[int, str]], back_to: int) -> None:
        self.claim()
        for broken, reason in damage if is_lead() else ():
            aside = set_aside(found(self.directory)[broken], f"damaged-{broken}")
            warnings.warn(
                f"checkpoint {broken} in {str(self.directory)!r} is damaged ({reason}) and was set aside as {aside.name}; going "
                f"back to {back_to}",
                stacklevel=3,
            )
        barrier()

    def _read(self, update: int) -> Restored:
        run, arrays = read(self.directory, update)
        there = run["settings"]
        different = differences(there, self._settings)
        # Nothing but the end of a run without annealing depends on how long it is to be: it may be made longer.
        longer = self._config.total_timesteps > there["total_timesteps"] and not self._config.anneal
        if longer and not self._config.schedules:
            different.pop("total_timesteps", None)
        if different:
            raise ValueError(
                f"the checkpoint in {str(self.directory)!r} belongs to other settings: {_listed(different)}. Give the same "
                "settings, or choose another folder"
            )
        template = self._template(_key_of(run))
        return _restored(run, arrays, template, state_shardings(self._config.mesh, template))


def load(
    directory: str | Path, env: Any = None, policy_network: Network | None = None, critic_network: Network | None = None
) -> tuple[TrainConfig, Restored]:
    """Read the best checkpoint by evaluation, or the newest where none was evaluated, and the settings it was made with.

    Args:
        directory: of the checkpoints; not written to.
        env: environment, where the run's was an object, or an id that imports a module (``gymnasium:module:Id-v0``): what a file
            says imports nothing.
        policy_network: the run's, where it had one of the user's own.
        critic_network: likewise.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: none is whole, or the environment is not known, or has other spaces, or a network is missing.
    """
    path = absolute(directory, "directory")
    runs, damage = {}, []
    for update in updates_in(path) if path.is_dir() else ():
        try:
            runs[update] = read_run(path, update)
        except Damaged as error:
            damage.append(f"checkpoint {update} in {str(directory)!r} is damaged: {error}")
    if not runs and not damage:
        raise FileNotFoundError(
            f"{str(directory)!r} holds no checkpoint; name the folder that was given as checkpoint_dir"
        )
    score = {update: run["score"] if _is_score(run["score"]) else -math.inf for update, run in runs.items()}
    chosen = None
    for update in sorted(runs, key=lambda update: (score[update], update), reverse=True):
        try:
            chosen = read(path, update)
            break
        except Damaged as error:
            damage.append(f"checkpoint {update} in {str(directory)!r} is damaged: {error}")
    if chosen is None:
        raise ValueError("; ".join(damage))
    for text in damage:
        warnings.warn(f"{text}; left aside", stacklevel=2)
    run, arrays = chosen
    networks = {"policy_network": policy_network, "critic_network": critic_network}
    config = _config_of(run["settings"], env, networks)
    return config, _restored(run, arrays, _template(config, _key_of(run)))


def _config_of(settings: dict[str, Any], env: Any, networks: dict[str, Network | None]) -> TrainConfig:
    """The configuration that a file tells of; what it says imports nothing and calls nothing by name."""
    known = {field.name for field in dataclasses.fields(TrainConfig)} - {"schedules", "mesh", *FUNCTIONS}
    wanted = {name: value for name, value in settings.items() if name in known} | networks
    missing = [f"{name}={settings[name]!r}" for name, given in networks.items() if given is None and settings.get(name)]
    if missing:
        raise ValueError(
            f"the run had networks of your own, {' and '.join(missing)}; give the same jtrpo.Network again"
        )
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
        known_here = fingerprint(config)
    except (TypeError, ValueError) as error:
        what = (
            "environment cannot be made by its name; give env=..."
            if "env=" in str(error)
            else "settings cannot be used"
        )
        raise ValueError(f"the run's {what} ({error})") from error
    spaces = {name: known_here[name] for name in ("env.observation_space", "env.action_space")}
    if different := differences(settings, spaces):
        raise ValueError(
            f"env is not an environment for the run's policy: {_listed(different)}; give one with the same spaces"
        )
    return config


def _template(config: TrainConfig, impl: str | None) -> Any:
    """The shapes and types of a state, for random keys of an implementation."""
    return jax.eval_shape(trainer_for(config).init, jax.eval_shape(lambda: jax.random.key(0, impl=impl)))


def _key_of(run: dict[str, Any]) -> str | None:
    impl = run.get("key")
    if impl not in (None, *KEY_IMPLEMENTATIONS):
        raise ValueError(
            f"the checkpoint has a random key of {impl!r}, which this version of jtrpo does not know: upgrade jtrpo"
        )
    return impl


def _restored(run: dict[str, Any], arrays: dict[str, np.ndarray], template: Any, where: Any = None) -> Restored:
    state = from_arrays(arrays, template, where, impl=run.get("key"))
    return Restored(state, run["score"], run["update"], run["versions"])


def _is_score(score: float | None) -> bool:
    return score is not None and not math.isnan(score)


def _listed(different: dict[str, tuple[Any, Any]]) -> str:
    return "; ".join(f"{name} is {old!r} there and {new!r} here" for name, (old, new) in different.items())


def _numbers(updates: list[int]) -> str:
    return ", ".join(map(str, updates))


def _in_short(error: BaseException) -> str:
    code = re.search(r"os_error_code='(\d+)'", str(error))  # in the midst of what tensorstore says
    return os.strerror(int(code[1])) if code else " ".join(str(error).split())[:200] or type(error).__name__
