"""Metrics of a run as a table in a file: one row per update, without gaps or duplicates, however often the run is resumed."""

import csv
import io
import os
import warnings
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np

from jtrpo.tools.files import atomic_write, set_aside
from jtrpo.training.state import Metrics


class MetricsLog:
    """A CSV file with a column for each number of :class:`Metrics` and a row for each update, written as they come.

    Rows of updates that were done and that the file lacks, after a power failure say, are filled with empty cells; a warning says
    which, and the file as it was is kept as ``damaged-metrics.csv``.

    Args:
        file: the table, ``None`` to keep the rows in memory alone; rows of updates that a resumed run takes anew are dropped.
        done: updates that are done.
        like: metrics of one update, for their names and types.

    Attributes:
        known: for each row of :meth:`history`, whether it is not such a filled one.

    Raises:
        ValueError: the file cannot be written to.
    """

    def __init__(self, file: Path | None, done: int, like: Metrics):
        named, self._structure = jax.tree_util.tree_flatten_with_path(like)
        self._names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in named]
        self._types = [leaf.dtype for _, leaf in named]
        self._name = str(file)
        kept = [] if file is None else self._read(file, done)
        self._rows = [self._parse(cells) for cells in kept]
        self.known = [any(cells) for cells in kept]
        self._file: io.BytesIO | io.FileIO = io.BytesIO()
        if file is not None:
            table = [["update", *self._names], *([str(update), *cells] for update, cells in enumerate(kept, start=1))]
            text = "".join(",".join(cells) + "\n" for cells in table)
            atomic_write(file, lambda temporary: temporary.write_text(text, encoding="utf-8"))
            self._file = file.open("ab", buffering=0)  # a row that cannot be written is not tried again at the end

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
        self.known.append(True)
        # `str` of a float is the shortest text that reads back as the same number.
        cells = [str(value.astype(int) if value.dtype == bool else value) for value in row]
        line = (",".join([str(update), *cells]) + "\n").encode()
        try:
            whole = self._file.write(line) == len(line)
        except OSError:
            whole = False
        if not whole:
            raise self._unwritable()

    def sync(self) -> None:
        """Return once every row is on the disk: before a checkpoint of the same updates is written.

        Raises:
            ValueError: they cannot be written.
        """
        if isinstance(self._file, io.FileIO):
            try:
                os.fsync(self._file.fileno())
            except OSError as error:
                raise self._unwritable() from error

    def history(self) -> Metrics:
        """Metrics of every update so far, one entry per update along the leading axis; NaN or zero where a row was lost."""
        columns = [np.array([row[i] for row in self._rows], kind) for i, kind in enumerate(self._types)]
        return jax.tree.unflatten(self._structure, columns)

    def _unwritable(self) -> ValueError:
        return ValueError(
            f"{self._name!r} could not be written to; what was saved is whole. Make room, or mend the folder, and go on from "
            "the last checkpoint"
        )

    def _read(self, file: Path, done: int) -> list[list[str]]:
        """The cells of each update that was done, by this version's columns; empty where there are none."""
        if done == 0:
            return []
        text = file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
        whole = text[: text.rfind("\n") + 1]  # a last line without a newline is incomplete
        names, *lines = list(csv.reader(whole.replace("\0", "").splitlines())) or [[]]
        rows = {}
        for line in lines:
            if len(line) == len(names) and _are_numbers(line):
                cells = dict(zip(names, line, strict=True))
                rows[line[0]] = [cells.get(name, "") for name in self._names]
        missing = [update for update in range(1, done + 1) if str(update) not in rows]
        if missing:
            aside = (
                f"; the file as it was is kept as {set_aside(file, f'damaged-{file.name}').name}"
                if file.exists()
                else ""
            )
            warnings.warn(
                f"{str(file)!r} lacks the rows of {len(missing)} updates that are done, from {missing[0]} on; "
                f"their cells stay empty{aside}",
                stacklevel=4,
            )
        return [rows.get(str(update), [""] * len(self._names)) for update in range(1, done + 1)]

    def _parse(self, cells: list[str]) -> list[Any]:
        numbers = [
            float(cell or ("nan" if kind.kind == "f" else "0")) for cell, kind in zip(cells, self._types, strict=True)
        ]
        return [np.array(number).astype(kind)[()] for number, kind in zip(numbers, self._types, strict=True)]


def _are_numbers(cells: list[str]) -> bool:
    try:
        return all(cell == "" or float(cell) is not None for cell in cells)
    except ValueError:
        return False
