"""The command line: ``jtrpo train ENV``; ``evaluate``, ``watch``, ``plot`` and ``report`` for what it saved; ``envs``."""

import contextlib
import io
import json
import logging
import os
import platform
import shlex
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np

from jtrpo.core.check import check_count, check_seed
from jtrpo.envs.gymnax import environment_ids
from jtrpo.tools.checkpoint import Checkpoints, Restored, load
from jtrpo.tools.compare import compare_runs
from jtrpo.tools.distributed import check_same, is_lead, join
from jtrpo.tools.files import check_file, writable
from jtrpo.tools.fingerprint import describe, versions
from jtrpo.tools.options import Envs, Evaluate, Plot, Report, Train, Watch, parse
from jtrpo.tools.plot import check_picture, learning_curve, save_figure
from jtrpo.tools.progress import Progress
from jtrpo.tools.report import write_report
from jtrpo.tools.run import EVALUATION_EPISODES, run_training
from jtrpo.tools.stop import StopOnSignal
from jtrpo.tools.tensorboard import TensorBoard
from jtrpo.tools.wandb import WandB
from jtrpo.tools.watch import check_animation, play, save_animation
from jtrpo.training.host.trainer import HostTrainer, trainer_for
from jtrpo.training.report import OnUpdate, guarded
from jtrpo.training.state import Metrics
from jtrpo.training.tuned import tuned

LOST = 75
"""Exit code of a process whose run lost another one: sysexits' EX_TEMPFAIL, to be tried again."""


def main(argv: list[str] | None = None) -> None:
    """Run the command line; exits with 2 and a message where the input is wrong."""
    alone = argv is None  # this process is ours
    if alone:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")  # what a terminal of few characters cannot show
    if not (sys.argv[1:] if alone else argv):
        argv = ["--help"]
    typed = sys.argv[1:] if argv is None else argv
    try:
        for i, one in enumerate(typed):
            if not one or (one.startswith("--") and one.endswith("=")):  # as a path it would be this very folder
                name = f"{one.rstrip('=')} " if one else f"what follows {typed[i - 1]} " if i else ""
                raise ValueError(f"{name}must not be empty (a variable of the shell that is not set?)")
        command = parse(argv)
        _keep_compiled_programs()
        if alone:
            _quiet_libraries()
        with _warnings_in_short():
            stopped = _act(command, typed)
        if sys.stdout is not None:  # which was closed
            sys.stdout.flush()
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _leave(128 + signal.SIGPIPE)
    except KeyboardInterrupt:  # before training began, or a second time
        _say("interrupted")
        _leave(128 + signal.SIGINT)
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() > 1:
            _tell_of_loss(error, typed)
            _leave(LOST)
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        _say(
            f"the device has too little memory; lower --num-envs, --num-steps or --hidden-sizes ({_first_line(error)})"
        )
        _leave(1)
    except FloatingPointError as error:  # of --debug-nans: the input was right, the run was not
        _complain(error)
        _leave(1)
    except OSError as error:
        what = f"{error.filename!r}: {error.strerror}" if error.filename and error.strerror else str(error)
        _leave(_complain(what))
    except (TypeError, ValueError, ImportError) as error:
        _leave(_complain(error))
    if stopped is not None:
        sys.exit(128 + stopped)


def _act(command: Any, argv: list[str]) -> signal.Signals | None:
    """Do what was asked for; return the signal that ended it early."""
    if isinstance(command, Train):
        return _train(command, argv)
    acts: dict[type, Callable[[Any], None]] = {
        Evaluate: _evaluate, Watch: _watch, Plot: _plot, Report: _report, Envs: _envs,
    }  # fmt: skip
    acts[type(command)](command)
    return None


@contextlib.contextmanager
def _warnings_in_short() -> Iterator[None]:
    """Tell of a warning in one line, without the line of code that it came from."""
    with warnings.catch_warnings():
        warnings.filterwarnings("always", category=UserWarning, module=r"jtrpo\.|__main__")
        before = warnings.showwarning

        def show(message: Any, category: type, *where: Any) -> None:
            _say(str(message)) if category is UserWarning else before(message, category, *where)

        warnings.showwarning = show  # type: ignore[assignment]
        yield


