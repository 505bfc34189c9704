import json

import numpy as np
import pytest

import jtrpo
from benchmarks import search

pytestmark = pytest.mark.long


def test_every_draw_is_a_setting_that_can_be_built():
    rng = np.random.default_rng(0)
    draws = [search.draw_config(rng, box=True) for _ in range(50)]
    configs = [jtrpo.TrainConfig("Pendulum-v1", **draw) for draw in draws]
    assert {config.batch_size for config in configs} == {512, 1024, 2048, 4096}
    assert {config.critic for config in configs} == {"adam", "gauss_newton"}
    numbers = [jtrpo.Hyperparams(**search.draw_numbers(rng)) for _ in range(50)]
    assert len(set(numbers)) == 50


def test_a_search_writes_what_it_tried_and_scores_it_by_mean_and_spread(tmp_path, monkeypatch, capsys, traced):
    traced(search)
    file = tmp_path / "tried.jsonl"
    small = {"num_envs": 4, "num_steps": 8, "hidden_sizes": (4,), "critic": "gauss_newton", "critic_epochs": 1}
    monkeypatch.setattr(search, "draw_config", lambda rng, box: small)
    arguments = [
        "Catch-bsuite",
        "--steps",
        "64",
        "--groups",
        "1",
        "--settings",
        "2",
        "--seeds",
        "2",
        "--out",
        str(file),
    ]
    monkeypatch.setattr("sys.argv", ["search", *arguments])
    search.main()
    entries = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(entries) == 2
    for entry in entries:
        np.testing.assert_allclose(entry["score"], np.mean(entry["returns"]) - 0.5 * np.std(entry["returns"]))
    assert "best so far" in capsys.readouterr().out
