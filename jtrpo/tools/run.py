"""A training run driven from the host: compile, train with progress, evaluate, summarise."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np

from jtrpo.training.config import Hyperparams, TrainConfig
from jtrpo.training.trainer import Metrics, TrainState, make_trainer

EVALUATION_EPISODES = 128


class Run(NamedTuple):
    """A finished run.

    Attributes:
        state: the state after the last update.
        metrics: one entry per update, NumPy arrays.
        summary: the run in numbers, ready for JSON.
    """

    state: TrainState
    metrics: Metrics
    summary: dict[str, Any]


def run_training(
    config: TrainConfig,
    seed: int = 0,
    hyperparams: Hyperparams = Hyperparams(),
    on_update: Callable[[int, Metrics], None] = lambda update, metrics: None,
) -> Run:
    """Train one seed and evaluate it, with compilation timed apart from running.

    Args:
        config: static settings.
        seed: of the random key.
        hyperparams: numbers of the algorithm.
        on_update: called on the host after each update with its number (from 1) and its metrics.
    """
    trainer = make_trainer(config)
    hyperparams = hyperparams.check()

    began = time.perf_counter()
    key, evaluation_key = jax.random.split(jax.random.key(seed))
    shapes = jax.eval_shape(trainer.init, key, hyperparams)
    lowered = (
        jax.jit(trainer.step, donate_argnums=0).lower(shapes),
        jax.jit(trainer.evaluate, static_argnums=2).lower(shapes, evaluation_key, EVALUATION_EPISODES),
        jax.jit(trainer.init).lower(key, hyperparams),
    )
    with ThreadPoolExecutor() as pool:  # the compiler lets go of Python: side by side takes as long as the longest
        step, evaluate, init = pool.map(lambda each: each.compile(), lowered)
    state = jax.block_until_ready(init(key, hyperparams))
    compiled = time.perf_counter()

    history = []
    for update in range(1, config.num_updates + 1):
        state, metrics = step(state)
        metrics = jax.device_get(metrics)
        history.append(metrics)
        on_update(update, metrics)
    jax.block_until_ready(state)
    trained = time.perf_counter()

    returns = np.asarray(evaluate(state, evaluation_key))
    metrics = jax.tree.map(lambda *entries: np.stack(entries), *history)
    run_seconds = trained - compiled
    summary = {
        "env": config.env if isinstance(config.env, str) else repr(config.environment),
        "seed": seed,
        "total_timesteps": config.actual_timesteps,
        "evaluation_return": float(returns.mean()),
        "evaluation_std": float(returns.std()),
        "steps_per_second": config.actual_timesteps / run_seconds,
        "compile_seconds": compiled - began,
        "run_seconds": run_seconds,
        "accepted_fraction": float(metrics.policy.accepted.mean()),
        "max_kl_seen": float(metrics.policy.kl.max()),
    }
    return Run(state, metrics, summary)
