"""``jtrpo train ENV``: train, save, report, evaluate."""

import json
import signal
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NoReturn

import jax
import numpy as np
import tyro

from jtrpo.core.check import check_count, check_seed
from jtrpo.tools.checkpoint import Checkpoints, Restored
from jtrpo.tools.console import resume_command, say
from jtrpo.tools.distributed import check_same_settings, is_lead, join
from jtrpo.tools.files import make_folder
from jtrpo.tools.film import Film, Show
from jtrpo.tools.plot import check_picture, learning_curve, save_figure
from jtrpo.tools.progress import Progress
from jtrpo.tools.run import EVALUATION_EPISODES, OnState, run_training
from jtrpo.tools.settings import describe, versions
from jtrpo.tools.stop import StopOnSignal
from jtrpo.tools.tensorboard import TensorBoard
from jtrpo.tools.wandb import WandB
from jtrpo.training.config import TrainConfig
from jtrpo.training.hyperparams import Hyperparams
from jtrpo.training.report import OnUpdate, guarded
from jtrpo.training.state import Metrics
from jtrpo.training.tuned import tuned

_OF_COSTS = {"cost_limit", "cost_gamma", "multiplier_gain"}


@dataclass(frozen=True)
class Train:
    """Train a policy by TRPO, evaluate it over 128 episodes, and sum the run up."""

    env: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ENV")]
    """Environment id, such as CartPole-v1; `jtrpo envs` lists them. Settings that are not given are those that ship for it.
    A suite's prefix and id, such as gymnasium:Hopper-v5, train on environments of that suite."""
    seed: int = 0
    """Seed of the random key, below 2**32."""
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
    watch_every: int = 0
    """Updates between two animated pictures of an episode, in the run's folder and in the loggers (environments that can be
    drawn); 0: none."""
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
    given: tyro.conf.Suppress[dict[str, Any]] = field(default_factory=dict)
    """Settings that the user gave, by name."""
    argv: tyro.conf.Suppress[tuple[str, ...]] = ()
    """What the user typed."""

    def run(self) -> None:
        """Train and print the summary; a run that a signal stopped exits with 128 and the signal's number."""
        self._check()
        if self.distributed:
            join(self.coordinator, self.num_processes, self.process_id)
        mesh = _mesh(self.devices, distributed=self.distributed)
        config, hyperparams = tuned(self.env, **self.given, **({} if mesh is None else {"mesh": mesh}))
        if config.constraint_method is None and (costs := sorted(self.given.keys() & _OF_COSTS)):
            raise ValueError(
                f"{costs[0]} says nothing without constraint_method; give --constraint-method, or leave it out"
            )
        check_same_settings(describe(config, hyperparams.check(), self.seed))
        with ExitStack() as stack:
            stop = stack.enter_context(StopOnSignal())
            checkpoints = restored = None
            if self.checkpoint_dir is not None:
                checkpoints = Checkpoints(self.checkpoint_dir, config, hyperparams, self.seed, keep=self.keep)
                stack.enter_context(checkpoints)
                restored = _restore(checkpoints, self.resume)
            elif self.resume:
                raise ValueError("resume needs the folder to go on from; give --checkpoint-dir")
            folder = None if checkpoints is None else checkpoints.directory
            listener, shown = self._listeners(config, hyperparams, folder, stack)
            run = run_training(
                config,
                self.seed,
                hyperparams,
                listener,
                checkpoints=checkpoints,
                restored=restored,
                checkpoint_every=self.checkpoint_every,
                evaluate_every=self.evaluate_every,
                stop=stop,
                debug_nans=self.debug_nans,
                on_state=self._film(config, folder, shown),
            )
        if run.summary is None:
            update = f"{int(run.state.update)} of {config.num_updates}"
            self._exit_after(
                stop.received or signal.SIGTERM, update
            )  # without a signal of its own: another process got one
        if is_lead():
            self._print_summary(run.summary, run.metrics)

    def _check(self) -> None:
        check_seed("seed", self.seed)
        check_count("checkpoint_every", self.checkpoint_every, at_least=1)
        check_count("evaluate_every", self.evaluate_every, at_least=0)
        check_count("watch_every", self.watch_every, at_least=0)
        if self.watch_every and self.checkpoint_dir is None:
            raise ValueError("watch_every needs a folder for its pictures; give --checkpoint-dir")
        if self.plot is not None:
            check_picture("plot", self.plot)
        if self.tensorboard is not None:
            make_folder(self.tensorboard, "tensorboard")
        check_count("devices", self.devices, at_least=0)

    def _listeners(
        self, config: TrainConfig, hyperparams: Hyperparams, folder: Path | None, stack: ExitStack
    ) -> tuple[OnUpdate, list[Show]]:
        """Progress and the loggers that were asked for, as one function, and where these show pictures; ``stack`` closes them."""
        progress = Progress(config, self.seed, quiet=self.quiet or not is_lead())
        listeners: list[OnUpdate] = [stack.enter_context(progress)]
        shown: list[Show] = []
        if self.tensorboard is not None and is_lead():
            tensorboard = stack.enter_context(TensorBoard(self.tensorboard))
            listeners.append(guarded(tensorboard))
            shown.append(tensorboard.show)
        if self.wandb is not None and is_lead():
            wandb = WandB(config, hyperparams, self.seed, folder=folder, resume=self.resume, project=self.wandb)
            listeners.append(guarded(stack.enter_context(wandb)))
            shown.append(wandb.show)

        def report(update: int, metrics: Metrics) -> None:
            for listener in listeners:
                listener(update, metrics)

        return report, shown

    def _film(self, config: TrainConfig, folder: Path | None, shown: list[Show]) -> OnState:
        """What draws the policy while it learns; an error there must not end a training."""
        if not self.watch_every or folder is None or not is_lead():
            return lambda update, state: None
        film = Film(config, self.watch_every, folder / "film", jax.random.key(self.seed), shown)
        return guarded(film, "drawing the policy")

    def _exit_after(self, received: signal.Signals, update: str) -> NoReturn:
        say(f"stopped by {received.name} after update {update}")
        again = f"go on with: {resume_command(self.argv)}"
        say("nothing was saved: no --checkpoint-dir was given" if self.checkpoint_dir is None else again)
        raise SystemExit(128 + received)

    def _print_summary(self, summary: dict[str, Any], metrics: Metrics) -> None:
        print(json.dumps(summary) if self.json else _sentence(summary), flush=True)
        if self.plot is not None:
            title = f"{self.env}, seed {self.seed}"
            save_figure(lambda axes: learning_curve(metrics, axes).set_title(title), self.plot)
        written = [str(path) for path in (self.plot, self.checkpoint_dir) if path is not None]
        if written and not self.json:
            print(f"see {' and '.join(written)}", flush=True)


def _mesh(devices: int, *, distributed: bool) -> jax.sharding.Mesh | None:
    available = jax.devices()
    if devices > len(available):
        raise ValueError(f"devices must be at most the {len(available)} that JAX sees here; got {devices}")
    count = len(available) if distributed else devices or len(available)
    return None if count == 1 else jax.sharding.Mesh(np.array(available[:count]), ("envs",))


def _restore(checkpoints: Checkpoints, resume: bool) -> Restored | None:
    """What to go on from; a line on standard error says what is not as expected."""
    checkpoints.claim()
    updates = checkpoints.updates()
    if updates and not resume:
        raise ValueError(
            f"checkpoint_dir={str(checkpoints.directory)!r} already holds checkpoints, up to update {updates[-1]}; add --resume "
            "to go on from there, or choose another folder"
        )
    if not updates:
        if resume:
            say(f"{str(checkpoints.directory)!r} holds no checkpoint yet: beginning")
        return None
    restored = checkpoints.restore()
    if restored.versions != versions():
        say(f"the checkpoint was written by {restored.versions}, this is {versions()}: the last bits may differ")
    say(f"going on after update {restored.update}")
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
