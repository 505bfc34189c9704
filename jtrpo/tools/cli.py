"""The command line ``jtrpo``: parse what was typed, run the command, and turn errors into messages and exit codes."""

import io
import os
import platform
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import NoReturn

import jax

from jtrpo.tools.console import quiet_libraries, resume_command, say, warnings_in_one_line
from jtrpo.tools.distributed import is_lead
from jtrpo.tools.files import make_folder
from jtrpo.tools.options import parse

LOST = 75
"""Exit code of a process whose run lost another one: sysexits' EX_TEMPFAIL, to be tried again."""


def main(argv: list[str] | None = None) -> None:
    """Run the command line; exits with 2 and a message where the input is wrong.

    Args:
        argv: what was typed after ``jtrpo``; ``None``: what this process was started with, which is then all for this.
    """
    alone = argv is None
    if alone:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")  # a terminal may lack characters
    typed = (sys.argv[1:] if argv is None else argv) or ["--help"]
    try:
        _check_not_empty(typed)
        command = parse(typed)
        _keep_compiled_programs()
        if alone:
            quiet_libraries()
        with warnings_in_one_line():
            command.run()
        if sys.stdout is not None:  # None where it was closed
            sys.stdout.flush()
    except BrokenPipeError:  # the reader has closed the pipe, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _leave(128 + signal.SIGPIPE)
    except KeyboardInterrupt:  # before training began, or a second time
        say("interrupted")
        _leave(128 + signal.SIGINT)
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() > 1:
            say(f"another process of this run has ended or cannot be reached ({_first_line(error)})")
            again = f"go on, on as many hosts as are left, with: {resume_command(typed)}"
            say(f"the last checkpoint is whole; {again}")
            _leave(LOST)
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        say(f"the device has too little memory; lower --num-envs, --num-steps or --hidden-sizes ({_first_line(error)})")
        _leave(1)
    except FloatingPointError as error:  # of --debug-nans
        say(str(error))
        _leave(1)
    except OSError as error:
        _refuse(f"{error.filename!r}: {error.strerror}" if error.filename and error.strerror else error)
    except (TypeError, ValueError, ImportError) as error:
        _refuse(error)
    except Exception:  # of a simulator, say
        if not jax.distributed.is_initialized():
            raise
        traceback.print_exc()  # and leave: at a normal exit JAX would wait for the other processes
        _leave(1)


def _check_not_empty(typed: list[str]) -> None:
    for i, argument in enumerate(typed):
        if not argument or (argument.startswith("--") and argument.endswith("=")):  # would be the current folder
            name = f"{argument.rstrip('=')} " if argument else f"what follows {typed[i - 1]} " if i else ""
            raise ValueError(f"{name}must not be empty (a variable of the shell that is not set?)")


def _keep_compiled_programs() -> None:
    """Let the next process find what this one compiles, unless the user has chosen a place or switched it off."""
    if jax.config.values["jax_compilation_cache_dir"] is None:
        # One folder per machine: programs for one processor may not run on another that shares the home directory.
        try:
            cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jtrpo" / platform.node()
            cache = make_folder(cache)
        except (RuntimeError, ValueError):  # no home, or not ours: compiled programs are not kept
            return
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def _leave(code: int) -> NoReturn:
    """Exit; with several processes without waiting for the others, which may be waiting for this one."""
    if jax.distributed.is_initialized():
        if is_lead():
            time.sleep(1)  # let the other processes print the same error before this one ends the run
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


def _refuse(error: Exception | str) -> NoReturn:
    say(str(error))
    _leave(2)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200]
