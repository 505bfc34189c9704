"""A training run driven from the host: compile, train with progress, save, evaluate, summarise."""

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from jtrpo.core.check import check_callable, check_count, check_seed
from jtrpo.core.line_search import UpdateStatus
from jtrpo.envs.gymnasium import HostEnvironment
from jtrpo.tools.checkpoint import Checkpoints, Restored
from jtrpo.tools.distributed import any_process, is_lead, on_lead
from jtrpo.tools.fingerprint import environment_name
from jtrpo.tools.metrics_log import MetricsLog
from jtrpo.tools.non_finite import first_non_finite
from jtrpo.tools.run_directory import (
    METRICS_FILE,
    check_no_foreign_files,
    read_summary,
    write_curve,
    write_settings,
    write_summary,
)
from jtrpo.tools.settings import describe
from jtrpo.training.config import TrainConfig
from jtrpo.training.host.trainer import HostTrainer, check_evaluation, trainer_for
from jtrpo.training.hyperparams import Hyperparams
from jtrpo.training.packing import Packing
from jtrpo.training.report import OnUpdate
from jtrpo.training.state import Metrics, TrainState, state_shardings
from jtrpo.training.trainer import Trainer

EVALUATION_EPISODES = 128
QUICK = 0.1
"""Seconds: an update that takes no longer is reported while the next one is computed."""


OnState = Callable[[int, TrainState], None]
"""``(update, state)``: the number of an update, from 1, and the state after it."""

Step = Callable[[TrainState], tuple[TrainState, Callable[[], Metrics]]]
"""``(state) -> (state, fetch)``, where ``fetch()`` waits for the metrics."""


class Run(NamedTuple):
    """A run that is finished, or that was asked to stop.

    Attributes:
        state: the state after the last update.
        metrics: one entry per update, NumPy arrays; those before a resumed run included.
        summary: the run in numbers, ready for JSON; ``None`` for a run that was stopped.
    """

    state: TrainState
    metrics: Metrics
    summary: dict[str, Any] | None


def run_training(
    config: TrainConfig,
    seed: int = 0,
    hyperparams: Hyperparams = Hyperparams(),
    on_update: OnUpdate = lambda update, metrics: None,
    *,
    checkpoints: Checkpoints | None = None,
    restored: Restored | None = None,
    checkpoint_every: int = 10,
    evaluate_every: int = 0,
    stop: Callable[[], bool] = lambda: False,
    debug_nans: bool = False,
    on_state: OnState = lambda update, state: None,
) -> Run:
    """Train one seed and evaluate it, with compilation timed apart from running.

    Args:
        config: static settings.
        seed: of the random key.
        hyperparams: numbers of the algorithm.
        on_update: called on the host after each update with its number (from 1) and its metrics; after a quick one, while the
            next is computed.
        checkpoints: where to save the state, and beside it ``config.json``, ``metrics.csv`` and, at the end, ``summary.json`` and
            ``curve.png``.
        restored: what to go on from; the run then ends with the same bits as one that was never interrupted.
        checkpoint_every: updates between two checkpoints.
        evaluate_every: updates between two evaluations, each saved as a checkpoint with its score; 0: only at the end.
        stop: asked after each update; true: save and return.
        debug_nans: stop at the first update that meets a number that is not finite, and name where it came from.
        on_state: called after each update with its number and the state, which is good until this returns: the next update takes
            its memory. In every process, where there are several.

    Raises:
        FloatingPointError: with ``debug_nans``.
        ValueError: a checkpoint could not be written; or, before anything is computed, a seed out of range, ``checkpoints`` of
            other settings, or a folder that holds checkpoints to go on from, somebody else's files, or another process at work.
    """
    check_seed("seed", seed)
    check_count("checkpoint_every", checkpoint_every, at_least=1)
    check_count("evaluate_every", evaluate_every, at_least=0)
    check_callable("on_update", on_update, "(update, metrics) -> None", takes=2)
    check_callable("on_state", on_state, "(update, state) -> None", takes=2)
    hyperparams = hyperparams.check()
    if checkpoints is not None:
        checkpoints.check_run(config, hyperparams, seed)
        _claim(checkpoints, restored)
    trainer = trainer_for(config)
    if debug_nans and jax.process_count() > 1:
        raise ValueError("debug_nans looks at whole collections, which several processes share; run it in one")
    if isinstance(config.environment, HostEnvironment):
        check_evaluation(config.environment)
        if debug_nans:
            raise ValueError("debug_nans collects an update's steps again, which environments on the host cannot")

    began = time.perf_counter()
    key, evaluation_key = jax.random.split(jax.random.key(seed))
    if isinstance(trainer, HostTrainer):
        metrics_like = trainer.compile()
        init, step, evaluate = trainer.init, _fetching(trainer.step, jax.device_get), trainer.evaluate
    else:
        init, step, evaluate, metrics_like = _compile(config, trainer, key, hyperparams, donate=not debug_nans)
    state = jax.block_until_ready(init(key, hyperparams) if restored is None else restored.state)
    compiled = time.perf_counter()

    def score(state: TrainState) -> np.ndarray:
        return np.asarray(evaluate(state, evaluation_key, EVALUATION_EPISODES))

    done, last = int(state.update), config.num_updates
    saved = None if checkpoints is None or done not in checkpoints.updates() else done
    stop = any_process(stop)
    file = None if checkpoints is None or not is_lead() else checkpoints.directory / METRICS_FILE
    if checkpoints is not None and is_lead():
        write_settings(checkpoints.directory, describe(config, hyperparams, seed))
    with MetricsLog(file, done, metrics_like) as log:
        unreported: list[tuple[int, TrainState, Callable[[], Metrics]]] = []  # at most one

        def report() -> None:
            for update, before, fetch in unreported:
                metrics = fetch()
                if debug_nans:
                    _raise_where_not_finite(config, before, metrics)
                log.append(update, metrics)
                on_update(update, metrics)
            unreported.clear()

        now = time.perf_counter()
        for update in range(done + 1, last + 1):
            if stop():
                break
            before = state
            state, fetch = step(state)
            report()
            unreported.append((update, before, fetch))
            since, now = now, time.perf_counter()
            evaluated = bool(evaluate_every) and update % evaluate_every == 0
            # After the last one, the run is evaluated and saved below.
            saves = checkpoints is not None and update < last and (evaluated or update % checkpoint_every == 0)
            if saves or debug_nans or update == done + 1 or now - since > QUICK:
                report()
            if checkpoints is not None and saves:
                log.sync()
                checkpoints.save(state, float(score(state).mean()) if evaluated else None)
                saved = update
            on_state(update, state)
        report()
        jax.block_until_ready(state)
        run_seconds = time.perf_counter() - compiled
        log.sync()

    update = int(state.update)
    returns = score(state) if update == last else None
    if isinstance(trainer, HostTrainer):
        trainer.close()
    if checkpoints is not None and update != saved:
        checkpoints.save(state, None if returns is None else float(returns.mean()))
        checkpoints.wait()
    metrics = log.history()
    if returns is None:
        return Run(state, metrics, None)
    summary = {
        "env": environment_name(config),
        "seed": seed,
        "total_timesteps": config.actual_timesteps,
        "evaluation_return": float(returns.mean()),
        "evaluation_std": float(returns.std()),
        "steps_per_second": (update - done) * config.batch_size / run_seconds,
        "compile_seconds": compiled - began,
        "run_seconds": run_seconds,
        **_totals(metrics, np.flatnonzero(log.known)),
    }
    # Where nothing was left to do, the summary that is there stays: it has the times of the training.
    new = checkpoints is not None and (done < last or read_summary(checkpoints.directory) is None)
    if checkpoints is not None and new and is_lead():
        write_summary(checkpoints.directory, summary, returns)
        write_curve(checkpoints.directory, f"{summary['env']}, seed {seed}", metrics)
    return Run(state, metrics, summary)


