"""A page about runs: their settings, curves and evaluation, in one HTML file that needs nothing else."""

import html
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from jtrpo.tools.compare import Group, compare_runs, group_runs, read_metrics
from jtrpo.tools.run_directory import read_settings, read_summary

_CURVES = {
    "episode.return_mean": ("Return", "Mean return of the episodes that finished in an update, acting by sampling."),
    "policy.kl": ("KL", "Mean KL(old || new) of each step, in nats. Dotted: max_kl, which it never exceeds."),
    "policy.step_size": ("Step size", "Length of the step taken, in parameter space; 0 where the update was refused."),
    "policy.cg_residual": ("Conjugate gradients", "Relative residual at their end. Near 1 they found no direction."),
    "policy.backtracks": ("Backtracks", "Times the line search shortened the step. Often many: damping is too small."),
    "critic.explained_variance": (
        "Explained variance",
        "Of the value targets. 1 is perfect, 0 no better than their mean.",
    ),
}
_OWN = ("episode.metrics.", "episode.cost_mean")
_COST = "cost.episode"
_RESAMPLES = 10_000

_STYLE = """
:root { color-scheme: light; font-family: system-ui, sans-serif; color: #1c2430; background: #fff; }
body { margin: 0 auto; max-width: 76rem; padding: 1rem; line-height: 1.45; }
h1 { font-size: 1.6rem; margin: .5rem 0; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
p, figcaption { color: #4a5565; } figcaption { font-size: .9rem; } figcaption b { color: #1c2430; }
.curves { display: grid; gap: 1.25rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); }
figure { margin: 0; } figure svg { width: 100%; height: auto; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; }
th, td { text-align: left; padding: .3rem .9rem .3rem 0; border-bottom: 1px solid #dde3ea; vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td:first-child { min-width: 8rem; }
dl { columns: 18rem; column-gap: 2.5rem; font-size: .9rem; margin: 0; }
dl div { break-inside: avoid; display: flex; justify-content: space-between; gap: 1rem; border-bottom: 1px solid #dde3ea; }
dt, dd { margin: 0; padding: .25rem 0; } dd { text-align: right; overflow-wrap: anywhere; }
"""


def write_report(folders: list[Path], file: Path) -> None:
    """Write the page. Runs that differ in nothing but their seed are one row and one curve with a band.

    Args:
        folders: each given as ``checkpoint_dir`` to a run.
        file: to write, ``.html``.

    Raises:
        FileNotFoundError: a folder without metrics or settings.
        ValueError: the file's suffix is another, or what a folder holds is damaged.
    """
    if file.suffix != ".html":
        raise ValueError(f"out={str(file)!r} must end with .html")
    file.write_text(report(folders), encoding="utf-8")


def report(folders: list[Path]) -> str:
    """The page of :func:`write_report` as text."""
    groups = group_runs(folders)
    title = ", ".join(dict.fromkeys(str(group.settings.get("env")) for group in groups))
    versions = dict.fromkeys(
        ", ".join(f"{name} {version}" for name, version in read_settings(folder)["versions"].items())
        for folder in folders
    )
    return "\n".join(
        (
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>jtrpo: {_text(title)}</title><style>{_STYLE}</style></head><body>",
            f"<h1>{_text(title)}</h1>",
            f"<p>{_count(len(folders), 'run')} of trust region policy optimization. {_text('; '.join(versions))}.</p>",
            "<h2>Evaluation</h2>",
            _evaluation(groups),
            "<h2>Training</h2>",
            f'<div class="curves">{"".join(_figure(folders, name, *texts) for name, texts in _curves(folders).items())}</div>',
            "<h2>Settings</h2>",
            _settings(groups),
            "</body></html>",
        )
    )


