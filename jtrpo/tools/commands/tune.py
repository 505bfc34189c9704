"""``jtrpo tune ENV``: search for settings that train better than those that ship."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from jtrpo.tools.console import say
from jtrpo.tools.files import absolute
from jtrpo.tools.plot import save_figure
from jtrpo.tools.tune import draw_scores, table, train_command, tune


@dataclass(frozen=True)
class Tune:
    """Search for settings by successive halving, and compare the best with what ships on fresh seeds."""

    env: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ENV")]
    """Environment id, such as CartPole-v1; `jtrpo envs` lists them."""
    vary: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Values of a setting to try, as name=value,value,...; one value fixes it. Once for each setting. Without: num_steps, and
    over a Box initial_log_std. Numbers are drawn around those that ship."""
    total_timesteps: int | None = None
    """Environment steps of a whole training, where not as many as ship."""
    candidates: int = 27
    """Settings to begin with; after each round a third goes on."""
    seeds: int = 4
    """Trainings of each setting."""
    seed: int = 0
    """Of the draws and of the trainings."""
    checkpoint_dir: Path | None = None
    """Save the search in this folder, with table.md and scores.png at the end; the same command goes on after an interruption."""

    def run(self) -> None:
        """Search, and print the table, the comparison and the command that trains with what was found."""
        vary: dict[str, list[Any]] = {}
        for name, values in map(_parsed, self.vary):
            if name in vary:
                raise ValueError(f"vary names {name} twice; give all of its values at once, as {name}=value,value,...")
            vary[name] = values
        try:
            search = tune(
                self.env,
                vary or None,
                total_timesteps=self.total_timesteps,
                candidates=self.candidates,
                seeds=self.seeds,
                seed=self.seed,
                directory=self.checkpoint_dir,
                report=say,
            )
        except KeyboardInterrupt:
            if self.checkpoint_dir is not None:
                say("the groups that were done are saved; the same command goes on")
            raise
        text = table(search)
        print(text)
        gain, error = search.gain
        found, shipped = search.fresh.mean(axis=1)
        seeds = search.fresh.shape[1]
        print(f"on {seeds} fresh seeds: {found:.1f}, what ships {shipped:.1f}; difference {gain:+.1f} +- {error:.1f}")
        if gain > 2 * error:
            print(f"train with {train_command(self.env, search.best)}")
        else:
            print("nothing was found that is better than what ships by more than two standard errors")
        if self.checkpoint_dir is not None:
            folder = absolute(self.checkpoint_dir, "checkpoint_dir")
            (folder / "table.md").write_text(text + "\n")
            save_figure(lambda axes: draw_scores(search, axes), folder / "scores.png")
            print(f"see {folder}")


def _parsed(typed: str) -> tuple[str, list[Any]]:
    name, given, values = typed.partition("=")
    if not (name and given and values):
        raise ValueError(f"vary must be name=value,value,...; got {typed!r}")
    name = name.replace("-", "_")
    try:  # numbers, and lists such as [64,64],[32]
        found = json.loads(f"[{values}]")
    except ValueError:
        found = [_value(each) for each in values.split(",")]
    return name, [tuple(each) if isinstance(each, list) else each for each in found]


def _value(typed: str) -> Any:
    try:
        return float(typed)  # .01, say
    except ValueError:
        return {"None": None, "True": True, "False": False}.get(typed, typed)
