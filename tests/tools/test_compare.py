import json

import jax
import matplotlib.pyplot as plt
import numpy as np
import pytest

import jtrpo
from jtrpo.tools import run as module
from jtrpo.tools.checkpoint import Checkpoints
from jtrpo.tools.cli import main
from jtrpo.tools.compare import compare_runs, read_metrics
from jtrpo.tools.run import run_training

CONFIG = jtrpo.TrainConfig("CartPole-v1", total_timesteps=640, num_envs=4, num_steps=16, hidden_sizes=(4,))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root, folders = tmp_path_factory.mktemp("runs"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "EVALUATION_EPISODES", 2)
        for max_kl, seed in ((0.01, 0), (0.01, 1), (0.05, 0)):
            numbers = jtrpo.Hyperparams(max_kl=max_kl)
            folders.append(root / f"{max_kl}-{seed}")
            with Checkpoints(folders[-1], CONFIG, numbers, seed) as checkpoints:
                run_training(CONFIG, seed, numbers, checkpoints=checkpoints)
    return folders


def test_seeds_share_a_curve_and_settings_name_it(folders):
    axes = compare_runs(folders, "policy.kl")
    first, second = axes.lines
    assert first.get_label() == "max_kl=0.01 (2 seeds)"
    assert second.get_label() == "max_kl=0.05"
    tables = [read_metrics(folder) for folder in folders]
    np.testing.assert_allclose(first.get_ydata(), np.median([table["policy.kl"] for table in tables[:2]], axis=0))
    np.testing.assert_array_equal(first.get_xdata(), np.arange(64, 641, 64))
    assert len(axes.collections) == 1  # the band of the one with two seeds
    plt.close(axes.figure)


def test_the_command_writes_the_picture_and_names_what_is_wrong(folders, tmp_path, capsys):
    picture = tmp_path / "runs.png"
    main(["plot", *map(str, folders), "--out", str(picture)])
    assert picture.read_bytes().startswith(b"\x89PNG")
    for arguments, words in (
        ([str(tmp_path)], ["holds no metrics.csv", str(tmp_path)]),
        ([str(folders[0]), "--metric", "policy.k"], ["metric must be one of", "'policy.kl'", "'policy.k'"]),
        ([str(folders[0]), "--out", "/no/such/folder/x.png"], ["/no/such/folder", "make it first"]),
    ):
        with pytest.raises(SystemExit) as caught:
            main(["plot", *arguments])
        assert caught.value.code == 2
        text = capsys.readouterr().err
        assert all(word in text for word in words), text


def test_metrics_of_a_killed_run_are_read_up_to_the_torn_line(folders, tmp_path):
    torn = tmp_path / "metrics.csv"
    torn.write_text((folders[0] / "metrics.csv").read_text()[:-20])
    assert read_metrics(tmp_path)["update"].tolist() == list(range(1, 10))
    json.dumps(jax.tree.map(float, read_metrics(tmp_path)["policy.kl"].tolist()))