def bootstrap_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean, from 10,000 resamples drawn with a fixed seed.

    Args:
        values: ``[n]``.
        level: of the interval.
    """
    draws = np.random.default_rng(0).integers(len(values), size=(_RESAMPLES, len(values)))
    tail = (1 - level) / 2
    low, high = np.quantile(values[draws].mean(axis=1), [tail, 1 - tail])
    return float(low), float(high)


def _evaluation(groups: list[Group]) -> str:
    rows, unfinished = [], 0
    for group in groups:
        summaries = [summary for summary in map(read_summary, group.folders) if summary is not None]
        unfinished += len(group.folders) - len(summaries)
        if not summaries:
            continue
        means = np.array([summary["evaluation_return"] for summary in summaries])
        returns = np.concatenate([summary["evaluation_returns"] for summary in summaries])
        # The interval is over seeds, each one draw of the whole experiment; with a single seed, over its episodes.
        low, high = bootstrap_interval(means if len(means) > 1 else returns)
        row = {
            "run": group.name,
            "seeds": len(means),
            "return": f"{means.mean():.1f}",
            "95 % interval": f"{low:.1f} to {high:.1f}",
            "worst seed": f"{means.min():.1f}",
            "spread of episodes": f"{returns.std():.1f}",
            "steps": f"{summaries[0]['total_timesteps']:,}",
            "accepted": f"{np.mean([summary['accepted_fraction'] for summary in summaries]):.1%}",
            "refused": sum(sum(summary["refused"].values()) for summary in summaries),
            "largest KL": f"{max(summary['max_kl_seen'] for summary in summaries):.4f}",
        }
        rows.append(row)
    note = "Deterministic episodes after training: the mean over seeds, and the 95 % bootstrap interval of that mean; of one "
    note += "seed, the interval over its episodes."
    if unfinished:
        note += f" {_count(unfinished, 'run')} did not reach the end and cannot be evaluated here."
    return f"<p>{note}</p>{_table(rows) if rows else ''}"


def _curves(folders: list[Path]) -> dict[str, tuple[str, str]]:
    """Title and meaning by column; the environments' own numbers where all runs have them."""
    tables = [read_metrics(folder) for folder in folders]
    own = [name for name in tables[0] if name.startswith(_OWN) and all(name in table for table in tables)]
    meaning = "Mean over the episodes that finished in an update, acting by sampling."
    curves = _CURVES | {name: (name.removeprefix("episode."), meaning) for name in own}
    costs = [name for name in tables[0] if name.startswith(_COST) and all(name in table for table in tables)]
    cost = "What an episode costs, as the update saw it. Dotted: cost_limit, which it may cross on the way."
    return curves | {name: (f"Cost{name.removeprefix(_COST).replace('.', ' ')}", cost) for name in costs}


def _figure(folders: list[Path], metric: str, title: str, meaning: str) -> str:
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    canvas, axes = FigureCanvasSVG(figure), figure.add_subplot()
    compare_runs(folders, metric, axes)
    bounds = {"policy.kl": "hyperparams.max_kl"}.get(metric, "hyperparams.cost_limit")
    if metric == "policy.kl" or metric.startswith(_COST):
        for folder in folders:
            table = read_metrics(folder)
            if (bound := table.get(bounds)) is not None:
                axes.plot(table["timesteps"], bound, color="black", linestyle=":", linewidth=1)
        axes.set_ylim(bottom=0)
    picture = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": metric}):
        canvas.print_svg(picture, metadata={"Date": None})
    svg = picture.getvalue()
    svg = svg[svg.index("<svg") :].replace("<svg ", f'<svg role="img" aria-label="{_text(title)}" ', 1)
    return f"<figure>{svg}<figcaption><b>{_text(title)}</b>. {_text(meaning)}</figcaption></figure>"


def _settings(groups: list[Group]) -> str:
    shared = list(groups[0].settings.items())
    for group in groups:
        shared = [(name, value) for name, value in shared if group.settings.get(name) == value]
    shared = [
        (name, value) for name, value in shared if not name.startswith("env.")
    ]  # the environment's name is enough here
    entries = "".join(f"<div><dt>{_text(name)}</dt><dd>{_text(_value(value))}</dd></div>" for name, value in shared)
    return f"<p>What all runs have in common.</p><dl>{entries}</dl>"


def _table(rows: list[dict[str, Any]]) -> str:
    """A name and then numbers."""
    kinds = ["", *[' class="number"'] * (len(rows[0]) - 1)]

    def line(tag: str, cells: Iterable[Any]) -> str:
        return f"<tr>{''.join(f'<{tag}{kind}>{_text(cell)}</{tag}>' for cell, kind in zip(cells, kinds, strict=True))}</tr>"

    body = "".join(line("td", row.values()) for row in rows)
    return f'<div class="wide"><table><thead>{line("th", rows[0])}</thead><tbody>{body}</tbody></table></div>'


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _text(content: Any) -> str:
    return html.escape(str(content))
