"""Needs ``pip install '.[envpool]'``; skipped without it, but for what is said where it is missing."""

import sys

import jax
import numpy as np
import pytest
from gymnasium import spaces

import jtrpo
from jtrpo.envs.host_vector import HostVector
from jtrpo.tools.cli import main
from jtrpo.tools.watch import play

SMALL = {"num_envs": 2, "num_steps": 16, "total_timesteps": 96, "hidden_sizes": (4,), "critic_minibatches": 1}


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(ValueError, match=r'env=\'envpool:CartPole-v1\' needs EnvPool: pip install "jtrpo\[envpool\]"'):
        jtrpo.TrainConfig("envpool:CartPole-v1")


@pytest.fixture(scope="module")
def envpool():
    return pytest.importorskip("envpool")


@pytest.fixture(scope="module")
def trained(envpool):
    config = jtrpo.TrainConfig("envpool:CartPole-v1", **SMALL)
    trainer = jtrpo.make_host_trainer(config)
    return trainer, trainer.step(trainer.init(jax.random.key(0)))[0]


def test_spaces_and_time_limit_are_those_of_the_id(envpool):
    environment = jtrpo.TrainConfig("envpool:Hopper-v5").environment
    assert environment.max_episode_steps == 1000
    assert environment.observation_space == spaces.Box(-np.inf, np.inf, (11,), np.float64)
    assert environment.action_space == spaces.Box(-1.0, 1.0, (3,), np.float32)  # as Gymnasium has it
    assert jtrpo.TrainConfig("envpool:DmcCmuHumanoidRunGaps-v1").environment.max_episode_steps is None


def test_evaluation_is_a_function_of_state_and_key_and_does_not_disturb_the_training(trained):
    trainer, state = trained
    first, _ = trainer.step(state)
    one, other = (trainer.evaluate(state, jax.random.key(key), 4, deterministic=False) for key in (0, 1))
    assert (trainer.evaluate(state, jax.random.key(0), 4, deterministic=False) == one).all()
    assert (one != other).any()
    again, _ = trainer.step(first)
    assert int(again.update) == 3


def test_the_same_key_gives_the_same_training_and_another_key_another(trained):
    trainer, state = trained
    same, other = (trainer.step(trainer.init(jax.random.key(key)))[0] for key in (0, 1))
    mean = lambda state: np.asarray(state.observation_statistics.mean)  # noqa: E731
    np.testing.assert_array_equal(mean(same), mean(state))
    assert (mean(other) != mean(state)).all()


def test_a_vector_of_the_users_own_is_made_again_for_evaluation_with_its_settings(envpool):
    mine = envpool.make("CartPole-v1", env_type="gymnasium", num_envs=2, seed=1, num_threads=1, max_episode_steps=5)
    config = jtrpo.TrainConfig(mine, **SMALL)
    again = config.environment.make_evaluation(2, 7)
    assert again is not mine
    assert (again.config["seed"], again.config["num_threads"], again.config["max_episode_steps"]) == (7, 1, 5)
    trainer = jtrpo.make_host_trainer(config)
    state, _ = trainer.step(trainer.init(jax.random.key(0)))
    assert trainer.evaluate(state, jax.random.key(0), 4).tolist() == [5] * 4


def test_some_environments_begin_anew_while_the_others_go_on(envpool):
    vector = HostVector(jtrpo.TrainConfig("envpool:CartPole-v1").environment.make(3, 1))
    vector.reset(0)
    before = vector.step(np.ones(3, int)).observation
    kept = before.copy()
    observation, begun = vector.reset_where(np.array([False, True, False]))
    assert begun.tolist() == [False, True, False]
    np.testing.assert_array_equal(observation[[0, 2]], kept[[0, 2]])
    np.testing.assert_array_equal(before, kept)
    assert (observation[1] != kept[1]).all()
    elapsed = vector.env.step(np.ones(3, int))[-1]["elapsed_step"]
    assert elapsed.tolist() == [2, 1, 2]


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ("CartPol-v1", "did you mean CartPole-v1"),
        ("Nonsense", "list_all_envs"),
        ("Go9x9-v1", "has 2 players"),
        ("VizdoomCustom-v1", "cannot be made"),
    ],
)
def test_ids_that_cannot_be_trained_on_say_why(envpool, env, words):
    with pytest.raises(ValueError, match=rf"env='envpool:{env}' .*{words}"):
        jtrpo.TrainConfig(f"envpool:{env}")


@pytest.mark.slow
def test_a_run_is_saved_resumed_and_evaluated_without_a_warning(envpool, tmp_path, capsys):
    run = ["train", "envpool:CartPole-v1", "--checkpoint-dir", str(tmp_path / "run"), "--quiet"]
    run += ["--num-envs", "2", "--num-steps", "16", "--total-timesteps", "96", "--hidden-sizes", "4"]
    main(run)
    main([*run, "--resume"])
    main(["evaluate", str(tmp_path / "run"), "--episodes", "2"])
    out, err = capsys.readouterr()
    assert out.count("envpool:CartPole-v1: return") == 2
    assert "after 3 updates, 2 episodes" in out
    assert err.splitlines() == ["jtrpo: going on after update 3"]


def test_what_cannot_be_drawn_names_what_can(trained, envpool):
    config = jtrpo.TrainConfig("envpool:CartPole-v1", **SMALL)
    with pytest.raises(ValueError, match=r"envpool:CartPole-v1 cannot be drawn; .*env='gymnasium:...'"):
        play(config, trained[1], jax.random.key(0))
