import json
import math
from contextlib import nullcontext

import jax
import numpy as np
import pytest

import jtrpo
from jtrpo.tools.checkpoint.lock import Lock
from jtrpo.tools.cli import main
from jtrpo.tools.trainings import Trainings
from jtrpo.tools.tune import table, train_command, tune
from tests.probes import DISCRETE, MatchObservation

TINY = {"num_envs": [2], "critic_minibatches": [1], "hidden_sizes": [(4,)], "num_steps": [8]}
BUDGET = 9 * 16


def returns_of(setting, share, seeds):
    """Those of a made-up environment: best where max_kl is 0.01, and all the better the longer it trains."""
    distance = abs(math.log(setting.get("max_kl", 0.005) / 0.01))
    return [10 + share - distance + 0.001 * seed for seed in range(seeds)]


@pytest.fixture
def made_up(monkeypatch):
    """Nothing is trained; what would have been is listed."""
    calls = []

    def go_on(group, alive, share, keys):
        calls.append((group.static, list(alive), share, len(keys)))
        return np.array([returns_of(group.settings[i], share, len(keys)) for i in alive])

    monkeypatch.setattr(Trainings, "go_on", go_on)
    return calls


def test_a_third_goes_on_three_times_as_long_and_the_best_is_compared_on_fresh_seeds(made_up):
    search = tune("CartPole-v1", {"num_steps": [8, 16]}, total_timesteps=20_000, candidates=27, seeds=3)
    distance = [abs(math.log(each.get("max_kl", 0.005) / 0.01)) for each in search.settings]
    order = np.argsort(distance, kind="stable")
    for number, kept in enumerate((27, 9, 3)):
        assert set(np.flatnonzero(~np.isnan(search.scores[number]))) == set(order[:kept])
    assert search.best == {"total_timesteps": 20_000, **search.settings[order[0]]}
    assert [each.get("num_steps") for each in search.settings] == [8] * 14 + [16] * 13
    assert [each for each in search.settings if len(each) == 1] == [{"num_steps": 8}, {"num_steps": 16}]  # as shipped
    shares = [share for _, _, share, seeds in made_up if seeds == 3]
    assert sorted(set(shares)) == [1 / 9, 1 / 3, 1]
    assert [(static, share, seeds) for static, _, share, seeds in made_up[-2:]] == [
        ({"num_steps": search.best["num_steps"]}, 1.0, 6),
        ({}, 1.0, 6),
    ]
    gain, error = search.gain
    assert gain == pytest.approx(math.log(2) - min(distance))
    assert error == pytest.approx(math.sqrt(2 * np.var(0.001 * np.arange(6), ddof=1) / 6))
    rows = table(search).splitlines()
    assert len(rows) == 12
    assert f"max_kl {search.best['max_kl']}" in rows[2]


def test_no_group_wins_all_ties_and_what_is_not_finite_comes_last(monkeypatch):
    score = lambda group, alive, share, keys: np.full((len(alive), len(keys)), -200.0)  # noqa: E731
    monkeypatch.setattr(Trainings, "go_on", score)
    search = tune("MountainCar-v0", {"num_steps": [2, 4, 8]}, candidates=27, seeds=2)
    left = np.flatnonzero(~np.isnan(search.scores[1]))
    assert [search.settings[i]["num_steps"] for i in left] == [2] * 3 + [4] * 3 + [8] * 3
    broken = lambda group, alive, share, keys: np.where(np.arange(len(alive)) == 1, 0.0, np.inf)[:, None] * np.ones(2)  # noqa: E731
    monkeypatch.setattr(Trainings, "go_on", broken)
    search = tune("CartPole-v1", {"max_kl": [0.01, 0.02]}, candidates=3, seeds=2)
    assert search.scores.tolist() == [[-np.inf, 0.0, -np.inf]]


