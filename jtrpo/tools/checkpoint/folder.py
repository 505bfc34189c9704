"""One checkpoint as a folder: written under another name until it is whole, read by its digests, removed file by file."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from jtrpo.tools.checkpoint.arrays import read_arrays, write_arrays
from jtrpo.tools.distributed import is_lead
from jtrpo.tools.files import set_aside, sync

FORMAT = 1
"""Version of what is written; a checkpoint of a newer one is refused."""

_SETTINGS = "jtrpo.json"
_REMOVING = ".jtrpo-leaving.json"
"""The settings' name while the files that they list are being removed."""
_ARRAYS = "arrays"
_WRITING = ".jtrpo-"
_REPLACED = ".jtrpo-replaced-"


class Damaged(ValueError):
    """A checkpoint that is not what was written."""


def checkpoint_folders(directory: Path) -> dict[int, Path]:
    """The checkpoints in a folder, by the updates done, oldest first; a folder that jtrpo did not write is none."""
    folders: dict[int, Path] = {}
    for path in sorted(directory.iterdir(), key=lambda path: -len(path.name)):  # the plain name last, so that it wins
        match = re.fullmatch(r"(0|[1-9][0-9]*)(-jtrpo)?", path.name)
        if match and (_holds(path, _SETTINGS) or (_holds(path / _ARRAYS, "_METADATA") and not _holds(path, _REMOVING))):
            folders[int(match[1])] = path
    return dict(sorted(folders.items()))


def updates_in(directory: Path) -> list[int]:
    """Checkpoints in a folder, by the updates done, oldest first."""
    return list(checkpoint_folders(directory))


def read_metadata(directory: Path, update: int) -> dict[str, Any]:
    """The metadata of a checkpoint: update, score, settings, versions, and the digests of its files.

    Raises:
        Damaged: it cannot be read, or is not what was written.
        ValueError: a newer format.
    """
    try:
        metadata = json.loads((_folder(directory, update) / _SETTINGS).read_text(encoding="utf-8"))
        newer = isinstance(metadata["format"], int) and metadata["format"] > FORMAT
        whole = (
            metadata.pop("digest") == _digest(metadata) and metadata["update"] == update and _is_well_formed(metadata)
        )
    except FileNotFoundError as error:
        raise Damaged(f"it has no {_SETTINGS}") from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Damaged(f"its {_SETTINGS} cannot be read") from error
    if newer:
        raise ValueError(
            f"checkpoint {update} in {str(directory)!r} has format {metadata['format']}; this version of jtrpo reads up to "
            f"{FORMAT}: upgrade jtrpo"
        )
    if not whole:
        raise Damaged(f"its {_SETTINGS} was changed")
    return metadata


