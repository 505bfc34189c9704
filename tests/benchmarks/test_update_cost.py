import json

import pytest

from benchmarks import update_cost

pytestmark = pytest.mark.long


def test_every_piece_is_measured_in_gradients(tmp_path, monkeypatch, capsys):
    path = tmp_path / "cost.json"
    arguments = [
        "--num-envs",
        "8",
        "--num-steps",
        "16",
        "--hidden-sizes",
        "8",
        "--cg-iterations",
        "3",
        "--json",
        str(path),
    ]
    monkeypatch.setattr("sys.argv", ["update_cost", *arguments])
    monkeypatch.setattr(update_cost, "MATRIX", 64)
    monkeypatch.setattr(update_cost, "SAMPLES", 10_000)
    update_cost.main()
    result = json.loads(path.read_text())
    pieces = result["in_gradients"]
    assert pieces["gradient"]["median"] == 1
    assert all(0 < figure["least"] <= figure["median"] <= figure["most"] for figure in pieces.values())
    assert pieces["critic, two Gauss-Newton steps"]["median"] > pieces["critic, one Gauss-Newton step"]["median"]
    assert set(result["share_of_matmul_rate"]) == {"gradient", "3 Fisher products"}
    assert "| policy step, Fisher products on a tenth |" in capsys.readouterr().out
