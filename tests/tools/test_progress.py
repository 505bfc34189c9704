import jax
import numpy as np

import jtrpo
from jtrpo.tools.progress import Progress

CONFIG = jtrpo.TrainConfig("CartPole-v1", total_timesteps=640, num_envs=4, num_steps=16, hidden_sizes=(4,))


def show(history, **settings):
    with Progress(CONFIG, 7, **settings) as progress:
        for update, metrics in enumerate(history, start=5):  # a resumed run
            progress(update, metrics)


def test_plain_lines_where_there_is_no_terminal(history, capsys):
    show(history)
    out, err = capsys.readouterr()
    assert out == ""
    first, *rest = err.splitlines()
    assert first == "CartPole-v1 seed 7: 10 updates of 64 steps; compiling"
    assert len(rest) == 3
    assert "192 steps  return" in rest[-1]
    assert f"KL {history[-1].policy.kl:.4f}" in rest[-1]
    assert "\x1b" not in err


def test_a_live_display_on_a_terminal(history, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    show(history)
    err = capsys.readouterr().err
    best = max(float(metrics.episode.return_mean) for metrics in history if metrics.episode.finished)
    for words in ("7/10", f"{history[-1].policy.kl:.2g} of 0.005", "█", "explained variance", "entropy", f"{best:.1f}"):
        assert words in err, err


def test_quiet_says_nothing(history, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    show(history, quiet=True)
    assert capsys.readouterr() == ("", "")


def test_without_a_with_statement_it_opens_and_closes_by_itself_and_can_be_used_again(history, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    progress = Progress(CONFIG)
    for _ in range(2):
        for update, metrics in zip((1, 5, 10), history, strict=True):
            progress(update, metrics)
        err = capsys.readouterr().err
        assert "10/10" in err
        assert err.endswith("\x1b[?25h")  # the cursor is there again


def test_of_many_seeds_it_shows_the_means_and_the_largest_kl(history, capsys):
    metrics = jax.tree.map(lambda *leaves: np.stack(leaves), *history)
    Progress(CONFIG)(10, metrics)
    err = capsys.readouterr().err
    assert f"KL {metrics.policy.kl.max():.4f}" in err
    assert f"return {np.nanmean(metrics.episode.return_mean):8.1f}" in err


def test_in_a_notebook_one_display_is_updated(history, monkeypatch):
    shown = []

    class Handle:
        def update(self, data, raw):
            shown.append(data["text/plain"])

    def display(data, raw, display_id):
        shown.append(data["text/plain"])
        return Handle()

    monkeypatch.setattr("IPython.display.display", display)
    monkeypatch.setattr("jtrpo.tools.progress._NOTEBOOK_SECONDS", 0.0)
    progress = Progress(CONFIG)
    progress._notebook, progress._live = True, False
    for update, metrics in zip((1, 5, 10), history, strict=True):
        progress(update, metrics)
    assert len(shown) == 3
    assert "10/10" in shown[-1]
    assert "of 0.005" in shown[-1]
