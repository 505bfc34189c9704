"""Checkpoints: the whole state of a run and the settings that made it, restored to the bit or not at all."""

import dataclasses
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from jtrpo.core.check import check_count
from jtrpo.tools.distributed import is_lead, meet
from jtrpo.training.config import Hyperparams, TrainConfig
from jtrpo.training.host import trainer_for
from jtrpo.training.trainer import TrainState, state_shardings

FORMAT = 1
"""Of what is written; a checkpoint of a newer one is refused."""

_SETTINGS = "jtrpo.json"
_UNDER_WAY = ".jtrpo-"


class Damaged(ValueError):
    """A checkpoint that is not what was written."""


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

    Each is a folder named by its updates, written in the background under another name until it is whole. It holds the state as
    plain arrays, by orbax, and the settings with a digest of every file, without which nothing is restored. Nothing is
    unpickled.

    Args:
        directory: made where it does not exist.
        config: of the run; a checkpoint of another is refused.
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
        self._template = jax.eval_shape(trainer_for(config).init, jax.random.key(0))
        self._keep = keep
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._under_way: Future | None = None
        if is_lead():
            for left in self.directory.glob(f"{_UNDER_WAY}*"):  # by a process that was killed
                shutil.rmtree(left, ignore_errors=True)
        meet()
        self._scores: dict[int, float | None] = {}
        for update in updates_in(self.directory):
            with suppress(ValueError):  # what is damaged has no score
                self._scores[update] = read_run(self.directory, update)["score"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.wait()
        finally:
            self._writer.shutdown()

    def updates(self) -> list[int]:
        """Checkpoints that there are, by the updates done, oldest first."""
        self.wait()
        return updates_in(self.directory)

    def save(self, state: TrainState, score: float | None = None) -> None:
        """Copy the state and write it in the background; at most one is being written at a time.

        Args:
            state: may be donated as soon as this returns.
            score: mean evaluation return, by which the best is kept.

        Several processes save together, each its own part, and return when all is on the disk, which they must share.

        Raises:
            ValueError: the one before could not be written: a full disk, say.
        """
        self.wait()
        if jax.process_count() > 1:  # at once: threads of several processes would fall out of step
            self._finish(lambda: self._write(_named(state), int(state.update), score))
            return
        arrays = to_arrays(state)
        self._under_way = self._writer.submit(self._write, arrays, int(state.update), score)

    def wait(self) -> None:
        """Return once everything is on the disk.

        Raises:
            ValueError: it could not be written.
        """
        if self._under_way is not None:
            under_way, self._under_way = self._under_way, None
            self._finish(under_way.result)

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

    def restore(self, update: int | None = None) -> Restored:
        """Read a checkpoint back and check it: the newest whole one, or that of ``update``.

        Damaged checkpoints newer than the one returned are told of by a warning and set aside as ``damaged-...``.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it belongs to other settings (the differences are listed), to a newer format, or none is whole.
        """
        wanted = [update] if update is not None else self.updates()[::-1]
        if not wanted:
            raise FileNotFoundError(f"{str(self.directory)!r} holds no checkpoint")
        damage = []
        for number in wanted:
            try:
                restored = self._read(number)
            except Damaged as error:
                damage.append((number, str(error)))
                continue
            for broken, reason in damage if is_lead() else ():
                aside = self.directory / f"damaged-{broken}"
                warnings.warn(
                    f"checkpoint {broken} in {str(self.directory)!r} is damaged ({reason}) and was set aside as "
                    f"{aside.name}; going back to {number}",
                    stacklevel=2,
                )
                shutil.rmtree(aside, ignore_errors=True)
                (self.directory / str(broken)).rename(aside)
            meet()
            return restored
        reasons = "; ".join(f"{number}: {reason}" for number, reason in damage)
        raise ValueError(f"{str(self.directory)!r} holds no whole checkpoint ({reasons}); start anew in another folder")

    def _write(self, arrays: dict[str, Any], update: int, score: float | None) -> None:
        import orbax.checkpoint as ocp

        writing = self.directory / f"{_UNDER_WAY}{update}"
        try:
            with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as writer:
                writer.save(writing / "arrays", arrays)
            if is_lead():
                files = {str(file.relative_to(writing)): _sha256(file.read_bytes()) for file in _files(writing)}
                run: dict[str, Any] = {"format": FORMAT, "update": update, "score": score, "versions": versions()}
                run |= {"settings": self._settings, "files": files}
                run["digest"] = _digest(run)
                (writing / _SETTINGS).write_text(json.dumps(run, indent=1) + "\n")
                writing.rename(self.directory / str(update))  # from here on it is there, and whole
        except Exception:
            shutil.rmtree(writing, ignore_errors=True)
            raise
        self._scores[update] = score
        if is_lead():
            self._forget()
        meet()

    def _forget(self) -> None:
        """Delete what is neither among the newest nor the best; under another name first, so that a kill leaves no half."""
        updates = updates_in(self.directory)
        scored = {update: score for update in updates if (score := self._scores.get(update)) is not None}
        best = max(scored, key=lambda update: (scored[update], update), default=None)
        for update in updates[: -self._keep]:
            if update != best:
                leaving = (self.directory / str(update)).rename(self.directory / f"{_UNDER_WAY}leaving-{update}")
                shutil.rmtree(leaving)

    def _read(self, update: int) -> Restored:
        run, arrays = read(self.directory, update)
        there = run["settings"]
        different = differences(there, self._settings)
        # Nothing but the end of a run without annealing depends on how long it is to be: it may be made longer.
        longer = self._config.total_timesteps > there["total_timesteps"] and not self._config.anneal
        if longer and not self._config.schedules:
            different.pop("total_timesteps", None)
        if different:
            listed = "; ".join(f"{name} is {old!r} there and {new!r} here" for name, (old, new) in different.items())
            raise ValueError(
                f"the checkpoint in {str(self.directory)!r} belongs to other settings: {listed}. Give the same settings, or "
                "choose another folder"
            )
        where = state_shardings(self._config, self._template)
        return Restored(from_arrays(arrays, self._template, where), run["score"], run["update"], run["versions"])


def load(directory: str | Path, env: Any = None) -> tuple[TrainConfig, Restored]:
    """Read the best checkpoint by evaluation, or the newest where none was evaluated, and the settings it was made with.

    Args:
        directory: of the checkpoints; not written to.
        env: environment, where the run's was an object and not an id.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: none is whole, or the environment is not known.
    """
    path = Path(directory).expanduser().absolute()
    updates = updates_in(path) if path.is_dir() else []
    if not updates:
        raise FileNotFoundError(
            f"{str(directory)!r} holds no checkpoint; name the folder that was given as checkpoint_dir"
        )
    whole, damage = [], []
    for update in updates:
        try:
            whole.append(read(path, update))
        except Damaged as error:
            damage.append(f"checkpoint {update} in {str(directory)!r} is damaged: {error}")
    if not whole:
        raise ValueError("; ".join(damage))
    for text in damage:
        warnings.warn(f"{text}; left aside", stacklevel=2)
    scored = [found for found in whole if found[0]["score"] is not None]
    run, arrays = max(scored, key=lambda found: (found[0]["score"], found[0]["update"])) if scored else whole[-1]
    names = {field.name for field in dataclasses.fields(TrainConfig)} - {"schedules", "mesh"}
    settings = {name: value for name, value in run["settings"].items() if name in names}
    try:
        config = TrainConfig(**(settings if env is None else {**settings, "env": env}))
    except ValueError as error:
        raise ValueError(f"the run's environment cannot be made by its name; give env=... ({error})") from error
    template = jax.eval_shape(trainer_for(config).init, jax.random.key(0))
    return config, Restored(from_arrays(arrays, template), run["score"], run["update"], run["versions"])


def writable(directory: str | Path) -> Path:
    """The directory's absolute path, after making it and trying it out.

    Raises:
        ValueError: it is a file, cannot be made or cannot be written to.
    """
    path = Path(directory).expanduser().absolute()
    if path.exists() and not path.is_dir():
        raise ValueError(f"checkpoint_dir={str(directory)!r} is a file; name a folder")
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ValueError(
            f"checkpoint_dir={str(directory)!r} cannot be written to ({error.strerror}); choose a folder of your own"
        ) from error
    return path


def updates_in(directory: Path) -> list[int]:
    """Checkpoints in a folder, by the updates done, oldest first."""
    return sorted(int(path.name) for path in directory.iterdir() if path.name.isdigit() and path.is_dir())


def read_run(directory: Path, update: int) -> dict[str, Any]:
    """What a checkpoint says about itself.

    Raises:
        Damaged: it cannot be read, or is not what was written.
        ValueError: a newer format.
    """
    try:
        run = json.loads((directory / str(update) / _SETTINGS).read_text())
        newer = isinstance(run["format"], int) and run["format"] > FORMAT
        whole = run.pop("digest") == _digest(run) and run["update"] == update
    except FileNotFoundError as error:
        raise Damaged(f"it has no {_SETTINGS}; jtrpo did not write it") from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise Damaged(f"its {_SETTINGS} cannot be read") from error
    if newer:
        raise ValueError(
            f"checkpoint {update} in {str(directory)!r} has format {run['format']}; this version of jtrpo reads up to {FORMAT}: "
            "upgrade jtrpo"
        )
    if not whole:
        raise Damaged(f"its {_SETTINGS} was changed")
    return run


def read(directory: Path, update: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What a checkpoint says about itself, and its arrays, after every file was compared with its digest.

    Raises:
        Damaged: it is not what was written.
        ValueError: a newer format.
    """
    import orbax.checkpoint as ocp

    run, folder = read_run(directory, update), directory / str(update)
    for name, stored in run["files"].items():
        try:
            if _sha256((folder / name).read_bytes()) != stored:
                raise Damaged(f"{name} was changed")
        except OSError as error:
            raise Damaged(f"{name} cannot be read ({error.strerror})") from error
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        names = reader.metadata(folder / "arrays").item_metadata.tree
        plain = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in names}  # whatever devices wrote them
        arrays = reader.restore(folder / "arrays", args=ocp.args.PyTreeRestore(restore_args=plain))
    return run, {name: np.asarray(value) for name, value in arrays.items()}


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _digest(run: dict[str, Any]) -> str:
    return _sha256(json.dumps(run, sort_keys=True).encode())


def to_arrays(state: Any) -> dict[str, np.ndarray]:
    """The state as NumPy arrays of its own, by name; random keys as their bits."""
    return {name: np.array(value) for name, value in jax.device_get(_named(state)).items()}


def _named(state: Any) -> dict[str, jax.Array]:
    named, _ = jax.tree_util.tree_flatten_with_path(state)
    return {_name(path): jax.random.key_data(leaf) if _is_key(leaf) else leaf for path, leaf in named}


def from_arrays(arrays: dict[str, np.ndarray], template: Any, where: Any = None) -> Any:
    """The state again, shaped like ``template`` and lying where ``where`` says.

    Raises:
        ValueError: an array is missing, too many, or of another shape or type: another version wrote it.
    """
    named, structure = jax.tree_util.tree_flatten_with_path(template)
    remedy = "another version of jtrpo or of the environment wrote it; use that one"
    if wrong := {_name(path) for path, _ in named} ^ set(arrays):
        raise ValueError(f"the checkpoint's state has other parts ({', '.join(sorted(wrong)[:5])}): {remedy}")
    leaves = []
    for path, like in named:
        value = jnp.asarray(arrays[_name(path)])
        value = jax.random.wrap_key_data(value) if _is_key(like) else value
        if (value.shape, value.dtype) != (like.shape, like.dtype):
            kinds = f"{value.dtype}{value.shape} there and {like.dtype}{like.shape} here"
            raise ValueError(f"the checkpoint's {_name(path)} is {kinds}: {remedy}")
        leaves.append(value)
    state = jax.tree.unflatten(structure, leaves)
    return state if where is None else jax.jit(lambda x: x, out_shardings=where)(state)


def describe(config: TrainConfig, hyperparams: Hyperparams | None = None, seed: int | None = None) -> dict[str, Any]:
    """Settings as JSON, by name: functions by the numbers they schedule, an environment object by what it calls itself."""
    settings = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    del settings["mesh"]  # a run may go on on other devices
    settings["env"] = config.env if isinstance(config.env, str) else repr(config.environment)
    settings["schedules"] = sorted(config.schedules)
    if hyperparams is not None:
        settings |= {name: float(value) for name, value in hyperparams._asdict().items()}
    if seed is not None:
        settings["seed"] = seed
    return json.loads(json.dumps(settings))


def differences(there: dict[str, Any], here: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Settings that both know and that differ, by name."""
    return {name: (there[name], here[name]) for name in here if name in there and there[name] != here[name]}


def versions() -> dict[str, str]:
    """What the bits of a run depend on besides its settings."""
    device = jax.devices()[0]
    version = sys.modules["jtrpo"].__version__  # which tools may not import
    return {"jtrpo": version, "jax": jax.__version__, "device": f"{device.platform}: {device.device_kind}"}


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _in_short(error: BaseException) -> str:
    code = re.search(r"os_error_code='(\d+)'", str(error))  # in the midst of what tensorstore says
    return os.strerror(int(code[1])) if code else " ".join(str(error).split())[:200] or type(error).__name__
