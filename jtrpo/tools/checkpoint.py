"""Checkpoints: the whole state of a run and the settings that made it, restored to the bit or not at all."""

import dataclasses
import hashlib
import json
import shutil
import tempfile
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from jtrpo.core.check import check_count
from jtrpo.training.config import Hyperparams, TrainConfig
from jtrpo.training.trainer import TrainState, make_trainer

FORMAT = 1
"""Of what is written; a checkpoint of a newer one is refused."""


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

    Each is a folder named by its updates, written by orbax in the background, under another name until it is whole. It holds
    the state as plain arrays, the settings, and a digest of both, without which nothing is restored. Nothing is unpickled.

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
        self._template = jax.eval_shape(make_trainer(config).init, jax.random.key(0))
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._under_way: Future | None = None
        self._manager = open_manager(self.directory, keep)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.wait()
        finally:
            self._writer.shutdown()
            self._manager.close()

    def updates(self) -> list[int]:
        """Checkpoints that there are, by the updates done, oldest first."""
        self.wait()
        return sorted(self._manager.all_steps())

    def save(self, state: TrainState, score: float | None = None) -> None:
        """Copy the state and write it in the background; at most one is being written at a time.

        Args:
            state: may be donated as soon as this returns.
            score: mean evaluation return, by which the best is kept.

        Raises:
            ValueError: the one before could not be written: a full disk, say.
        """
        self.wait()
        arrays = to_arrays(state)
        self._under_way = self._writer.submit(self._write, arrays, int(state.update), score)

    def wait(self) -> None:
        """Return once everything is on the disk.

        Raises:
            ValueError: it could not be written.
        """
        if self._under_way is not None:
            under_way, self._under_way = self._under_way, None
            try:
                under_way.result()
            except Exception as error:
                raise ValueError(
                    f"checkpoint_dir={str(self.directory)!r}: the checkpoint could not be written ({_first_line(error)}); the "
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
            for broken, reason in damage:
                aside = self.directory / f"damaged-{broken}"
                warnings.warn(
                    f"checkpoint {broken} in {str(self.directory)!r} is damaged ({reason}) and was set aside as "
                    f"{aside.name}; going back to {number}",
                    stacklevel=2,
                )
                shutil.rmtree(aside, ignore_errors=True)
                (self.directory / str(broken)).rename(aside)
            if damage:
                self._manager.reload()
            return restored
        reasons = "; ".join(f"{number}: {reason}" for number, reason in damage)
        raise ValueError(f"{str(self.directory)!r} holds no whole checkpoint ({reasons}); start anew in another folder")

    def _write(self, arrays: dict[str, np.ndarray], update: int, score: float | None) -> None:
        import orbax.checkpoint as ocp

        run: dict[str, Any] = {"format": FORMAT, "update": update, "score": score}
        run |= {"versions": versions(), "settings": self._settings}
        run["digest"] = digest(run, arrays)
        self._manager.save(
            update,
            args=ocp.args.Composite(state=ocp.args.StandardSave(arrays), run=ocp.args.JsonSave(run)),
            metrics={"score": score},
        )

    def _read(self, update: int) -> Restored:
        run, arrays = read(self._manager, update)
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
        return Restored(from_arrays(arrays, self._template), run["score"], run["update"], run["versions"])


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
    manager = open_manager(path, keep=None) if path.is_dir() else None
    if manager is None or not manager.all_steps():
        raise FileNotFoundError(
            f"{str(directory)!r} holds no checkpoint; name the folder that was given as checkpoint_dir"
        )
    whole, damage = [], []
    for update in sorted(manager.all_steps()):
        try:
            whole.append(read(manager, update))
        except Damaged as error:
            damage.append(f"checkpoint {update} in {str(directory)!r} is damaged: {error}")
    if not whole:
        raise ValueError("; ".join(damage))
    for text in damage:
        warnings.warn(f"{text}; left aside", stacklevel=2)
    run, arrays = max(whole, key=lambda found: (_score(found[0]), found[0]["update"]))
    names = {field.name for field in dataclasses.fields(TrainConfig)} - {"schedules"}
    settings = {name: value for name, value in run["settings"].items() if name in names}
    try:
        config = TrainConfig(**(settings if env is None else {**settings, "env": env}))
    except ValueError as error:
        raise ValueError(f"the run's environment cannot be made by its name; give env=... ({error})") from error
    template = jax.eval_shape(make_trainer(config).init, jax.random.key(0))
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


def open_manager(directory: Path, keep: int | None) -> Any:
    """Orbax's manager of a folder; ``keep=None`` only reads."""
    import orbax.checkpoint as ocp

    policies = ocp.checkpoint_managers
    settings: dict[str, Any] = {"create": False}
    if keep is not None:
        newest = policies.LatestN(keep)
        best = policies.BestN(get_metric_fn=_score, n=1)
        settings = {
            "preservation_policy": policies.AnyPreservationPolicy([newest, best]),
            "cleanup_tmp_directories": True,
        }
    options = ocp.CheckpointManagerOptions(best_fn=_score, enable_async_checkpointing=False, **settings)
    handlers = {"state": ocp.StandardCheckpointHandler(), "run": ocp.JsonCheckpointHandler()}
    return ocp.CheckpointManager(directory, options=options, item_handlers=handlers)


def _score(metrics: dict[str, float | None]) -> float:
    return -np.inf if metrics["score"] is None else metrics["score"]


def read(manager: Any, update: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A checkpoint's settings and arrays, checked by its digest.

    Raises:
        Damaged: it is not what was written.
        ValueError: a newer format.
    """
    import orbax.checkpoint as ocp

    try:
        run = manager.restore(update, args=ocp.args.Composite(run=ocp.args.JsonRestore()))["run"]
    except Exception as error:
        raise Damaged(f"its settings cannot be read: {_first_line(error)}") from error
    if not isinstance(run, dict) or not isinstance(run.get("format"), int) or "digest" not in run:
        raise Damaged("it was not written by jtrpo")
    if run["format"] > FORMAT:
        raise ValueError(
            f"checkpoint {update} in {str(manager.directory)!r} has format {run['format']}; this version of jtrpo reads up to "
            f"{FORMAT}: upgrade jtrpo"
        )
    try:
        arrays = manager.restore(update, args=ocp.args.Composite(state=ocp.args.StandardRestore()))["state"]
        arrays = {name: np.asarray(value) for name, value in arrays.items()}
    except Exception as error:
        raise Damaged(f"its arrays cannot be read: {_first_line(error)}") from error
    stored = run.pop("digest")
    if stored != digest(run, arrays) or run["update"] != update:
        raise Damaged("its digest does not fit")
    return run, arrays


def digest(run: dict[str, Any], arrays: dict[str, np.ndarray]) -> str:
    """SHA-256 of the settings and of every array's name, type, shape and bytes."""
    total = hashlib.sha256(json.dumps(run, sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        total.update(f"{name} {array.dtype} {array.shape}".encode())
        total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()


def to_arrays(state: Any) -> dict[str, np.ndarray]:
    """The state as NumPy arrays of its own, by name; random keys as their bits."""
    named, _ = jax.tree_util.tree_flatten_with_path(state)
    host = jax.device_get([jax.random.key_data(leaf) if _is_key(leaf) else leaf for _, leaf in named])
    return {_name(path): np.array(value) for (path, _), value in zip(named, host, strict=True)}


def from_arrays(arrays: dict[str, np.ndarray], template: Any) -> Any:
    """The state again, shaped like ``template``.

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
    return jax.tree.unflatten(structure, leaves)


def describe(config: TrainConfig, hyperparams: Hyperparams | None = None, seed: int | None = None) -> dict[str, Any]:
    """Settings as JSON, by name: functions by the numbers they schedule, an environment object by what it calls itself."""
    settings = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
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
    import jtrpo

    device = jax.devices()[0]
    return {"jtrpo": jtrpo.__version__, "jax": jax.__version__, "device": f"{device.platform}: {device.device_kind}"}


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
