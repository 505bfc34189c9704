"""``jtrpo watch``: one episode of a saved policy as an animated picture."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import jax
import tyro

from jtrpo.core.check import check_seed
from jtrpo.tools.checkpoint import load
from jtrpo.tools.files import check_file
from jtrpo.tools.watch import check_animation, play, save_animation


@dataclass(frozen=True)
class Watch:
    """Play one episode with the policy of a saved run, and write it as an animated picture."""

    directory: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """Folder that was given as --checkpoint-dir."""
    env: str | None = None
    """Environment id, where the folder's is one that imports a module, or to try the policy in another of the same spaces."""
    out: Path = Path("policy.gif")
    """Picture to write (.gif, .webp or .png)."""
    sample: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Draw actions from the policy, instead of its most likely ones."""
    seed: int = 0
    """Seed of the random key, below 2**32."""

    def run(self) -> None:
        """Play the episode, write the picture and print the return."""
        check_seed("seed", self.seed)
        check_animation("out", self.out)
        check_file("out", self.out)
        config, restored = load(self.directory, self.env)
        episode = play(config, restored.state, jax.random.key(self.seed), deterministic=not self.sample)
        save_animation(config, episode, self.out)
        end = "" if episode.finished else ", cut off there"
        print(f"{config.env}: {len(episode.returns)} steps, return {episode.returns[-1]:.1f}{end}; see {self.out}")
