"""Games of MinAtar are trained once for each seed, and put together."""

import json
import sys

import pytest

from benchmarks import minatar, mujoco

SMALL = {"hidden_sizes": [8], "num_envs": 4, "num_steps": 64, "flatten_images": True, "critic_epochs": 1}


@pytest.mark.slow
def test_a_seed_of_a_game(tmp_path, monkeypatch):
    monkeypatch.setattr(minatar, "EPISODES", 2)
    monkeypatch.setattr(mujoco, "POINTS", 2)
    fixed = ["Breakout-MinAtar", "--steps", "512", "--seeds", "1", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["minatar", *fixed, "--settings", json.dumps(SMALL)])
    minatar.main()
    entry = json.loads((tmp_path / "Breakout-MinAtar.json").read_text())
    assert (entry["seeds"], entry["kl_violations"], entry["non_finite"]) == (1, 0, 0)
    assert len(entry["curve"][0]) == 2
    file = tmp_path / "Breakout-MinAtar" / "0.json"
    first = file.read_bytes()
    minatar.main()
    assert file.read_bytes() == first
    assert "Breakout-MinAtar | 512 | 1 |" in (tmp_path / "table.md").read_text()
