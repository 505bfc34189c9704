"""One checkpoint as a folder: written under another name until it is whole, read by its digests, removed file by file."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from jtrpo.tools.arrays import read_arrays, sha256, write_arrays
from jtrpo.tools.distributed import is_lead
from jtrpo.tools.files import set_aside, sync

FORMAT = 1
"""Of what is written; a checkpoint of a newer one is refused."""

_SETTINGS = "jtrpo.json"
_LEAVING = ".jtrpo-leaving.json"
"""The settings' name while the files that they list are being removed."""
_ARRAYS = "arrays"
_UNDER_WAY = ".jtrpo-"
_REPLACED = ".jtrpo-replaced-"


class Damaged(ValueError):
    """A checkpoint that is not what was written."""


def found(directory: Path) -> dict[int, Path]:
    """The checkpoints in a folder, by the updates done, oldest first. Another's folder that is named by a number is none."""
    there: dict[int, Path] = {}
    for path in sorted(directory.iterdir(), key=lambda path: -len(path.name)):  # the plain name last
        match = re.fullmatch(r"(0|[1-9][0-9]*)(-jtrpo)?", path.name)
        if match and (_holds(path, _SETTINGS) or (_holds(path / _ARRAYS, "_METADATA") and not _holds(path, _LEAVING))):
            there[int(match[1])] = path
    return dict(sorted(there.items()))


def updates_in(directory: Path) -> list[int]:
    """Checkpoints in a folder, by the updates done, oldest first."""
    return list(found(directory))