def _quiet_libraries() -> None:
    """What orbax tells its developers about a full disk, late and at length, we tell people in our own words."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    sys.unraisablehook = lambda unraisable: None  # of its threads, after an error that was raised already


def _keep_compiled_programs() -> None:
    """Let the next process find what this one compiles, unless the user has chosen a place or switched it off."""
    if jax.config.values["jax_compilation_cache_dir"] is None:
        # One folder per machine: programs for one processor may not run on another that shares the home directory.
        try:
            cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jtrpo" / platform.node()
            cache = writable(cache)
        except (RuntimeError, ValueError):  # no home, or not ours: compiled programs are not kept
            return
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def _say(text: str) -> None:
    print(f"jtrpo: {text}", file=sys.stderr, flush=True)


def _tell_of_loss(error: Exception, argv: list[str]) -> None:
    _say(f"another process of this run has ended or cannot be reached ({_first_line(error)})")
    again = shlex.join(["jtrpo", *argv, *([] if "--resume" in argv else ["--resume"])])
    _say(f"the last checkpoint is whole; go on, on as many hosts as are left, with: {again}")


def _leave(code: int) -> NoReturn:
    """Exit; as one of several processes at once, for an orderly end would wait for the others, who may wait for this one."""
    if jax.distributed.is_initialized():
        if is_lead():
            time.sleep(1)  # whoever has the same to say can say it before the run falls apart
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200]


def _complain(error: Exception | str) -> int:
    _say(str(error))
    return 2


def _envs(command: Envs) -> None:
    print("\n".join(environment_ids()))


def _plot(command: Plot) -> None:
    _check_runs(command)
    save_figure(lambda axes: compare_runs(list(command.runs), command.metric, axes), command.out)
    print(f"see {command.out}")


def _report(command: Report) -> None:
    _check_runs(command)
    write_report(list(command.runs), command.out)
    print(f"see {command.out}")


def _check_runs(command: Plot | Report) -> None:
    if not command.runs:
        raise ValueError("name at least one folder that was given as --checkpoint-dir")
    if isinstance(command, Plot):
        check_picture("out", command.out)
    check_file("out", command.out)


def _watch(command: Watch) -> None:
    check_seed("seed", command.seed)
    check_animation("out", command.out)
    check_file("out", command.out)
    config, restored = load(command.directory, command.env)
    episode = play(config, restored.state, jax.random.key(command.seed), deterministic=not command.sample)
    save_animation(config, episode, command.out)
    end = "" if episode.finished else ", cut off there"
    print(f"{config.env}: {len(episode.returns)} steps, return {episode.returns[-1]:.1f}{end}; see {command.out}")


def _evaluate(command: Evaluate) -> None:
    check_count("episodes", command.episodes, at_least=1)
    check_seed("seed", command.seed)
    config, restored = load(command.directory, command.env)
    trainer = trainer_for(config)
    evaluate = trainer.evaluate
    if not isinstance(trainer, HostTrainer):
        evaluate = jax.jit(evaluate, static_argnums=2, static_argnames="deterministic")
    result: dict[str, Any] = {"env": config.env, "update": restored.update, "episodes": command.episodes}
    for name, deterministic in (("deterministic", True), ("stochastic", False)):
        key = jax.random.key(command.seed)
        returns = evaluate(restored.state, key, command.episodes, deterministic=deterministic)
        result |= {f"{name}_return": float(returns.mean()), f"{name}_std": float(returns.std())}
    print(
        json.dumps(result)
        if command.json
        else f"{config.env}, after {restored.update} updates, {command.episodes} episodes: return "
        f"{result['deterministic_return']:.1f} +- {result['deterministic_std']:.1f} with the most likely actions, "
        f"{result['stochastic_return']:.1f} +- {result['stochastic_std']:.1f} with sampled ones"
    )


def _train(command: Any, argv: list[str]) -> signal.Signals | None:
    """Train; return the signal that ended it early."""
    check_seed("seed", command.seed)
    check_count("checkpoint_every", command.checkpoint_every, at_least=1)
    check_count("evaluate_every", command.evaluate_every, at_least=0)
    if command.plot is not None:
        check_picture("plot", command.plot)
    if command.tensorboard is not None:
        writable(command.tensorboard, "tensorboard")
    mesh = _mesh(command)
    config, hyperparams = tuned(command.env, **command.given, **({} if mesh is None else {"mesh": mesh}))
    check_same(describe(config, hyperparams.check(), command.seed))
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(StopOnSignal())
        checkpoints = restored = None
        if command.checkpoint_dir is not None:
            folder = Checkpoints(command.checkpoint_dir, config, hyperparams, command.seed, keep=command.keep)
            checkpoints = stack.enter_context(folder)
            restored = _restore(checkpoints, command.resume)
        elif command.resume:
            raise ValueError("resume needs the folder to go on from; give --checkpoint-dir")
        listeners: list[OnUpdate] = [
            stack.enter_context(Progress(config, command.seed, quiet=command.quiet or not is_lead()))
        ]
        if command.tensorboard is not None and is_lead():
            listeners.append(guarded(stack.enter_context(TensorBoard(command.tensorboard))))
        if command.wandb is not None and is_lead():
            folder_of_run = None if checkpoints is None else checkpoints.directory
            run_of_wandb = WandB(
                config, hyperparams, command.seed, folder=folder_of_run, resume=command.resume, project=command.wandb
            )
            listeners.append(guarded(stack.enter_context(run_of_wandb)))

        def report(update: int, metrics: Metrics) -> None:
            for listener in listeners:
                listener(update, metrics)

        run = run_training(
            config,
            command.seed,
            hyperparams,
            report,
            checkpoints=checkpoints,
            restored=restored,
            checkpoint_every=command.checkpoint_every,
            evaluate_every=command.evaluate_every,
            stop=stop,
            debug_nans=command.debug_nans,
        )
    if run.summary is None:
        received = stop.received or signal.SIGTERM  # which another process got
        _say(f"stopped by {received.name} after update {int(run.state.update)} of {config.num_updates}")
        again = shlex.join(["jtrpo", *argv, *([] if command.resume else ["--resume"])])
        _say("nothing was saved: no --checkpoint-dir was given" if checkpoints is None else f"go on with: {again}")
        return received
    if not is_lead():
        return None
    print(json.dumps(run.summary) if command.json else _sentence(run.summary or {}), flush=True)
    if command.plot is not None:
        title = f"{command.env}, seed {command.seed}"
        save_figure(lambda axes: learning_curve(run.metrics, axes).set_title(title), command.plot)
    written = [str(path) for path in (command.plot, command.checkpoint_dir) if path is not None]
    if written and not command.json:
        print(f"see {' and '.join(written)}", flush=True)
    return None


def _mesh(command: Any) -> jax.sharding.Mesh | None:
    check_count("devices", command.devices, at_least=0)
    if command.distributed:
        join(command.coordinator, command.num_processes, command.process_id)
    there = jax.devices()
    if command.devices > len(there):
        raise ValueError(f"devices must be at most the {len(there)} that JAX sees here; got {command.devices}")
    count = len(there) if command.distributed else command.devices or len(there)
    return None if count == 1 else jax.sharding.Mesh(np.array(there[:count]), ("envs",))


def _restore(checkpoints: Checkpoints, resume: bool) -> Restored | None:
    """What to go on from, with a word on standard error about all that is not as expected."""
    checkpoints.claim()
    updates = checkpoints.updates()
    if updates and not resume:
        raise ValueError(
            f"checkpoint_dir={str(checkpoints.directory)!r} already holds checkpoints, up to update {updates[-1]}; add --resume "
            "to go on from there, or choose another folder"
        )
    if not updates:
        if resume:
            _say(f"{str(checkpoints.directory)!r} holds no checkpoint yet: beginning")
        return None
    restored = checkpoints.restore()
    if restored.versions != versions():
        _say(f"the checkpoint was written by {restored.versions}, this is {versions()}: the last bits may differ")
    _say(f"going on after update {restored.update}")
    return restored


def _sentence(summary: dict[str, Any]) -> str:
    reasons = {**summary["refused"], "critic": summary["critic_refused"]}
    refused = ", ".join(f"{number} x {reason}" for reason, number in reasons.items() if number)
    invalid = summary["invalid_samples"]
    return (
        f"{summary['env']}: return {summary['evaluation_return']:.1f} +- {summary['evaluation_std']:.1f} over "
        f"{EVALUATION_EPISODES} episodes after {summary['total_timesteps']:,} steps\n"
        f"{summary['steps_per_second']:,.0f} steps/s in {summary['run_seconds']:.1f} s, "
        f"compiled in {summary['compile_seconds']:.1f} s; {summary['accepted_fraction']:.0%} of the updates accepted, "
        f"largest KL {summary['max_kl_seen']:.4f}"
        + (f"; refused: {refused}" if refused else "")
        + (f"; {invalid:,} samples that were not finite left out" if invalid else "")
    )