def read(directory: Path, update: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The metadata of a checkpoint and its arrays, after every file was compared with its digest.

    Raises:
        Damaged: it is not what was written.
        ValueError: a newer format, of jtrpo's or of orbax's.
    """
    metadata, folder = read_metadata(directory, update), _folder(directory, update)
    for name, stored in metadata["files"].items():
        try:
            if _sha256((folder / name).read_bytes()) != stored:
                raise Damaged(f"{name} was changed")
        except OSError as error:
            raise Damaged(f"{name} cannot be read ({error.strerror})") from error
    try:
        return metadata, read_arrays(folder / _ARRAYS)
    except Exception as error:  # the digests are right, so it is not damaged
        raise ValueError(
            f"checkpoint {update} in {str(directory)!r} is whole, but the installed orbax cannot read it "
            f"({' '.join(str(error).split())[:200]}); use the versions that wrote it, {metadata['versions']}"
        ) from error


def write(directory: Path, metadata: dict[str, Any], arrays: dict[str, Any], *, verify: bool) -> None:
    """Write a checkpoint, in place of one of the same update. Several processes write together, and process 0 puts it in place.

    Args:
        directory: of the run.
        metadata: update, score, settings and versions; the files and their digests are added.
        arrays: of the state, by name.
        verify: read the arrays back before they count, instead of the files alone.
    """
    writing = directory / f"{_WRITING}{metadata['update']}"
    try:
        write_arrays(writing / _ARRAYS, arrays)
        if verify:  # orbax needs all processes for this, too
            _check_equal(read_arrays(writing / _ARRAYS), arrays)
        if is_lead():
            files = {
                path.relative_to(writing).as_posix(): _sha256(path.read_bytes()) for path in _files(writing / _ARRAYS)
            }
            metadata = {**metadata, "files": files}
            metadata["digest"] = _digest(metadata)
            (writing / _SETTINGS).write_text(json.dumps(metadata, indent=1) + "\n", encoding="utf-8")
            sync(writing / _SETTINGS)
            sync(writing)
            _move_into_place(writing, directory, metadata["update"])  # from here on the checkpoint exists
    except Exception:
        if is_lead() and _is_ours(writing):
            shutil.rmtree(writing, ignore_errors=True)
        raise


def remove(folder: Path) -> None:
    """Remove what was written there, and the folder unless it holds something else. After a kill, :func:`recover` goes on."""
    removing = folder / _REMOVING
    if _holds(folder, _SETTINGS):
        os.replace(folder / _SETTINGS, removing)
    files = json.loads(removing.read_text(encoding="utf-8"))["files"]
    for name in filter(_is_inside, files):
        (folder / name).unlink(missing_ok=True)
    removing.unlink()
    inner = sorted((folder / _ARRAYS).rglob("*"), reverse=True)
    for path in (*inner, folder / _ARRAYS, folder):
        if path.is_dir() and not path.is_symlink():
            with suppress(OSError):  # not empty
                path.rmdir()


def recover(directory: Path) -> None:
    """Finish or undo what a process was doing when it was killed."""
    for path in list(directory.iterdir()):
        if re.fullmatch(re.escape(_WRITING) + "[0-9]+", path.name) and path.is_dir() and not path.is_symlink():
            if _is_ours(path):
                shutil.rmtree(path, ignore_errors=True)
        elif path.name.startswith(_REPLACED) and _holds(path, _SETTINGS):
            place = directory / path.name.removeprefix(_REPLACED)
            if os.path.lexists(place):
                _discard(path, place.name)
            else:
                path.rename(place)
        elif re.fullmatch("[0-9]+(-jtrpo)?", path.name) and _holds(path, _REMOVING):
            with suppress(OSError, ValueError, TypeError, KeyError):
                remove(path)


def _is_ours(writing: Path) -> bool:
    """Whether all in it is of a checkpoint that was being written."""
    names = [path.name for path in writing.iterdir()] if writing.is_dir() else []
    return all(name in (_SETTINGS, _ARRAYS) or name.startswith(f"{_ARRAYS}.orbax-checkpoint-tmp") for name in names)


def _move_into_place(writing: Path, directory: Path, update: int) -> None:
    place, old = directory / str(update), directory / f"{_REPLACED}{update}"
    if os.path.lexists(place) and not _holds(place, _SETTINGS):  # not written by jtrpo
        place, old = directory / f"{update}-jtrpo", directory / f"{_REPLACED}{update}-jtrpo"
    if replaces := os.path.lexists(place):
        place.rename(old)
    writing.rename(place)
    sync(directory)
    if replaces:
        _discard(old, place.name)


def _discard(folder: Path, name: str) -> None:
    """Remove a checkpoint that was replaced; files that were not written with it stay, under another name."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        remove(folder)
    if folder.exists():
        set_aside(folder, f"replaced-{name}")


def _folder(directory: Path, update: int) -> Path:
    return checkpoint_folders(directory).get(update, directory / str(update))


def _holds(folder: Path, name: str) -> bool:
    return os.path.lexists(folder / name)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _is_well_formed(metadata: dict[str, Any]) -> bool:
    tables = all(isinstance(metadata[name], dict) for name in ("settings", "files", "versions"))
    score = metadata["score"]
    return tables and all(map(_is_inside, metadata["files"])) and (score is None or type(score) in (int, float))


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def _digest(metadata: dict[str, Any]) -> str:
    return _sha256(json.dumps(metadata, sort_keys=True).encode())


def _check_equal(read: dict[str, np.ndarray], arrays: dict[str, Any]) -> None:
    wrong = read.keys() ^ arrays.keys()
    for name in read.keys() & arrays.keys():
        there, here = read[name], arrays[name]
        same = (there.shape, there.dtype) == (here.shape, here.dtype)
        # An array that is spread over several processes cannot be compared in one of them.
        wrong |= set() if same and (not isinstance(here, np.ndarray) or there.tobytes() == here.tobytes()) else {name}
    if wrong:
        raise ValueError(f"what was written does not read back: {', '.join(sorted(wrong)[:5])}")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