def _claim(checkpoints: Checkpoints, restored: Restored | None) -> None:
    """Take the folder for this run, or raise ``ValueError`` where that would write over something."""
    checkpoints.claim()
    updates = checkpoints.updates()
    if updates and restored is None:
        raise ValueError(
            f"checkpoint_dir={str(checkpoints.directory)!r} already holds checkpoints, up to update {updates[-1]}; give "
            "restored=checkpoints.restore() to go on from there, or choose another folder"
        )
    on_lead(lambda: check_no_foreign_files(checkpoints.directory))


def _raise_where_not_finite(config: TrainConfig, before: TrainState, metrics: Metrics) -> None:
    if metrics.samples.invalid or not (metrics.policy.accepted and metrics.critic.accepted):
        place = first_non_finite(config, before)
        if place is not None:
            raise FloatingPointError(f"the first number that is not finite is {place}")


def _totals(metrics: Metrics, known: np.ndarray) -> dict[str, Any]:
    """Of all updates, for the summary; ``known`` are those whose rows were not lost."""

    def of_known(values: Any) -> np.ndarray:
        return values[known].astype(float) if known.size else np.array([np.nan])

    return {
        "accepted_fraction": float(of_known(metrics.policy.accepted).mean()),
        "max_kl_seen": float(of_known(metrics.policy.kl).max()),
        "refused": dict(Counter(UpdateStatus(status).name for status in metrics.policy.status if status)),
        "critic_refused": known.size - int(metrics.critic.accepted[known].sum()),
        "invalid_samples": int(metrics.samples.invalid.sum()),
    }


def _fetching(step: Callable[[TrainState], tuple[TrainState, Any]], fetch: Callable[[Any], Metrics]) -> Step:
    def fetching(state: TrainState) -> tuple[TrainState, Callable[[], Metrics]]:
        state, metrics = step(state)
        return state, lambda: fetch(metrics)

    return fetching


def _compile(
    config: TrainConfig, trainer: Trainer, key: PRNGKeyArray, hyperparams: Hyperparams, *, donate: bool
) -> tuple[Callable, Step, Callable, Metrics]:
    """The trainer's three functions as programs, and the shapes of the metrics."""
    shapes = jax.eval_shape(trainer.init, key, hyperparams)
    shardings = state_shardings(config.mesh, shapes)
    if shardings is not None:
        shapes = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)
    packings: list[Packing] = []  # the runtime takes long over forty scalars

    def packed_step(state: TrainState) -> tuple[TrainState, list[Any]]:
        state, metrics = trainer.step(state)
        packings.append(Packing(metrics))
        return state, packings[0].pack(metrics)

    lowered = (
        jax.jit(trainer.init).lower(key, hyperparams),
        jax.jit(packed_step, donate_argnums=0 if donate else ()).lower(shapes),
        jax.jit(trainer.evaluate, static_argnums=2).lower(shapes, key, EVALUATION_EPISODES),
    )
    with ThreadPoolExecutor() as pool:  # the compiler releases the GIL: together they take as long as the longest
        init, step, evaluate = pool.map(lambda each: each.compile(), lowered)
    evaluate_compiled = lambda state, key, num_episodes: evaluate(state, key)  # noqa: E731  # their number is compiled in
    step = _fetching(step, lambda packed: packings[0].unpack(jax.device_get(packed)))
    return init, step, evaluate_compiled, packings[0].like
