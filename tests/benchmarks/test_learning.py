import json

import numpy as np
import pytest

from benchmarks import learning

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("learning")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learning, "EPISODES", 4)
        patch.setattr("sys.argv", ["learning", "Catch-bsuite", "--seeds", "3", "--steps", "9000", "--out", str(folder)])
        learning.main()
    return folder


def test_the_json_tells_the_runs_and_what_went_wrong(folder):
    entry = json.loads((folder / "Catch-bsuite.json").read_text())
    assert (entry["env"], entry["seeds"]) == ("Catch-bsuite", 3)
    assert entry["total_timesteps"] >= 9000
    for name in ("deterministic_return", "stochastic_return"):
        assert len(entry[name]) == 3
        assert all(-1 <= value <= 1 for value in entry[name])
    assert len({len(entry["timesteps"]), *map(len, entry["curve"])}) == 1
    assert 0 < entry["accepted_fraction"] <= 1
    assert (entry["kl_violations"], entry["non_finite"]) == (0, 0)
    assert 0 < entry["kl_share"] <= 1


def test_table_and_picture_are_drawn_again_from_the_json(folder, monkeypatch, capsys):
    before = (folder / "table.md").read_text()
    (folder / "table.md").unlink()
    (folder / "curves.png").unlink()
    monkeypatch.setattr("sys.argv", ["learning", "--redraw", str(folder)])
    learning.main()
    assert (folder / "table.md").read_text() == before
    assert "Catch-bsuite" in capsys.readouterr().out
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = [low <= 0 <= high for low, high in (learning.interval(rng.normal(size=20).tolist()) for _ in range(60))]
    assert 0.85 <= np.mean(covered) <= 1.0
    assert learning.interval([5.0, 5.0, 5.0]) == (5.0, 5.0)
    nearly_all_equal = [500.0] * 19 + [200.0]  # an interquartile mean that hardly varies
    assert learning.interval(nearly_all_equal, learning.interquartile_mean) == (500.0, 500.0)


def test_interquartile_mean_ignores_the_outer_quarters():
    assert learning.interquartile_mean(np.array([-1000.0, 1, 2, 3, 4, 5, 6, 1000])) == 3.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--out"),
        (["CartPol-v1", "--out", "x"], "did you mean CartPole-v1"),
        (["CartPole-v1", "--seeds", "0", "--out", "x"], "--seeds"),
    ],
)
def test_wrong_arguments_are_named_before_anything_runs(arguments, message, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["learning", *arguments])
    with pytest.raises(SystemExit):
        learning.main()
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
