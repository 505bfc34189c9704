"""What the command line says on standard error."""

import contextlib
import logging
import shlex
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any


def say(text: str) -> None:
    """Print a line on standard error."""
    print(f"jtrpo: {text}", file=sys.stderr, flush=True)


def resume_command(argv: Sequence[str]) -> str:
    """What to type in order to go on with a run that was begun by ``argv``."""
    return shlex.join(["jtrpo", *argv, *([] if "--resume" in argv else ["--resume"])])


@contextlib.contextmanager
def warnings_in_one_line() -> Iterator[None]:
    """Show a warning in one line, without the line of code that it came from."""
    with warnings.catch_warnings():
        warnings.filterwarnings("always", category=UserWarning, module=r"jtrpo\.|__main__")
        before = warnings.showwarning

        def show(message: Any, category: type, *where: Any) -> None:
            say(str(message)) if category is UserWarning else before(message, category, *where)

        warnings.showwarning = show  # type: ignore[assignment]
        yield


def quiet_libraries() -> None:
    """Hide what orbax logs for its developers about a full disk, late and at length: the error says it in one line."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    sys.unraisablehook = lambda unraisable: None  # errors of orbax's threads that were raised already
