"""Arrays by name in a folder, written and read by orbax."""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np


def write_arrays(folder: Path, arrays: dict[str, Any]) -> None:
    """Write arrays into a folder that does not exist yet; several processes write together, each its own part."""
    import orbax.checkpoint as ocp

    folder.parent.mkdir(exist_ok=True)
    with _plain(folder.parent) as parent, ocp.Checkpointer(ocp.StandardCheckpointHandler()) as writer:
        writer.save(parent / folder.name, arrays)


def read_arrays(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of a folder, whatever devices wrote them. Nothing is unpickled, and nothing imported by name."""
    import orbax.checkpoint as ocp

    with _plain(folder.parent) as parent, ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        names = reader.metadata(parent / folder.name).item_metadata.tree
        plain = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in names}
        arrays = reader.restore(parent / folder.name, args=ocp.args.PyTreeRestore(restore_args=plain))
    return {name: np.asarray(value) for name, value in arrays.items()}


@contextmanager
def _plain(folder: Path) -> Iterator[Path]:
    """The same folder by a path that orbax can read: it takes some characters for patterns and others for addresses."""
    if re.fullmatch(r"[\w/ .,=+@%~-]*", str(folder)):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="jtrpo-", dir=_plain_temporary()) as place:
        link = Path(place) / "folder"
        link.symlink_to(folder, target_is_directory=True)
        yield link


def _plain_temporary() -> str | None:
    there = tempfile.gettempdir()
    return None if re.fullmatch(r"[\w/ .,=+@%~-]*", there) else os.sep + "tmp"
