import json
import os
import shutil

import pytest

import jtrpo
from jtrpo.tools import run as module
from jtrpo.tools.checkpoint import Checkpoints
from jtrpo.tools.run import run_training
from jtrpo.tools.run_directory import read_settings, read_summary, write_settings
from jtrpo.tools.settings import describe
from tests.tools.conftest import CONFIG


def test_a_run_leaves_settings_metrics_summary_and_picture(runs):
    directory = runs[2]
    settings = read_settings(directory)
    assert settings["settings"]["max_kl"] == pytest.approx(0.05)
    assert settings["settings"]["num_envs"] == 4
    assert settings["settings"]["seed"] == 0
    assert set(settings["versions"]) == {"jtrpo", "jax", "device"}
    summary = read_summary(directory)
    assert len(summary["evaluation_returns"]) == 2
    assert sum(summary["evaluation_returns"]) / 2 == pytest.approx(summary["evaluation_return"])
    assert (directory / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert len((directory / "metrics.csv").read_text().splitlines()) == 1 + CONFIG.num_updates


def test_a_run_under_way_has_no_summary(tmp_path):
    assert read_summary(tmp_path) is None
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json"):
        read_settings(tmp_path)


def test_a_finished_run_that_is_resumed_keeps_its_summary(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "EVALUATION_EPISODES", 2)
    shutil.copytree(runs[0], tmp_path / "run")
    numbers = jtrpo.Hyperparams(max_kl=0.01)
    for kept in (True, False):
        before = read_summary(tmp_path / "run")
        with Checkpoints(tmp_path / "run", CONFIG, numbers, 0) as checkpoints:
            run_training(CONFIG, 0, numbers, checkpoints=checkpoints, restored=checkpoints.restore())
        after = read_summary(tmp_path / "run")
        assert (after == before) == kept
        (tmp_path / "run" / "summary.json").unlink()  # as if it had been killed just before
    assert after["evaluation_return"] == read_summary(runs[0])["evaluation_return"]


@pytest.mark.parametrize("content", ["{", "[]", '{"settings": 1}', "7", ""])
def test_what_is_damaged_is_named(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config\.json.*damaged"):
        read_settings(tmp_path)


def test_what_was_there_stays_where_the_new_cannot_be_written(tmp_path, monkeypatch):
    write_settings(tmp_path, describe(CONFIG, jtrpo.Hyperparams(), 3))
    before = (tmp_path / "config.json").read_text()
    assert json.loads(before)["settings"]["seed"] == 3

    def full(*names):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ValueError, match="No space left on device"):
        write_settings(tmp_path, describe(CONFIG, jtrpo.Hyperparams(), 4))
    assert (tmp_path / "config.json").read_text() == before
    assert [file.name for file in tmp_path.iterdir()] == ["config.json"]
