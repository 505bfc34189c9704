"""The checkpoints of a run: saved in the background, the newest and the best kept, restored to the bit or not at all."""

import math
import os
import re
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import jax
import numpy as np

from jtrpo.core.check import check_count
from jtrpo.tools.checkpoint.folder import (
    FORMAT,
    Damaged,
    checkpoint_folders,
    read,
    read_metadata,
    recover,
    remove,
    updates_in,
    write,
)
from jtrpo.tools.checkpoint.lock import Lock
from jtrpo.tools.checkpoint.state import (
    check_arrays,
    check_savable,
    from_arrays,
    key_implementation_of,
    named,
    template,
    to_arrays,
)
from jtrpo.tools.distributed import barrier, is_lead, on_lead
from jtrpo.tools.files import make_folder, set_aside
from jtrpo.tools.settings import describe, differences, listed, versions
from jtrpo.training.config import TrainConfig
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
        self.directory = make_folder(directory)
        self._config = config
        self._settings = describe(config, hyperparams, seed)
        self._template = cache(lambda key_implementation: template(config, key_implementation))
        self._keep = keep
        self._lock = Lock(self.directory)
        self._claimed = self._verified = False
        self._writer: ThreadPoolExecutor | None = None
        self._pending: Future | None = None
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
            recover(self.directory)
        barrier()
        self._claimed = True
        self._scores = {}
        for update in updates_in(self.directory):
            try:
                self._scores[update] = read_metadata(self.directory, update)["score"]
            except ValueError:  # a damaged one has no score, and is not removed
                continue

    def check_run(self, config: TrainConfig, hyperparams: Hyperparams, seed: int) -> None:
        """Raise ``ValueError`` unless these are the settings that the checkpoints are of."""
        if different := differences(self._settings, describe(config, hyperparams, seed)):
            raise ValueError(f"checkpoints are of other settings than the run: {listed(different)}; give both the same")

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
        impl = check_savable(state)
        check_arrays(named(state), self._template(impl), "state", "in the training that the folder is for")
        self.claim()
        score = None if score is None else float(score)
        metadata: dict[str, Any] = {"format": FORMAT, "update": int(state.update), "score": score}
        metadata |= {"versions": versions(), "settings": self._settings, "key": impl}
        if jax.process_count() > 1:  # not in the background: threads of several processes would not stay in step
            with self._failure_in_words():
                self._write(metadata, named(state))
            return
        arrays = to_arrays(state)
        if self._writer is None:
            self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._pending = self._writer.submit(self._write, metadata, arrays)

    def wait(self) -> None:
        """Return once everything is on the disk.

        Raises:
            ValueError: it could not be written.
        """
        if self._pending is not None:
            pending, self._pending = self._pending, None
            with self._failure_in_words():
                pending.result()

    def restore(self, update: int | None = None) -> Restored:
        """Read a checkpoint back and check it: the newest whole one, or that of ``update``.

        Damaged checkpoints that are newer than the one returned are set aside as ``damaged-...``, with a warning.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it belongs to other settings (the differences are listed), to a newer format, or none is whole.
        """
        saved = self.updates()
        if not saved:
            raise FileNotFoundError(f"{str(self.directory)!r} holds no checkpoint")
        if update is not None and update not in saved:
            raise FileNotFoundError(
                f"{str(self.directory)!r} holds no checkpoint {update!r}; there are {_numbers(saved)}"
            )
        damage = []
        for number in saved[::-1] if update is None else [update]:
            try:
                found = self._read(number)
            except Damaged as error:
                damage.append((number, str(error)))
                continue
            if damage:
                self._set_aside(damage, number)
            return found
        reasons = "; ".join(f"{number}: {reason}" for number, reason in damage)
        others = [number for number in saved if number != update]
        if update is not None and others:
            raise ValueError(f"{str(self.directory)!r}: checkpoint {reasons}; there are others, {_numbers(others)}")
        raise ValueError(f"{str(self.directory)!r} holds no whole checkpoint ({reasons}); start anew in another folder")

    @contextmanager
    def _failure_in_words(self) -> Iterator[None]:
        try:
            yield
        except jax.errors.JaxRuntimeError:  # another process is lost; the disk is not at fault
            raise
        except Exception as error:
            raise ValueError(
                f"checkpoint_dir={str(self.directory)!r}: the checkpoint could not be written ({_in_short(error)}); the "
                "ones before it are whole. Make room, or mend the folder, and go on from the last"
            ) from error

    def _write(self, metadata: dict[str, Any], arrays: dict[str, Any]) -> None:
        write(self.directory, metadata, arrays, verify=not self._verified)
        self._verified = True
        self._scores[metadata["update"]] = metadata["score"]
        if is_lead():
            self._remove_old()
        barrier()

    def _remove_old(self) -> None:
        """Remove the checkpoints that are neither among the newest nor the best."""
        folders = checkpoint_folders(self.directory)
        scores = {update: self._scores[update] for update in folders if update in self._scores}
        best = best_first(scores)[0]  # without scores: the newest, which is kept anyway
        for update in list(scores)[: -self._keep]:
            if update != best:
                remove(folders[update])

    def _set_aside(self, damage: list[tuple[int, str]], back_to: int) -> None:
        self.claim()
        for broken, reason in damage if is_lead() else ():
            aside = set_aside(checkpoint_folders(self.directory)[broken], f"damaged-{broken}")
            warnings.warn(
                f"checkpoint {broken} in {str(self.directory)!r} is damaged ({reason}) and was set aside as {aside.name}; going "
                f"back to {back_to}",
                stacklevel=3,
            )
        barrier()

    def _read(self, update: int) -> Restored:
        metadata, arrays = read(self.directory, update)
        saved = metadata["settings"]
        different = differences(saved, self._settings)
        # Without annealing and schedules, total_timesteps only says where a run ends, so it may be raised.
        longer = self._config.total_timesteps > saved["total_timesteps"] and not self._config.anneal
        if longer and not self._config.schedules:
            different.pop("total_timesteps", None)
        if different:
            raise ValueError(
                f"the checkpoint in {str(self.directory)!r} belongs to other settings: {listed(different)}. Give the same "
                "settings, or choose another folder"
            )
        like = self._template(key_implementation_of(metadata))
        return restored_from(metadata, arrays, like, self._config.mesh)


def restored_from(
    metadata: dict[str, Any], arrays: dict[str, np.ndarray], like: TrainState, mesh: Any = None
) -> Restored:
    """What was read from a folder as a state like ``like``, divided among the devices of ``mesh``."""
    state = from_arrays(arrays, like, state_shardings(mesh, like), impl=metadata.get("key"))
    return Restored(state, metadata["score"], metadata["update"], metadata["versions"])


def best_first(scores: dict[int, float | None]) -> list[int]:
    """Checkpoints in the order of their scores, the newer of equals first; those without a score (or NaN) last."""

    def rank(update: int) -> tuple[bool, float, int]:
        score = scores[update]
        return (False, 0.0, update) if score is None or math.isnan(score) else (True, score, update)

    return sorted(scores, key=rank, reverse=True)


def _numbers(updates: list[int]) -> str:
    return ", ".join(map(str, updates))


def _in_short(error: BaseException) -> str:
    code = re.search(r"os_error_code='(\d+)'", str(error))  # somewhere in tensorstore's message
    return os.strerror(int(code[1])) if code else " ".join(str(error).split())[:200] or type(error).__name__
