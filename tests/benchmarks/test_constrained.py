"""Seeds within a limit on costs go on where they stopped, and are put together."""

import json
import sys

import pytest

pytest.importorskip("envpool")
pytest.importorskip("mujoco")
from benchmarks import constrained, mujoco

SMALL = {"hidden_sizes": [8], "num_envs": 2, "num_steps": 64, "critic_epochs": 1, "critic": "gauss_newton"}


@pytest.mark.slow
def test_seeds_are_trained_once_and_put_together(tmp_path, monkeypatch):
    monkeypatch.setattr(mujoco, "EPISODES", 1)
    monkeypatch.setattr(mujoco, "POINTS", 2)

    def main(*options):
        fixed = ["Hopper", "--methods", "cpo", "--steps", "256", "--out", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", ["constrained", *fixed, "--settings", json.dumps(SMALL), *options])
        constrained.main()

    main("--seeds", "1")
    first = (tmp_path / "Hopper" / "cpo" / "0.json").read_bytes()
    main("--seeds", "2")
    assert (tmp_path / "Hopper" / "cpo" / "0.json").read_bytes() == first
    seeds = constrained.gather(tmp_path)["Hopper", "cpo"]
    assert [each["kl_violations"] for each in seeds] == [0, 0]
    assert [len(curve) for each in seeds for curve in each["curves"]] == [2] * 4
    row = (tmp_path / "table.md").read_text().splitlines()[-1]
    assert row.startswith("| Hopper | cpo | 256 | 2 |")
    assert row.endswith("| 0 | 1,714 at 13 |")
    assert (tmp_path / "curves.png").exists()
    with pytest.raises(SystemExit, match="other settings"):
        main("--settings", "{}")
