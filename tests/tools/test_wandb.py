import sys

import pytest

import jtrpo
from jtrpo.tools.wandb import WandB
from tests.tools.conftest import CONFIG

package = pytest.importorskip("wandb")


def test_offline_run_holds_settings_and_what_each_update_reports(history, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    with WandB(CONFIG, jtrpo.Hyperparams(), 5, project="p", dir=str(tmp_path), mode="offline") as wandb:
        for update, metrics in enumerate(history, start=1):
            wandb(update, metrics)
            assert package.run.summary["train/kl"] == pytest.approx(float(metrics.policy.kl))
        settings = dict(package.run.config)
    assert (settings["env"], settings["num_envs"], settings["seed"]) == ("CartPole-v1", 4, 5)
    assert list(tmp_path.rglob("*.wandb"))


def test_the_extra_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match=r"pip install 'jtrpo\[wandb\]'"):
        WandB(CONFIG)
