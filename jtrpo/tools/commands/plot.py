"""``jtrpo plot``: the curves of saved runs in one picture."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jtrpo.tools.compare import compare_runs
from jtrpo.tools.plot import check_picture, save_figure


@dataclass(frozen=True)
class Plot:
    """Draw the curves of saved runs; runs that differ in nothing but their seed are one curve with a band."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DIR...")]
    """Folders that were given as --checkpoint-dir."""
    metric: str = "episode.return_mean"
    """A column of their metrics.csv, such as policy.kl."""
    out: Path = Path("runs.png")
    """Picture to write (.png, .svg or .pdf)."""

    def run(self) -> None:
        """Write the picture."""
        check_runs(self.runs)
        check_picture("out", self.out)
        save_figure(lambda axes: compare_runs(list(self.runs), self.metric, axes), self.out)
        print(f"see {self.out}")


def check_runs(runs: tuple[Path, ...]) -> None:
    """Raise ``ValueError`` where no folder was named."""
    if not runs:
        raise ValueError("name at least one folder that was given as --checkpoint-dir")
