"""Settings that find themselves: many short trainings begin, and by successive halving the better ones go on."""

import itertools
import json
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from gymnasium import spaces
from jaxtyping import PRNGKeyArray

from jtrpo.core.check import check_count, check_seed, to_python
from jtrpo.tools.checkpoint.lock import Lock
from jtrpo.tools.files import atomic_write, make_folder
from jtrpo.tools.settings import describe, differences
from jtrpo.tools.trainings import Setting, Trainings
from jtrpo.training.config import TrainConfig
from jtrpo.training.hyperparams import Hyperparams
from jtrpo.training.tuned import tuned

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KEPT = 3
"""One setting of so many goes on after each round, for so many times as long."""

NEAR = 4.0
"""Numbers are drawn within this factor of what ships."""

ENTROPY = (0.001, 0.3)
"""Between these an entropy bonus is drawn where none ships; MinAtar's Breakout needs the upper one, most tasks next to none."""

RESULTS_FILE = "search.json"


class Search(NamedTuple):
    """What a search found.

    Attributes:
        settings: every setting that was tried; the first of each group has the numbers that ship.
        scores: mean greedy return of each after each round, ``[rounds, settings]``; NaN where it had not come so far.
        best: the setting with the highest score after the last round, with ``total_timesteps`` where that was given.
        fresh: mean greedy return of ``best`` and of what ships on each fresh seed, ``[2, seeds]``.
    """

    settings: list[Setting]
    scores: np.ndarray
    best: Setting
    fresh: np.ndarray

    @property
    def gain(self) -> tuple[float, float]:
        """By how much ``best`` is better than what ships on fresh seeds, and the standard error of that."""
        found, shipped = self.fresh
        error = math.sqrt((found.var(ddof=1) + shipped.var(ddof=1)) / found.size)
        return float(found.mean() - shipped.mean()), error


def tune(
    env: Any,
    vary: Mapping[str, Sequence[Any]] | None = None,
    *,
    total_timesteps: int | None = None,
    candidates: int = 27,
    seeds: int = 4,
    seed: int = 0,
    directory: str | Path | None = None,
    report: Callable[[str], Any] = lambda line: None,
) -> Search:
    """Search for settings by successive halving (Jamieson and Talwalkar 2016, https://arxiv.org/abs/1502.07943).

    Numbers are drawn around those that ship for the environment: ``max_kl``, the horizons ``1 / (1 - gamma)`` and
    ``1 / (1 - gae_lambda)`` and what limits the critic's steps, each within a factor of four, and in half of the draws an entropy
    bonus, between 0.001 and 0.3 where none ships. After each round the best third by the mean greedy return over seeds goes on,
    for three times as long, until at most three settings are left, which train to the end. Environments in JAX train under two
    ``vmap``, over settings and seeds, all of a group in one program; those on the host train one after another, and begin new
    episodes with each round. Then the best and what ships are trained on fresh seeds, twice as many.

    Args:
        env: environment id, or an environment.
        vary: values to try, by the name of a setting; a single one holds for what ships, too. Of static settings every
            combination is a group, which is compiled by itself. ``None``: a half and a quarter of the ``num_steps`` that ship,
            and over a Box an ``initial_log_std`` of 0 and of -1.
        total_timesteps: environment steps of a whole training; ``None``: what ships.
        candidates: settings to begin with.
        seeds: trainings of each.
        seed: of the draws and of the trainings.
        directory: where to save what is done; a search of the same settings that is there goes on. ``None``: nowhere.
        report: called with a line after each round.

    Raises:
        TypeError: an unknown setting, or a value of the wrong type.
        ValueError: a value out of range, fewer candidates than groups, a limit on costs, of which returns say nothing, or a
            folder that holds another search, or in which another process searches or trains.
    """
    check_count("candidates", candidates, at_least=2)
    check_count("seeds", seeds, at_least=2)
    check_seed("seed", seed)
    budget = {} if total_timesteps is None else {"total_timesteps": total_timesteps}
    vary = None if vary is None else _checked(vary)
    fixed = {**budget, **{name: values[0] for name, values in (vary or {}).items() if len(values) == 1}}
    config, shipped = tuned(env, **fixed)
    for method in (config.constraint_method, *(vary or {}).get("constraint_method", ())):
        if method is not None:
            raise ValueError(f"constraint_method={method!r} keeps costs within a limit; tune ranks by returns alone")
    vary = _steps_and_spread(config) if vary is None else vary
    groups = _groups(env, vary, budget)
    if candidates < len(groups):
        raise ValueError(f"candidates must be at least {len(groups)}, one for each combination; got {candidates}")
    rng = np.random.default_rng(seed)
    for number in range(candidates):
        group = groups[number % len(groups)]
        group.settings.append(_draw(rng, group, vary))
    settings = [each for group in groups for each in group.settings]
    ships = describe(config, shipped)
    record = _Record(directory, {"settings": settings, "seeds": seeds, "seed": seed, **ships})
    key, fresh_key = jax.random.split(jax.random.key(seed))
    with record.lock:
        scores, best = _halve(groups, settings, jax.random.split(key, seeds), record, report)
        fresh = []
        for name, setting in (("found", best), ("shipped", {key: fixed[key] for key in fixed.keys() - budget.keys()})):
            static = {key: value for key, value in setting.items() if key not in Hyperparams._fields}
            whole = Trainings(env, budget, static, [setting])
            train = partial(whole.go_on, np.arange(1), 1.0, jax.random.split(fresh_key, 2 * seeds))
            fresh.append(record.of(f"fresh seeds, {name}", train)[0])
            report(f"{2 * seeds} fresh seeds, {name}: {fresh[-1].mean():.1f}, worst {fresh[-1].min():.1f}")
    return Search(settings, scores, {**budget, **best}, np.array(fresh))


