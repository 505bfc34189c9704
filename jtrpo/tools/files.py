"""Writing files so that they survive a power failure, and checks of paths before anything is written."""

import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any


def absolute(directory: str | Path, name: str = "checkpoint_dir") -> Path:
    """The path from the root, with ``~`` as the home directory where there is one.

    Raises:
        TypeError: neither a string nor a path.
        ValueError: it holds a zero byte.
    """
    if not isinstance(directory, str | os.PathLike):
        raise TypeError(f"{name} must be a path, a string or a pathlib.Path; got {directory!r}")
    path = Path(directory)
    if "\0" in str(path):
        raise ValueError(f"{name}={str(directory)!r} holds a zero byte, which no path can")
    with suppress(RuntimeError):  # no home directory: `~` stays as it is
        path = path.expanduser()
    return path.absolute()


def make_folder(directory: str | Path, name: str = "checkpoint_dir") -> Path:
    """Make a folder, check that it can be written to, and return its path from the root.

    Raises:
        ValueError: it is a file, cannot be made or cannot be written to.
    """
    path = absolute(directory, name)
    try:
        if path.exists() and not path.is_dir():
            raise ValueError(f"{name}={str(directory)!r} is a file; name a folder")
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ValueError(
            f"{name}={str(directory)!r} cannot be written to ({error.strerror}); choose a folder of your own"
        ) from error
    return path


def check_file(name: str, file: Path) -> None:
    """Raise ``ValueError`` where ``file`` cannot be written: its folder is missing or closed, or it is a folder."""
    try:
        if not file.absolute().parent.is_dir():
            raise ValueError(f"{name}={str(file)!r} lies in a folder that does not exist; make it first")
        if file.is_dir():
            raise ValueError(f"{name}={str(file)!r} is a folder; name a file")
    except OSError as error:
        raise ValueError(f"{name}={str(file)!r} cannot be written ({error.strerror}); name another file") from error
    if not os.access(file if file.exists() else file.absolute().parent, os.W_OK):
        raise ValueError(f"{name}={str(file)!r} cannot be written (Permission denied); name another file")


def sync(path: Path) -> None:
    """Return once a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():  # some file systems cannot sync a folder, and need not
            raise
    finally:
        os.close(descriptor)


def atomic_write(file: Path, write: Callable[[Path], Any]) -> None:
    """Write a temporary file beside ``file`` and rename it: what was there stays until the new content is on the disk.

    Raises:
        ValueError: it cannot be written.
    """
    temporary = file.with_name(f".jtrpo-{file.name}")
    try:
        write(temporary)
        sync(temporary)
        os.replace(temporary, file)
        sync(file.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise ValueError(
            f"{str(file)!r} could not be written ({error.strerror}); checkpoints and metrics before it are whole. Make room, or "
            "mend the folder, and go on from the last checkpoint"
        ) from error


def set_aside(path: Path, name: str) -> Path:
    """Rename within the folder, to ``name`` or the first of ``name-2``, ``name-3``, ... that is free."""
    aside, count = path.with_name(name), 1
    while os.path.lexists(aside):
        count += 1
        aside = path.with_name(f"{name}-{count}")
    return path.rename(aside)
