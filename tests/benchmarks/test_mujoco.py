"""Seeds of a MuJoCo study go on where they stopped, and are put together."""

import json
import sys

import pytest

pytest.importorskip("envpool")
import jtrpo
from benchmarks import mujoco

SMALL = {"hidden_sizes": [8], "num_envs": 2, "num_steps": 64, "critic_minibatches": 1}


def test_what_ships_is_what_is_measured():
    assert mujoco.settings_of("InvertedDoublePendulum-v5", {}) == jtrpo.tuned("envpool:InvertedDoublePendulum-v5")


def test_seeds_with_other_settings_are_not_one_row(tmp_path):
    for seed, max_kl in enumerate((0.01, 0.01, 0.02)):
        (tmp_path / f"{seed}.json").write_text(json.dumps({"settings": {"max_kl": max_kl}}))
    with pytest.raises(
        SystemExit, match=r"2.json and .*0.json have other settings.*max_kl is 0.02 there and 0.01 here"
    ):
        mujoco.seeds_in(tmp_path)


@pytest.mark.slow
def test_seeds_are_trained_once_and_put_together(tmp_path, monkeypatch):
    monkeypatch.setattr(mujoco, "EPISODES", 2)
    monkeypatch.setattr(mujoco, "POINTS", 2)

    def main(*options):
        fixed = ["InvertedPendulum-v5", "--steps", "512", "--out", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", ["mujoco", *fixed, "--settings", json.dumps(SMALL), *options])
        mujoco.main()

    main("--seeds", "1")
    first = (tmp_path / "InvertedPendulum-v5" / "0.json").read_bytes()
    main("--seeds", "2")
    assert (tmp_path / "InvertedPendulum-v5" / "0.json").read_bytes() == first
    entry = json.loads((tmp_path / "InvertedPendulum-v5.json").read_text())
    assert entry["seeds"] == 2
    assert entry["kl_violations"] == 0
    assert len(entry["curve"]) == 2
    assert "InvertedPendulum-v5 | 512 | 2 |" in (tmp_path / "table.md").read_text()
    with pytest.raises(SystemExit, match="other settings"):
        main("--settings", "{}")