def _halve(
    groups: list[Trainings],
    settings: list[Setting],
    keys: PRNGKeyArray,
    record: "_Record",
    report: Callable[[str], Any],
) -> tuple[np.ndarray, Setting]:
    """The scores of all settings after each round, and the best one."""
    first = np.cumsum([0, *(len(group.settings) for group in groups)])
    rounds = max(1, math.ceil(math.log(len(settings), KEPT) - 1e-9))
    scores, alive = np.full((rounds, len(settings)), np.nan), np.arange(len(settings))
    turn = np.concatenate([np.arange(len(group.settings)) for group in groups])  # so that no group wins all ties
    for number, row in enumerate(scores):
        for index, group in enumerate(groups):
            mine = alive[(alive >= first[index]) & (alive < first[index + 1])] - first[index]
            if mine.size:
                go_on = partial(group.go_on, mine, KEPT ** (number + 1 - rounds), keys)
                returns = record.of(f"round {number + 1}, group {index + 1}", go_on)
                mean = returns.mean(axis=1)
                row[first[index] + mine] = np.where(np.isfinite(mean), mean, -np.inf)
        order = alive[np.lexsort((turn[alive], -scores[max(number - 1, 0)][alive], -row[alive]))]
        report(
            f"round {number + 1} of {rounds}: {alive.size} settings, {row[order[0]]:.1f} by {listed(settings[order[0]])}"
        )
        alive = np.sort(order[: math.ceil(alive.size / KEPT)])
    return scores, settings[order[0]]


def _checked(vary: Any) -> dict[str, list[Any]]:
    """``vary`` with plain values, of settings that can be varied."""
    if not isinstance(vary, Mapping):
        raise TypeError(f"vary must be a dictionary, from names of settings to lists of values; got {vary!r}")
    names = {*TrainConfig.__dataclass_fields__, *Hyperparams._fields} - {"env", "total_timesteps", "mesh"}
    found = {}
    for name, values in vary.items():
        if name not in names:
            raise TypeError(f"vary names {name!r}, which is not a setting that can be varied")
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise TypeError(f"vary must give a list of values for {name}; got {values!r}")
        found[name] = [to_python(value) for value in values]
        if name in Hyperparams._fields:
            for value in found[name]:
                Hyperparams(**{name: value}).check()
    return found


