import json

import numpy as np
import pytest

from benchmarks import vine


def test_difference_is_that_of_the_means_with_an_interval_around_it():
    rng = np.random.default_rng(0)
    first, second = rng.normal(3, 1, 50).tolist(), rng.normal(1, 1, 50).tolist()
    value, low, high = vine.difference(first, second)
    assert value == pytest.approx(np.mean(first) - np.mean(second))
    width = 2 * 1.96 * np.sqrt(np.var(first) / 50 + np.var(second) / 50)
    assert low < value < high
    assert high - low == pytest.approx(width, rel=0.1)
    assert vine.difference([1.0, 1.0], [0.5, 0.5]) == (0.5, 0.5, 0.5)


@pytest.mark.long
def test_vine_and_its_rivals_take_as_many_steps_or_as_long(tmp_path, monkeypatch, capsys):
    path = tmp_path / "vine.json"
    monkeypatch.setattr(vine, "EPISODES", 4)
    monkeypatch.setattr(vine, "RIVALS", {"base": {}})
    monkeypatch.setattr(
        "sys.argv", ["vine", "--envs", "CartPole-v1", "--seeds", "2", "--steps", "8192", "--out", str(path)]
    )
    vine.main()
    (entry,) = json.loads(path.read_text())["entries"]
    mine, rival = entry["vine"], entry["rivals"]["base"]
    assert mine["steps"] == rival["same_steps"]["steps"] == 8192
    per_step = [run["processor_seconds"] / run["steps"] for run in (mine, rival["same_steps"])]
    budget = mine["steps"] * per_step[0] / per_step[1]
    assert 0 <= rival["same_time"]["steps"] - budget < 2048 + 1  # rounded up to whole updates
    for run in (mine, *rival.values()):
        assert run["kl_violations"] == 0
        assert np.shape(run["deterministic_return"]) == np.shape(run["stochastic_return"]) == (2,)
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", ["vine", "--table", str(path)])
    vine.main()
    table = capsys.readouterr().out
    assert f"{np.mean(mine['stochastic_return']):.1f}" in table
    assert "| single path | 1425.2 | 10.8 |" in table
