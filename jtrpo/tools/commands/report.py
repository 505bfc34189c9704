"""``jtrpo report``: a page about saved runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jtrpo.tools.commands.plot import check_runs
from jtrpo.tools.files import check_file
from jtrpo.tools.report import write_report


@dataclass(frozen=True)
class Report:
    """Write a page about saved runs: settings, curves and evaluation, in one HTML file."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DIR...")]
    """Folders that were given as --checkpoint-dir."""
    out: Path = Path("report.html")
    """Page to write."""

    def run(self) -> None:
        """Write the page."""
        check_runs(self.runs)
        check_file("out", self.out)
        write_report(list(self.runs), self.out)
        print(f"see {self.out}")