def _steps_and_spread(config: TrainConfig) -> dict[str, Sequence[Any]]:
    """What to vary where nothing is named."""
    vary: dict[str, Sequence[Any]] = {
        "num_steps": sorted({max(1, config.num_steps // part) for part in (1, 2, 4)}, reverse=True)
    }
    if isinstance(config.environment.action_space, spaces.Box) and config.box_distribution == "gaussian":
        vary["initial_log_std"] = (0.0, -1.0)
    return vary


def _groups(env: Any, vary: Mapping[str, Sequence[Any]], budget: Setting) -> list[Trainings]:
    """One group for each combination of the static settings to try; numbers among them are left to the draws."""
    static = [name for name in vary if name not in Hyperparams._fields]
    combinations = itertools.product(*(vary[name] for name in static))
    return [Trainings(env, budget, dict(zip(static, each, strict=True))) for each in combinations]


def _draw(rng: np.random.Generator, group: Trainings, vary: Mapping[str, Sequence[Any]]) -> Setting:
    """Another setting of a group; its first has the numbers that ship."""
    given = {name: vary[name][int(rng.integers(len(vary[name])))] for name in vary if name in Hyperparams._fields}
    drawn = _near(rng, group.shipped, group.config) if group.settings else {}
    return {**drawn, **given, **group.static}


def _near(rng: np.random.Generator, shipped: Hyperparams, config: TrainConfig) -> Setting:
    """Numbers around those that ship, of three digits."""
    near = lambda x: float(f"{x * NEAR ** rng.uniform(-1, 1):.3g}")  # noqa: E731
    horizon = lambda discount: round(max(0.0, 1 - near(1 - float(discount))), 8)  # noqa: E731
    limit = "critic_learning_rate" if config.critic == "adam" else "critic_max_change"
    numbers = {
        "max_kl": near(float(shipped.max_kl)),
        "gamma": horizon(shipped.gamma),
        "gae_lambda": horizon(shipped.gae_lambda),
        limit: near(float(getattr(shipped, limit))),
    }
    if rng.random() < 0.5:
        return numbers
    ships, between = float(shipped.entropy_coefficient), math.exp(rng.uniform(*np.log(ENTROPY)))
    return {**numbers, "entropy_coefficient": near(ships) if ships else float(f"{between:.3g}")}


class _Record:
    """What was measured, in a file where there is a folder for it; within ``with record.lock`` nobody else writes there."""

    def __init__(self, directory: str | Path | None, search: dict[str, Any]):
        self.file = None if directory is None else make_folder(directory, "directory") / RESULTS_FILE
        self.lock = nullcontext() if self.file is None else Lock(self.file.parent, "directory")
        self.known: dict[str, Any] = {}
        if self.file is None:
            return
        self.search = json.loads(json.dumps(search, default=repr))
        if not self.file.exists():
            return
        try:
            there = json.loads(self.file.read_text(encoding="utf-8"))
            searched, self.known = dict(there["search"]), dict(there["returns"])
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{str(self.file)!r} is damaged; remove it, or choose another folder") from error
        if different := differences(searched, self.search):
            raise ValueError(
                f"directory={str(directory)!r} holds a search with other {' and '.join(different)}; choose another folder"
            )

    def of(self, name: str, measure: Callable[[], np.ndarray]) -> np.ndarray:
        """What ``measure`` returns, or returned in an earlier process."""
        if name not in self.known:
            self.known[name] = measure().tolist()
            if self.file is not None:
                text = json.dumps({"search": self.search, "returns": self.known}) + "\n"
                atomic_write(self.file, lambda file: file.write_text(text, encoding="utf-8"))
        return np.array(self.known[name])


def listed(setting: Setting) -> str:
    """A setting in words."""
    return ", ".join(f"{name} {value}" for name, value in setting.items()) or "what ships"


def train_command(env: str, setting: Setting) -> str:
    """What to type in order to train with a setting."""
    typed = ["jtrpo", "train", env]
    for name, value in setting.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            typed.append(f"--{option}" if value else f"--no-{option}")
        else:
            typed += [f"--{option}", *map(str, value if isinstance(value, tuple | list) else [value])]
    return shlex.join(typed)


def table(search: Search, most: int = 10) -> str:
    """The best settings in Markdown, those that came furthest first."""
    rounds = len(search.scores)
    last = [np.flatnonzero(~np.isnan(column))[-1] for column in search.scores.T]
    order = sorted(range(len(last)), key=lambda i: (-last[i], -search.scores[last[i], i]))
    lines = [
        "| setting | " + " | ".join(f"round {number + 1}" for number in range(rounds)) + " |",
        "|---" * (rounds + 1) + "|",
    ]
    for i in order[:most]:
        scores = ["" if np.isnan(score) else f"{score:.1f}" for score in search.scores[:, i]]
        lines.append(f"| {listed(search.settings[i])} | {' | '.join(scores)} |")
    return "\n".join(lines)


def draw_scores(search: Search, axes: "Axes") -> "Axes":
    """Draw each setting's mean greedy return after each round, the best one in colour."""
    shares = [KEPT ** (number + 1.0 - len(search.scores)) for number in range(len(search.scores))]
    for index, column in enumerate(search.scores.T):
        best = index == np.nanargmax(search.scores[-1])
        axes.plot(
            shares, column, ".-", color="C1" if best else "0.7", zorder=2 if best else 1, label="best" if best else None
        )
    axes.set(xscale="log", xlabel="share of the training", ylabel="mean greedy return")
    axes.grid(alpha=0.3)
    axes.legend()
    return axes
