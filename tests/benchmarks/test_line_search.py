import json

import numpy as np
import pytest

from benchmarks import line_search

pytestmark = pytest.mark.long


def studied(tmp_path, monkeypatch):
    path = tmp_path / "study.json"
    arguments = ["--envs", "Pendulum-v1", "--seeds", "2", "--steps", "5120", "--out", str(path)]
    monkeypatch.setattr("sys.argv", ["line_search", *arguments])
    monkeypatch.setattr(line_search, "FACTORS", (1, 40))
    monkeypatch.delitem(line_search.METHODS, "NPG")
    line_search.main()
    study = json.loads(path.read_text())
    assert (study["seeds"], study["steps"]) == (2, 5120)
    entries = {(entry["method"], entry["factor"]): entry for entry in study["entries"]}
    assert set(entries) == {(method, factor) for method in ("TRPO", "TNPG") for factor in (1, 40)}
    for entry in entries.values():
        assert np.isfinite(entry["stochastic_return"]).all()
        assert len(entry["deterministic_return"]) == 2
    return entries


def test_the_file_has_an_entry_for_each_method_and_trust_region(tmp_path, monkeypatch, traced):
    traced(line_search)
    studied(tmp_path, monkeypatch)


@pytest.mark.long
def test_trpo_keeps_the_bound_that_the_others_cross(tmp_path, monkeypatch):
    entries = studied(tmp_path, monkeypatch)
    for (method, factor), entry in entries.items():
        if method == "TRPO":
            assert max(entry["largest_kl"]) <= 1
            assert entry["over"] == 0
        elif factor == 40:
            assert max(entry["largest_kl"]) > 1
            assert entry["backtracked"] == 0
    assert entries["TRPO", 40]["backtracked"] > 0
