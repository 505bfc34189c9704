import json

import jax
import matplotlib.pyplot as plt
import numpy as np
import pytest

from jtrpo.tools.cli import main
from jtrpo.tools.compare import compare_runs, group_runs, read_metrics


def test_seeds_share_a_curve_and_settings_name_it(runs):
    axes = compare_runs(runs, "policy.kl")
    first, second = axes.lines
    assert first.get_label() == "max_kl=0.01 (2 seeds)"
    assert second.get_label() == "max_kl=0.05"
    tables = [read_metrics(folder) for folder in runs]
    np.testing.assert_allclose(first.get_ydata(), np.median([table["policy.kl"] for table in tables[:2]], axis=0))
    np.testing.assert_array_equal(first.get_xdata(), np.arange(64, 641, 64))
    assert len(axes.collections) == 1  # the band of the one with two seeds
    plt.close(axes.figure)


def test_a_run_from_before_a_setting_existed_is_one_with_its_default(runs, tmp_path):
    saved = json.loads((runs[0] / "config.json").read_text())
    del saved["settings"]["flatten_images"]
    (tmp_path / "config.json").write_text(json.dumps(saved))
    (group,) = group_runs([tmp_path, runs[0]])
    assert group.folders == [tmp_path, runs[0]]


def test_a_run_that_is_named_twice_counts_once(runs):
    (group,) = group_runs([runs[0], runs[0].parent / "." / runs[0].name, runs[1]])
    assert group.folders == [runs[0], runs[1]]


def test_the_command_writes_the_picture_and_names_what_is_wrong(runs, tmp_path, capsys):
    picture = tmp_path / "runs.png"
    main(["plot", *map(str, runs), "--out", str(picture)])
    assert picture.read_bytes().startswith(b"\x89PNG")
    for arguments, words in (
        ([str(tmp_path)], ["holds no config.json", str(tmp_path)]),
        ([str(runs[0]), "--metric", "policy.k"], ["metric must be one of", "'policy.kl'", "'policy.k'"]),
        ([str(runs[0]), "--out", str(tmp_path / "runs")], ["must end with .png, .svg or .pdf", "runs"]),
        ([str(runs[0]), "--out", "/no/such/folder/x.png"], ["/no/such/folder", "make it first"]),
    ):
        with pytest.raises(SystemExit) as caught:
            main(["plot", *arguments])
        assert caught.value.code == 2
        text = capsys.readouterr().err
        assert all(word in text for word in words), text


def test_metrics_of_a_killed_run_are_read_up_to_the_torn_line(runs, tmp_path):
    torn = tmp_path / "metrics.csv"
    torn.write_text((runs[0] / "metrics.csv").read_text()[:-20])
    assert read_metrics(tmp_path)["update"].tolist() == list(range(1, 10))
    json.dumps(jax.tree.map(float, read_metrics(tmp_path)["policy.kl"].tolist()))
