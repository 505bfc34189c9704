import json
import sys

import pytest

from benchmarks.peers import __main__ as peers

pytestmark = pytest.mark.slow

SAME = {"num_envs": 4, "num_steps": 16, "hidden_sizes": (8,), "total_timesteps": 128}


@pytest.fixture
def _a_peer_that_answers(tmp_path, monkeypatch):
    """A program in the peer's place: 10 steps per second whatever it is asked."""
    (tmp_path / "sb3_speed.py").write_text(
        "import json, sys; json.loads(sys.argv[1]); print(json.dumps({'steps_per_second': 10.0}))"
    )
    monkeypatch.setattr(peers, "HERE", tmp_path)


@pytest.mark.usefixtures("_a_peer_that_answers")
@pytest.mark.parametrize("seeds", [pytest.param(1, marks=pytest.mark.long), 2])
def test_a_row_is_the_ratio_of_rates(tmp_path, monkeypatch, capsys, seeds):
    monkeypatch.setattr(peers, "ROWS", {"small": ("sb3", {"steps": 1}, SAME, seeds), "other": ("rejax", {}, {}, 1)})
    monkeypatch.setattr("sys.argv", ["peers", "--sb3", sys.executable, "--json", str(tmp_path / "out.json")])
    peers.main()
    (row,) = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert row["peer_steps_per_second"] == 10
    assert row["ratio_least"] <= row["ratio"] <= row["ratio_most"]
    assert row["ratio"] == pytest.approx(row["steps_per_second"] / seeds / 10)
    assert "| small | sb3 10 |" in capsys.readouterr().out


def test_without_a_peer_there_is_nothing_to_compare(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["peers"])
    with pytest.raises(SystemExit):
        peers.main()
    assert "--sb3" in capsys.readouterr().err


def test_a_peer_that_fails_is_named_with_its_error():
    with pytest.raises(SystemExit, match="No module named"):
        peers.ask(sys.executable, "rejax", {})
