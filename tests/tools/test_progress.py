import jax
import pytest

import jtrpo
from jtrpo.tools.progress import Progress

CONFIG = jtrpo.TrainConfig("CartPole-v1", total_timesteps=640, num_envs=4, num_steps=16, hidden_sizes=(4,))


@pytest.fixture(scope="module")
def history():
    trainer = jtrpo.make_trainer(CONFIG)
    step, state = jax.jit(trainer.step), trainer.init(jax.random.key(0))
    history = []
    for _ in range(3):
        state, metrics = step(state)
        history.append(jax.device_get(metrics))
    return history


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
