import json

import pytest

from benchmarks import throughput

pytestmark = pytest.mark.slow


def test_a_small_table_is_measured_and_written(tmp_path, monkeypatch, capsys):
    file = tmp_path / "rows.json"
    arguments = [
        "throughput",
        "--num-envs",
        "4",
        "--num-steps",
        "8",
        "--updates",
        "2",
        "--seeds",
        "2",
        "--json",
        str(file),
    ]
    monkeypatch.setattr("sys.argv", arguments)
    throughput.main()
    (row,) = json.loads(file.read_text())
    assert row["run_seconds_least"] <= row["run_seconds"] <= row["run_seconds_most"]
    assert row["steps_per_second"] == 2 * 2 * 4 * 8 / row["run_seconds"]
    assert row["compile_seconds"] > 0
    assert row["share_of_floor"] > 0
    assert "CartPole-v1" in capsys.readouterr().out
