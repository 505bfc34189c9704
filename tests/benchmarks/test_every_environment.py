import json

import pytest

from benchmarks import every_environment

pytestmark = pytest.mark.long


def test_a_row_holds_random_ours_and_the_reference(tmp_path, monkeypatch, capsys):
    file = tmp_path / "rows.json"
    monkeypatch.setattr(every_environment, "EPISODES", 4)
    arguments = ["--envs", "Catch-bsuite", "--steps", "2048", "--seeds", "1", "--json", str(file)]
    monkeypatch.setattr("sys.argv", ["every_environment", *arguments])
    every_environment.main()
    (row,) = json.loads(file.read_text())
    assert (row["env"], row["reference"], row["kl_violations"], row["non_finite"]) == ("Catch-bsuite", 1, 0, 0)
    assert all(-1 <= value <= 1 for value in (row["random"], *row["greedy"], *row["stochastic"]))
    assert "| Catch-bsuite | 2,048 |" in capsys.readouterr().out
    assert "| Catch-bsuite | 2,048 |" in file.with_suffix(".md").read_text()
