import json
import sys

import pytest

from benchmarks import gymnasium_hopper

pytestmark = pytest.mark.slow


def test_seeds_add_up_to_one_file_a_picture_and_a_table(tmp_path, monkeypatch):
    monkeypatch.setattr(gymnasium_hopper, "SETTINGS", {"num_envs": 2, "num_steps": 8, "critic_minibatches": 1})
    monkeypatch.setattr(gymnasium_hopper, "EPISODES", 2)
    for seed in ("1", "0"):
        options = ["--env", "gymnasium:CartPole-v1", "--timesteps", "40", "--seeds", seed, "--out", str(tmp_path / "r")]
        monkeypatch.setattr(sys, "argv", ["gymnasium_hopper", *options])
        gymnasium_hopper.main()
    found = json.loads((tmp_path / "r.json").read_text())
    assert list(found["seeds"]) == ["0", "1"]
    assert found["seeds"]["0"]["timesteps"] == 48
    assert found["seeds"]["0"]["evaluation_mean"] >= 8
    assert 0 < found["seeds"]["0"]["largest_kl"] <= 0.01
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
    assert "| 1 |" in (tmp_path / "r.md").read_text()
