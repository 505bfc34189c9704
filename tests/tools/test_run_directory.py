import json
import os

import pytest

from jtrpo.tools.run_directory import read_settings, read_summary, write_settings
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


@pytest.mark.parametrize("content", ["{", "[]", '{"settings": 1}', "7", ""])
def test_what_is_damaged_is_named(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config\.json.*damaged"):
        read_settings(tmp_path)


def test_what_was_there_stays_where_the_new_cannot_be_written(tmp_path, monkeypatch):
    import jtrpo

    write_settings(tmp_path, CONFIG, jtrpo.Hyperparams(), 3)
    before = (tmp_path / "config.json").read_text()
    assert json.loads(before)["settings"]["seed"] == 3

    def full(*names):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ValueError, match="No space left on device"):
        write_settings(tmp_path, CONFIG, jtrpo.Hyperparams(), 4)
    assert (tmp_path / "config.json").read_text() == before
    assert [file.name for file in tmp_path.iterdir()] == ["config.json"]