def read_run(directory: Path, update: int) -> dict[str, Any]:
    """What a checkpoint says about itself.

    Raises:
        Damaged: it cannot be read, or is not what was written.
        ValueError: a newer format.
    """
    try:
        run = json.loads((_folder(directory, update) / _SETTINGS).read_text(encoding="utf-8"))
        newer = isinstance(run["format"], int) and run["format"] > FORMAT
        whole = run.pop("digest") == _digest(run) and run["update"] == update and _is_sound(run)
    except FileNotFoundError as error:
        raise Damaged(f"it has no {_SETTINGS}") from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
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
        ValueError: a newer format, of jtrpo's or of orbax's.
    """
    run, folder = read_run(directory, update), _folder(directory, update)
    for name, stored in run["files"].items():
        try:
            if sha256((folder / name).read_bytes()) != stored:
                raise Damaged(f"{name} was changed")
        except OSError as error:
            raise Damaged(f"{name} cannot be read ({error.strerror})") from error
    try:
        return run, read_arrays(folder / _ARRAYS)
    except Exception as error:  # every file is what was written
        raise ValueError(
            f"checkpoint {update} in {str(directory)!r} is whole, but the installed orbax cannot read it "
            f"({' '.join(str(error).split())[:200]}); use the versions that wrote it, {run['versions']}"
        ) from error


def write(directory: Path, run: dict[str, Any], arrays: dict[str, Any], *, prove: bool) -> None:
    """Write a checkpoint, in place of one of the same update. Several processes write together, and process 0 puts it in place.

    Args:
        directory: of the run.
        run: what it says about itself, without its files.
        arrays: of the state, by name.
        prove: read the arrays back before they count, instead of the files alone.
    """
    writing = directory / f"{_UNDER_WAY}{run['update']}"
    try:
        write_arrays(writing / _ARRAYS, arrays)
        if prove:  # which orbax wants all processes to do together, too
            _check_same(read_arrays(writing / _ARRAYS), arrays)
        if is_lead():
            files = {
                path.relative_to(writing).as_posix(): sha256(path.read_bytes()) for path in _files(writing / _ARRAYS)
            }
            run = {**run, "files": files}
            run["digest"] = _digest(run)
            (writing / _SETTINGS).write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
            sync(writing / _SETTINGS)
            sync(writing)
            _put(writing, directory, run["update"])  # from here on it is there, and whole
    except Exception:
        if is_lead() and _is_own(writing):
            shutil.rmtree(writing, ignore_errors=True)
        raise


def remove(folder: Path) -> None:
    """Remove what was written there, and the folder unless it holds something else. After a kill, :func:`clean` goes on."""
    leaving = folder / _LEAVING
    if _holds(folder, _SETTINGS):
        os.replace(folder / _SETTINGS, leaving)
    files = json.loads(leaving.read_text(encoding="utf-8"))["files"]
    for name in filter(_is_inside, files):
        (folder / name).unlink(missing_ok=True)
    leaving.unlink()
    inner = sorted((folder / _ARRAYS).rglob("*"), reverse=True)
    for path in (*inner, folder / _ARRAYS, folder):
        if path.is_dir() and not path.is_symlink():
            with suppress(OSError):  # not empty
                path.rmdir()


def clean(directory: Path) -> None:
    """Finish what a process that was killed had begun."""
    for path in list(directory.iterdir()):
        if re.fullmatch(re.escape(_UNDER_WAY) + "[0-9]+", path.name) and path.is_dir() and not path.is_symlink():
            if _is_own(path):
                shutil.rmtree(path, ignore_errors=True)
        elif path.name.startswith(_REPLACED) and _holds(path, _SETTINGS):
            place = directory / path.name.removeprefix(_REPLACED)
            if os.path.lexists(place):
                _discard(path, place.name)
            else:
                path.rename(place)
        elif re.fullmatch("[0-9]+(-jtrpo)?", path.name) and _holds(path, _LEAVING):
            with suppress(OSError, ValueError, TypeError, KeyError):
                remove(path)


def _is_own(writing: Path) -> bool:
    """Whether all in it is of a checkpoint that was being written."""
    names = [path.name for path in writing.iterdir()] if writing.is_dir() else []
    return all(name in (_SETTINGS, _ARRAYS) or name.startswith(f"{_ARRAYS}.orbax-checkpoint-tmp") for name in names)


def _put(writing: Path, directory: Path, update: int) -> None:
    place, old = directory / str(update), directory / f"{_REPLACED}{update}"
    if os.path.lexists(place) and not _holds(place, _SETTINGS):  # somebody else's
        place, old = directory / f"{update}-jtrpo", directory / f"{_REPLACED}{update}-jtrpo"
    if replaces := os.path.lexists(place):
        place.rename(old)
    writing.rename(place)
    sync(directory)
    if replaces:
        _discard(old, place.name)


def _discard(folder: Path, name: str) -> None:
    """Remove a checkpoint that another has replaced; what was not written with it stays, under another name."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        remove(folder)
    if folder.exists():
        set_aside(folder, f"replaced-{name}")


def _folder(directory: Path, update: int) -> Path:
    return found(directory).get(update, directory / str(update))


def _holds(folder: Path, name: str) -> bool:
    return os.path.lexists(folder / name)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _is_sound(run: dict[str, Any]) -> bool:
    tables = all(isinstance(run[name], dict) for name in ("settings", "files", "versions"))
    score = run["score"]
    return tables and all(map(_is_inside, run["files"])) and (score is None or type(score) in (int, float))


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def _digest(run: dict[str, Any]) -> str:
    return sha256(json.dumps(run, sort_keys=True).encode())


def _check_same(read: dict[str, np.ndarray], arrays: dict[str, Any]) -> None:
    wrong = read.keys() ^ arrays.keys()
    for name in read.keys() & arrays.keys():
        there, here = read[name], arrays[name]
        same = (there.shape, there.dtype) == (here.shape, here.dtype)
        # Of what lies on several processes, no one holds all.
        wrong |= set() if same and (not isinstance(here, np.ndarray) or there.tobytes() == here.tobytes()) else {name}
    if wrong:
        raise ValueError(f"what was written does not read back: {', '.join(sorted(wrong)[:5])}")
