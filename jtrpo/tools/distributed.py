"""A run of several processes: join them, compare, decide and wait together. In a single process these do nothing."""

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jtrpo.core.check import check_count

HEARTBEAT_SECONDS = 30
"""After which a process that cannot be reached counts as lost."""


def join(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Join the other processes of a run, by ``jax.distributed``; before JAX computes anything.

    Args:
        coordinator: address and port of process 0; all three ``None``: as the cluster's variables (SLURM, say) have it.
        num_processes: of the run.
        process_id: of this one, from 0.

    Raises:
        ValueError: incomplete or impossible numbers, or the others could not be reached.
    """
    given = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    missing = [name for name, value in given.items() if value is None]
    if 0 < len(missing) < 3:
        raise ValueError(
            f"distributed needs all of {', '.join(given)}, or none on a cluster; {', '.join(missing)} is missing"
        )
    if num_processes is not None and process_id is not None:
        check_count("num_processes", num_processes, at_least=1)
        check_count("process_id", process_id, at_least=0)
        if process_id >= num_processes:
            raise ValueError(f"process_id must be below num_processes = {num_processes}; got {process_id}")
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            initialization_timeout=60,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise ValueError(
            f"distributed: the processes of the run did not find one another ({first}); start all of them with the address of "
            "process 0 as --coordinator, or as tasks of a cluster that JAX knows"
        ) from error


def is_lead() -> bool:
    """Whether this process logs, draws and names files: process 0."""
    return jax.process_index() == 0


def barrier() -> None:
    """Wait until every process has called this."""
    _gather(np.zeros(()))


def any_process(predicate: Callable[[], bool]) -> Callable[[], bool]:
    """The predicate over all processes: true in each where it is true in any."""
    return lambda: bool(_gather(np.asarray(predicate())).any())


def on_lead(act: Callable[[], Any]) -> None:
    """Call ``act`` in process 0; where that raises ``ValueError``, every process does.

    Raises:
        ValueError: that of process 0; in the others, one that refers to it.
    """
    problem: ValueError | None = None
    if is_lead():
        try:
            act()
        except ValueError as error:
            problem = error
    if any_process(lambda: problem is not None)():
        raise problem or ValueError("process 0 of this run cannot go on; its message says why")


def check_same_settings(settings: dict[str, Any]) -> None:
    """Compare the settings of all processes.

    Raises:
        ValueError: in every process, where some differ from those of process 0: their names, values and processes.
    """
    mine = np.frombuffer(json.dumps(settings, sort_keys=True).encode(), np.uint8)
    lengths = _gather(np.asarray(mine.size))
    padded = _gather(np.pad(mine, (0, int(lengths.max()) - mine.size)))
    every = [json.loads(text[:length].tobytes()) for text, length in zip(padded, lengths, strict=True)]
    different = [
        f"{name} is {every[0].get(name)!r} in process 0 and {other.get(name)!r} in process {process}"
        for process, other in enumerate(every)
        for name in sorted(every[0].keys() | other.keys())
        if other.get(name) != every[0].get(name)
    ]
    if different:
        raise ValueError(f"every process of a run needs the same settings: {'; '.join(different)}")


def _gather(x: np.ndarray) -> np.ndarray:
    """The values of all processes, along a new leading axis."""
    if jax.process_count() == 1:
        return x[None]
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(x))