def test_draws_stay_near_what_ships_and_are_those_of_the_seed(made_up):
    draw = lambda **seed: tune("Pendulum-v1", candidates=54, seeds=2, **seed).settings  # noqa: E731
    settings = draw()
    assert settings == draw() != draw(seed=1)
    _, ships = jtrpo.tuned("Pendulum-v1")
    for name, scale in (("max_kl", lambda x: x), ("gamma", lambda x: 1 - x), ("gae_lambda", lambda x: 1 - x)):
        near = np.array([scale(each[name]) for each in settings if name in each]) / float(scale(getattr(ships, name)))
        assert 0.249 < near.min() < 0.5
        assert 2 < near.max() < 4.01
    assert {each["num_steps"] for each in settings} == {8, 4, 2}
    assert all("critic_learning_rate" not in each for each in settings)  # it ships a Gauss-Newton critic
    drawn = tune("CartPole-v1", candidates=54, seeds=2).settings
    bonus = [each["entropy_coefficient"] for each in drawn if "entropy_coefficient" in each]  # none ships
    assert 0.001 <= min(bonus) < 0.003 < 0.1 < max(bonus) <= 0.3
    assert 15 < len(bonus) < 39
    given = tune("CartPole-v1", {"max_kl": [0.01, 0.02], "memory": ["gru"]}, candidates=9, seeds=2).settings
    assert {each["max_kl"] for each in given} == {0.01, 0.02}
    assert {each["memory"] for each in given} == {"gru"}


def test_a_search_goes_on_where_it_stopped_and_keeps_to_its_folder(made_up, tmp_path):
    search = lambda **more: tune("CartPole-v1", candidates=9, seeds=2, directory=tmp_path, **more)  # noqa: E731
    whole = search()
    done = len(made_up)
    again = search()
    assert len(made_up) == done
    np.testing.assert_array_equal(again.scores, whole.scores)
    file = tmp_path / "search.json"
    saved = json.loads(file.read_text())
    saved["returns"] = dict(list(saved["returns"].items())[:2])
    file.write_text(json.dumps(saved))
    np.testing.assert_array_equal(search().fresh, whole.fresh)
    assert len(made_up) == 2 * done - 2
    with pytest.raises(ValueError, match="holds a search with other settings and seed; choose another folder"):
        search(seed=1)
    with pytest.raises(ValueError, match="holds a search with other total_timesteps"):
        search(total_timesteps=50_000)
    file.write_text("{")
    with pytest.raises(ValueError, match="is damaged; remove it, or choose another folder"):
        search()


def test_one_search_at_a_time_in_a_folder(made_up, tmp_path):
    lock = Lock(tmp_path)
    lock.acquire()
    with pytest.raises(ValueError, match=r"directory='.*' is in use by this very process"):
        tune("CartPole-v1", candidates=9, seeds=2, directory=tmp_path)
    lock.release()

    def interrupt(line):
        raise KeyboardInterrupt

    for report in (interrupt, lambda line: None):  # both searches give it back, while the exception is still kept
        with pytest.raises(KeyboardInterrupt) if report is interrupt else nullcontext() as kept:
            tune("CartPole-v1", candidates=9, seeds=2, directory=tmp_path, report=report)
        lock.acquire()
        lock.release()
    del kept


def test_a_search_goes_on_that_was_saved_before_a_setting_existed(made_up, tmp_path):
    search = lambda **more: tune("CartPole-v1", candidates=9, seeds=2, directory=tmp_path, **more)  # noqa: E731
    search()
    done, file = len(made_up), tmp_path / "search.json"
    saved = json.loads(file.read_text())
    del saved["search"]["flatten_images"]
    file.write_text(json.dumps(saved))
    search()
    assert len(made_up) == done
    with pytest.raises(ValueError, match="holds a search with other settings and flatten_images; choose"):
        search(vary={"flatten_images": [True], "num_steps": [32, 16, 8]})


