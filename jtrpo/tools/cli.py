"""The command line: ``jtrpo train ENV``; ``evaluate``, ``watch``, ``plot`` and ``report`` for what it saved; ``envs``."""

import contextlib
import dataclasses
import inspect
import json
import logging
import os
import platform
import re
import shlex
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import jax
import numpy as np
import tyro

from jtrpo.core.check import check_count
from jtrpo.envs.gymnax import environment_ids
from jtrpo.tools.checkpoint import Checkpoints, Restored, describe, load, versions
from jtrpo.tools.compare import compare_runs
from jtrpo.tools.distributed import check_same, is_lead, join
from jtrpo.tools.plot import learning_curve, save_figure
from jtrpo.tools.progress import Progress
from jtrpo.tools.report import write_report
from jtrpo.tools.run import EVALUATION_EPISODES, run_training
from jtrpo.tools.stop import StopOnSignal
from jtrpo.tools.tensorboard import TensorBoard
from jtrpo.tools.wandb import WandB
from jtrpo.tools.watch import check_animation, play, save_animation
from jtrpo.training.config import Hyperparams, TrainConfig
from jtrpo.training.host import HostTrainer, trainer_for
from jtrpo.training.report import OnUpdate, guarded
from jtrpo.training.trainer import Metrics
from jtrpo.training.tuned import TUNED

LOST = 75
"""Exit code of a process whose run lost another one: sysexits' EX_TEMPFAIL, to be tried again."""


@dataclasses.dataclass(frozen=True)
class Train:
    """Train a policy by TRPO, evaluate it over 128 episodes, and sum the run up."""

    env: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ENV")]
    """Environment id, such as CartPole-v1; `jtrpo envs` lists them. Settings that are not given are those that ship for it.
    gymnasium:ID trains on an environment of Gymnasium."""
    seed: int = 0
    """Seed of the random key."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """End with the summary as one line of JSON."""
    plot: Path | None = None
    """Write the learning curve to this file (.png, .svg or .pdf)."""
    checkpoint_dir: Path | None = None
    """Save the run in this folder: checkpoints, config.json, metrics.csv, and at the end summary.json and curve.png."""
    checkpoint_every: int = 10
    """Updates between two checkpoints."""
    evaluate_every: int = 0
    """Updates between two evaluations, each saved as a checkpoint with its score; 0: only at the end."""
    keep: int = 3
    """Newest checkpoints to keep, besides the best by evaluation."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Go on from the newest whole checkpoint of the folder, or begin where there is none yet."""
    tensorboard: Path | None = None
    """Log to TensorBoard in this folder (extra tensorboard)."""
    wandb: str | None = None
    """Log to this project of Weights & Biases (extra wandb); WANDB_MODE=offline keeps it on this machine."""
    devices: int = 1
    """Devices of this machine to divide the environments among; 0: all there are."""
    distributed: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """One of several processes that train together on all their devices; the same command in each. Without the three options
    that follow, as the cluster has it (SLURM, Kubernetes, MPI or TPU)."""
    coordinator: str | None = None
    """Address and port of process 0 for --distributed, such as 10.0.0.1:1234."""
    num_processes: int | None = None
    """How many processes there are."""
    process_id: int | None = None
    """Which one this is, from 0. Process 0 reports and draws; checkpoints need a folder that all share."""
    quiet: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Show no progress; warnings and the summary stay."""
    debug_nans: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Stop at the first number that is not finite, and name its step and array."""


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Score the best checkpoint of a run by evaluation, or its newest where none was evaluated."""

    directory: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """Folder that was given as --checkpoint-dir."""
    episodes: int = 128
    """Episodes to play, with the most likely actions and again with sampled ones."""
    seed: int = 0
    """Seed of the random key."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """End with the result as one line of JSON."""


@dataclasses.dataclass(frozen=True)
class Watch:
    """Play one episode with the policy of a saved run, and write it as an animated picture."""

    directory: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """Folder that was given as --checkpoint-dir."""
    out: Path = Path("policy.gif")
    """Picture to write (.gif, .webp or .png)."""
    sample: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Draw actions from the policy, instead of its most likely ones."""
    seed: int = 0
    """Seed of the random key."""


@dataclasses.dataclass(frozen=True)
class Plot:
    """Draw the curves of saved runs; runs that differ in nothing but their seed are one curve with a band."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DIR...")]
    """Folders that were given as --checkpoint-dir."""
    metric: str = "episode.return_mean"
    """A column of their metrics.csv, such as policy.kl."""
    out: Path = Path("runs.png")
    """Picture to write (.png, .svg or .pdf)."""


@dataclasses.dataclass(frozen=True)
class Report:
    """Write a page about saved runs: settings, curves and evaluation, in one HTML file."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DIR...")]
    """Folders that were given as --checkpoint-dir."""
    out: Path = Path("report.html")
    """Page to write."""


@dataclasses.dataclass(frozen=True)
class Envs:
    """List the ids of the environments that can be trained on."""


