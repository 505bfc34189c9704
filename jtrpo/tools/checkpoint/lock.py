"""One process at a time writes into a run's folder."""

import errno
import gc
import json
import os
import socket
import time
import warnings
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

FILE = ".jtrpo-lock"

_descriptors: weakref.WeakSet["Lock"] = weakref.WeakSet()


class Lock:
    """A lock on a folder, held until it is released or the process has ended, in whatever way.

    The operating system holds it, for the file ``.jtrpo-lock``; what is written there only tells people who it is. Where the
    file system has no locks, a warning says so and nobody is refused.

    Args:
        folder: that exists.
        argument: by which it was given.
    """

    def __init__(self, folder: Path, argument: str = "checkpoint_dir"):
        self._folder, self._argument = folder, argument
        self._close: Any = None

    def __bool__(self) -> bool:
        """Whether it is held."""
        return self._close is not None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def acquire(self) -> None:
        """Take it, where it is not held already.

        Raises:
            ValueError: another process holds it, or another lock of this one.
        """
        if self:
            return
        file = self._folder / FILE
        try:
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        except OSError as error:
            raise ValueError(
                f"{self._argument}={str(self._folder)!r}: {FILE} cannot be opened ({error.strerror}); move it away, or choose "
                "another folder"
            ) from error
        self._close = weakref.finalize(self, os.close, descriptor)
        try:
            _lock(descriptor)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                holder = _read(descriptor)
                self.release()
                raise ValueError(self._refusal(holder)) from error
            warnings.warn(
                f"the file system of {str(self._folder)!r} knows no locks ({error.strerror}): see to it that no other process "
                "trains in this folder",
                stacklevel=3,
            )
        _descriptors.add(self)
        mine = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        if os.fstat(descriptor).st_size == 0 or _read(descriptor):  # a file of other content is left as it is
            with suppress(OSError):  # the disk is full: the lock holds without it
                os.truncate(descriptor, 0)
                os.lseek(descriptor, 0, os.SEEK_SET)
                os.write(descriptor, json.dumps(mine).encode())

    def release(self) -> None:
        """Give it back. The file stays: removing it would let two others each lock a file of their own."""
        if self:
            close, self._close = self._close, None
            close()

    def _refusal(self, holder: dict[str, Any]) -> str:
        who = (
            f"process {holder.get('pid')} on {holder.get('host')} since {holder.get('since')}"
            if holder
            else "another process"
        )
        remedy = "wait until it has ended, stop it, or choose another folder"
        if holder.get("pid") == os.getpid() and holder.get("host") == socket.gethostname():
            who, remedy = (
                "this very process",
                "end that run first (leave its `with Checkpoints(...)`, or restart the kernel), or choose another folder",
            )
        return f"{self._argument}={str(self._folder)!r} is in use by {who}; {remedy}"


def _lock(descriptor: int) -> None:
    if fcntl is None:
        raise OSError(errno.ENOSYS, "no locks")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        gc.collect()  # releases the lock of a run in this process that was dropped without being closed
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _read(descriptor: int) -> dict[str, Any]:
    try:
        os.lseek(descriptor, 0, os.SEEK_SET)
        holder = json.loads(os.read(descriptor, 4096))
        return holder if isinstance(holder, dict) and {"pid", "host", "since"} <= holder.keys() else {}
    except (OSError, ValueError):
        return {}


def _release_in_child() -> None:
    """Otherwise a forked child would hold the lock after its parent has ended."""
    for lock in list(_descriptors):
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_release_in_child)