def test_the_command_prints_how_to_train_with_what_it_found(made_up, tmp_path, capsys, monkeypatch):
    typed = ["tune", "CartPole-v1", "--vary", "num-steps=8,9", "--vary", "hidden_sizes=[16,16]", "--vary", "memory=gru"]
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    main([*typed, "--candidates", "9", f"--checkpoint-dir=~/{tmp_path.name}"])  # where a shell leaves ~ as it is
    out = capsys.readouterr().out
    assert "train with jtrpo train CartPole-v1 --max-kl 0.0" in out
    assert "--hidden-sizes 16 16 --memory gru\n" in out
    assert (tmp_path / "table.md").read_text() in out
    assert (tmp_path / "scores.png").read_bytes().startswith(b"\x89PNG")
    assert made_up[-1][0] == {"hidden_sizes": (16, 16), "memory": "gru"}  # what ships, with what was fixed
    main(["tune", "CartPole-v1", "--vary", "num_steps=32", "--vary", "max_kl=.005", "--candidates", "3"])
    assert "nothing was found that is better than what ships" in capsys.readouterr().out
    typed = train_command("E-v1", {"hidden_sizes": (8, 8), "scale_rewards": False, "memory": None, "max_kl": 0.1})
    assert typed == "jtrpo train E-v1 --hidden-sizes 8 8 --no-scale-rewards --memory None --max-kl 0.1"


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["--vary", "num_steps"], "vary must be name=value,value,...; got 'num_steps'"),
        (["--vary", "steps=3"], "vary names 'steps', which is not a setting that can be varied"),
        (["--vary", "total_timesteps=3,4"], "'total_timesteps', which is not"),
        (["--vary", "max_kl=1", "--vary", "max_kl=2"], "vary names max_kl twice; give all of its values at once"),
        (["--vary", "constraint_method=cpo"], "constraint_method"),
        (["--vary", "constraint_method=cpo,pcpo"], "tune ranks by returns alone"),
        (["--vary", "max_kl=-1"], "max_kl must be a finite number above 0; got -1"),
        (["--vary", "memory=gur"], "memory must be one of"),
        (
            ["--candidates", "2", "--vary", "num_steps=1,2,3"],
            "candidates must be at least 3, one for each combination; got 2",
        ),
        (["--candidates", "1"], "candidates must be a whole number of at least 2; got 1"),
        (["--seeds", "1"], "seeds must be a whole number of at least 2; got 1"),
    ],
)
def test_wrong_input_is_refused(made_up, capsys, typed, words):
    with pytest.raises(SystemExit) as ended:
        main(["tune", "CartPole-v1", *typed])
    assert ended.value.code == 2
    assert words in capsys.readouterr().err
    assert not made_up


@pytest.mark.slow
def test_trainings_go_on_from_their_states():
    """In two parts they learn what one call of the whole training learns."""
    group = Trainings(MatchObservation(DISCRETE), {"total_timesteps": BUDGET}, {name: TINY[name][0] for name in TINY})
    group.settings += [{"max_kl": 0.003}, {"max_kl": 0.01}]
    keys = jax.random.split(jax.random.key(0), 2)
    group.go_on(np.arange(2), 1 / 3, keys)
    assert group.states.update.tolist() == [[3, 3], [3, 3]]
    group.go_on(np.array([1]), 1.0, keys)
    assert group.states.update.tolist() == [[9, 9]]
    train = jax.jit(jax.vmap(jtrpo.make_train(group.config), (0, None)))
    result = train(keys, group.numbers(group.settings[1]))
    for part, whole in zip(
        jax.tree.leaves(group.states.policy_params), jax.tree.leaves(result.state.policy_params), strict=True
    ):
        np.testing.assert_allclose(part[0], whole, rtol=1e-5, atol=1e-6)


@pytest.mark.long
@pytest.mark.parametrize("env", [MatchObservation(DISCRETE), "gymnasium:CartPole-v1"])
def test_a_search_trains_in_jax_and_on_the_host(env, caplog):
    search = tune(env, TINY, total_timesteps=BUDGET, candidates=9, seeds=2)
    assert np.isfinite(search.fresh).all()
    assert (~np.isnan(search.scores)).sum(axis=1).tolist() == [9, 3]
    assert not caplog.records
