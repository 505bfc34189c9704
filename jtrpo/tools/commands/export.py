"""``jtrpo export``: a saved policy in one file that needs no jtrpo."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jtrpo.tools.export import export_policy


@dataclass(frozen=True)
class Export:
    """Write the policy of a saved run into one file that takes raw observations and gives actions, without jtrpo."""

    directory: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """Folder that was given as --checkpoint-dir."""
    env: str | None = None
    """Environment id, where the folder's is one that imports a module."""
    format: Literal["stablehlo", "onnx"] = "stablehlo"
    """stablehlo, for JAX on CPU, CUDA and TPU, or onnx, for everything else."""
    out: Path | None = None
    """File to write; policy.stablehlo or policy.onnx where it is not given."""
    sample: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Draw actions, by one more input, a key or (onnx) uniform numbers, instead of the most likely ones."""

    def run(self) -> None:
        """Write the file and print its inputs and outputs."""
        out = self.out or Path(f"policy.{self.format}")
        arrays = export_policy(self.directory, out, format=self.format, sample=self.sample, env=self.env)
        for name, shape in arrays.items():
            print(f"{name}: {shape}")
        print(f"see {out}")
