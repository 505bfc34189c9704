"""Metrics of a run as a table in a file: one row per update, without a gap or a double, however often the run is resumed."""

import io
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np

from jtrpo.training.trainer import Metrics


class MetricsLog:
    """A CSV file with a column for each number of :class:`Metrics` and a row for each update, written as they come.

    Args:
        file: the table, ``None`` to keep the rows in memory alone; rows of updates that a resumed run takes anew are dropped.
        done: updates that the run has behind it.
        like: metrics of one update, for their names and types.

    Raises:
        ValueError: the file lacks a row of an update that was done.
    """

    def __init__(self, file: Path | None, done: int, like: Metrics):
        named, self._structure = jax.tree_util.tree_flatten_with_path(like)
        self._names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in named]
        self._types = [leaf.dtype for _, leaf in named]
        self._name = str(file)
        kept = [] if file is None else self._read(file, done)
        self._rows = [self._parse(line) for line in kept]
        self._file: io.BytesIO | io.FileIO = io.BytesIO()
        if file is not None:
            beside = file.with_suffix(".tmp")  # the old table stays whole until the new one is
            beside.write_text("".join(f"{line}\n" for line in [",".join(["update", *self._names]), *kept]))
            os.replace(beside, file)
            self._file = file.open("ab", buffering=0)  # a row that does not fit is not tried again

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def append(self, update: int, metrics: Metrics) -> None:
        """Add the row of an update; it has left this process when this returns.

        Raises:
            ValueError: the file cannot be written to.
        """
        row = [np.asarray(value)[()] for value in jax.tree.leaves(metrics)]
        self._rows.append(row)
        # A float's shortest text that reads back as the same number.
        cells = [str(value.astype(int) if value.dtype == bool else value) for value in row]
        line = (",".join([str(update), *cells]) + "\n").encode()
        try:
            whole = self._file.write(line) == len(line)
        except OSError:
            whole = False
        if not whole:
            raise ValueError(
                f"{self._name!r} could not be written to; what was saved is whole. Make room, or mend the folder, and go on from "
                "the last checkpoint"
            )

    def history(self) -> Metrics:
        """Metrics of every update so far, one entry per update along the leading axis."""
        columns = [np.array([row[i] for row in self._rows], kind) for i, kind in enumerate(self._types)]
        return jax.tree.unflatten(self._structure, columns)

    def _read(self, file: Path, done: int) -> list[str]:
        if done == 0:
            return []
        lines = (
            file.read_text().split("\n")[1:-1] if file.exists() else []
        )  # the last line ends in a newline or is torn
        rows = {line.split(",", 1)[0]: line for line in lines if line.count(",") == len(self._names)}
        missing = [update for update in range(1, done + 1) if str(update) not in rows]
        if missing:
            raise ValueError(
                f"{str(file)!r} lacks the rows of {len(missing)} updates that the checkpoint has behind it, from {missing[0]} "
                "on; put the file back, or start anew in another folder"
            )
        return [rows[str(update)] for update in range(1, done + 1)]

    def _parse(self, line: str) -> list[Any]:
        cells = line.split(",")[1:]
        return [np.array(float(cell)).astype(kind)[()] for cell, kind in zip(cells, self._types, strict=True)]