def main(argv: list[str] | None = None) -> None:
    """Run the command line; exits with 2 and a message where the input is wrong."""
    if not (sys.argv[1:] if argv is None else argv):
        argv = ["--help"]
    command = _parse(argv, {})
    if (
        isinstance(command, Train) and command.env in TUNED
    ):  # again, with what ships for the environment as the defaults
        config, numbers = TUNED[command.env]
        command = _parse(argv, {**config, **numbers})
    _keep_compiled_programs()
    if argv is None:  # this process is ours alone
        _quiet_libraries()
    try:
        if isinstance(command, Train):
            stopped = _train(command, sys.argv[1:] if argv is None else argv)
            if stopped is not None:
                sys.exit(128 + stopped)
        else:
            acts: dict[type, Callable[[Any], None]] = {
                Evaluate: _evaluate, Watch: _watch, Plot: _plot, Report: _report, Envs: _envs,
            }  # fmt: skip
            acts[type(command)](command)
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        _tell_of_loss(error, sys.argv[1:] if argv is None else argv)
        _leave(LOST)
    except FloatingPointError as error:  # of --debug-nans: the input was right, the run was not
        _complain(error)
        _leave(1)
    except (TypeError, ValueError, FileNotFoundError, ImportError) as error:
        _leave(_complain(error))


def _parse(argv: list[str] | None, defaults: dict[str, Any]) -> Any:
    return tyro.cli(
        _with_settings(Train, defaults) | Evaluate | Watch | Plot | Report | Envs,  # type: ignore[arg-type]
        args=argv,
        prog="jtrpo",
        description="Trust Region Policy Optimization in JAX.",
        config=(tyro.conf.OmitSubcommandPrefixes,),
    )


def _quiet_libraries() -> None:
    """What orbax tells its developers about a full disk, late and at length, we tell people in our own words."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    sys.unraisablehook = lambda unraisable: None  # of its threads, after an error that was raised already


def _keep_compiled_programs() -> None:
    """Let the next process find what this one compiles, unless the user has chosen a place or switched it off."""
    if jax.config.values["jax_compilation_cache_dir"] is None:
        # One folder per machine: programs for one processor may not run on another that shares the home directory.
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jtrpo" / platform.node()
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def _say(text: str) -> None:
    print(f"jtrpo: {text}", file=sys.stderr, flush=True)


def _tell_of_loss(error: Exception, argv: list[str]) -> None:
    _say(f"another process of this run has ended or cannot be reached ({str(error).strip().splitlines()[0][:200]})")
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


def _complain(error: Exception) -> int:
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
    _check_folder("out", command.out)


def _check_folder(name: str, file: Path) -> None:
    if not file.absolute().parent.is_dir():
        raise ValueError(f"{name}={str(file)!r} lies in a folder that does not exist; make it first")


def _watch(command: Watch) -> None:
    check_count("seed", command.seed, at_least=0)
    check_animation("out", command.out)
    _check_folder("out", command.out)
    config, restored = load(command.directory)
    episode = play(config, restored.state, jax.random.key(command.seed), deterministic=not command.sample)
    save_animation(config, episode, command.out)
    end = "" if episode.finished else ", cut off there"
    print(f"{config.env}: {len(episode.returns)} steps, return {episode.returns[-1]:.1f}{end}; see {command.out}")


def _evaluate(command: Evaluate) -> None:
    check_count("episodes", command.episodes, at_least=1)
    check_count("seed", command.seed, at_least=0)
    config, restored = load(command.directory)
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
    check_count("seed", command.seed, at_least=0)
    check_count("checkpoint_every", command.checkpoint_every, at_least=1)
    check_count("evaluate_every", command.evaluate_every, at_least=0)
    mesh = _mesh(command)
    config = TrainConfig(env=command.env, mesh=mesh, **_settings(command, _CONFIG_FIELDS))
    hyperparams = Hyperparams(**_settings(command, _HYPERPARAM_FIELDS)).check()
    check_same(describe(config, hyperparams, command.seed))
    if command.plot is not None:
        _check_folder("plot", command.plot)
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
            run_of_wandb = WandB(config, hyperparams, command.seed, project=command.wandb)
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
    if command.plot is not None:
        title = f"{command.env}, seed {command.seed}"
        save_figure(lambda axes: learning_curve(run.metrics, axes).set_title(title), command.plot)
    print(json.dumps(run.summary) if command.json else _sentence(run.summary or {}))
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
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        restored = checkpoints.restore()
    for warning in caught:
        _say(str(warning.message))
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


# The settings become options by their own definitions: a new field is a new option, its help the class's docstring.
_CONFIG_FIELDS = [
    (field.name, field.type, field.default)
    for field in dataclasses.fields(TrainConfig)
    if field.name != "env" and field.metadata.get("cli", True)
]
_HYPERPARAM_FIELDS = [(name, float, default) for name, default in Hyperparams._field_defaults.items()]


def _with_settings(command: type, defaults: dict[str, Any]) -> type:
    fields: list[Any] = []
    for owner, settings in ((TrainConfig, _CONFIG_FIELDS), (Hyperparams, _HYPERPARAM_FIELDS)):
        texts = _attribute_texts(owner)
        fields += [
            (name, Annotated[kind, tyro.conf.arg(help=texts[name])], defaults.get(name, default))
            for name, kind, default in settings
        ]
    extended = dataclasses.make_dataclass(command.__name__, fields, bases=(command,), frozen=True)
    extended.__doc__ = command.__doc__
    return extended


def _settings(command: Any, fields: list[tuple]) -> dict[str, Any]:
    return {name: getattr(command, name) for name, *_ in fields}


def _attribute_texts(owner: type) -> dict[str, str]:
    section = inspect.cleandoc(owner.__doc__ or "").split("Attributes:")[1].split("\n\n")[0]
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", section, re.MULTILINE)
    return {name: re.sub(r"\s+", " ", text).replace("`", "") for name, text in entries}
