import json
import subprocess
import sys

import jax
import pytest

from jtrpo.tools.cli import _keep_compiled_programs, main

TINY = ["--total-timesteps", "600", "--num-envs", "4", "--num-steps", "64", "--hidden-sizes", "8"]


@pytest.fixture
def nowhere():
    """No place for compiled programs is chosen."""
    with pytest.MonkeyPatch.context() as patch:
        names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
        before = {name: jax.config.values[name] for name in names}
        jax.config.update(names[0], None)
        yield patch
        for name, value in before.items():
            jax.config.update(name, value)


def test_compiled_programs_are_kept_in_the_users_cache_unless_a_place_is_chosen(tmp_path, nowhere):
    nowhere.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    _keep_compiled_programs()
    assert jax.config.values["jax_compilation_cache_dir"].startswith(str(tmp_path / "cache" / "jtrpo"))
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
    _keep_compiled_programs()
    assert jax.config.values["jax_compilation_cache_dir"] == str(tmp_path / "mine")


def test_train_ends_with_the_summary_as_json_and_a_picture(tmp_path, capsys):
    picture = tmp_path / "curve.png"
    main(["train", "CartPole-v1", "--seed", "3", "--json", "--plot", str(picture), *TINY])
    out, err = capsys.readouterr()
    summary = json.loads(out.splitlines()[-1])
    assert set(summary) == {
        "env", "seed", "total_timesteps", "evaluation_return", "evaluation_std", "steps_per_second",
        "compile_seconds", "run_seconds", "accepted_fraction", "max_kl_seen", "refused", "critic_refused", "invalid_samples",
    }  # fmt: skip
    assert (summary["env"], summary["seed"], summary["total_timesteps"]) == ("CartPole-v1", 3, 768)
    assert summary["evaluation_return"] >= 8
    assert 0 < summary["max_kl_seen"] <= 0.01  # what ships for CartPole
    assert "768 steps" in err
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_options_reach_the_settings(capsys, monkeypatch):
    main(["train", "CartPole-v1", "--json", "--max-kl", "0.0001", *TINY])
    assert 0 < json.loads(capsys.readouterr().out)["max_kl_seen"] <= 0.0001

    def no_more(config, *_, **__):
        assert (config.cg_iterations, config.num_envs, config.hidden_sizes) == (2, 4, (8,))
        raise ValueError("these are the settings")

    monkeypatch.setattr("jtrpo.tools.commands.train.run_training", no_more)
    with pytest.raises(SystemExit):
        main(["train", "CartPole-v1", "--cg-iterations", "2", *TINY])
    assert "these are the settings" in capsys.readouterr().err


def test_every_setting_is_an_option_with_help(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["train", "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for name in ("--total-timesteps", "--fisher-fraction", "--critic-epochs", "--max-kl", "--gae-lambda", "--seed"):
        assert name in text
    assert "trust region delta" in text


def test_a_saved_run_is_evaluated_resumed_and_kept(tmp_path, capsys):
    folder = tmp_path / "run"
    run = ["train", "CartPole-v1", "--checkpoint-dir", str(folder), "--json", *TINY]
    main(run)
    trained = json.loads(capsys.readouterr().out)
    main(["evaluate", str(folder), "--episodes", "8", "--json"])
    scored = json.loads(capsys.readouterr().out)
    assert (scored["env"], scored["update"], scored["episodes"]) == ("CartPole-v1", 3, 8)
    assert scored["deterministic_return"] >= 8
    main(["evaluate", str(folder), "--episodes", "8"])
    assert f"return {scored['deterministic_return']:.1f}" in capsys.readouterr().out
    main([*run, "--resume"])
    out, err = capsys.readouterr()
    assert json.loads(out)["evaluation_return"] == trained["evaluation_return"]
    assert "going on after update 3" in err
    for more, words in (
        ([], ["already holds checkpoints, up to update 3", "add --resume"]),
        (["--resume", "--seed", "1"], ["seed is 0 there and 1 here"]),
        (["--resume", "--gamma", "0.5"], ["gamma is 0.99 there and 0.5 here"]),
    ):
        with pytest.raises(SystemExit) as caught:
            main([*run, *more])
        assert caught.value.code == 2
        text = capsys.readouterr().err
        assert all(word in text for word in words), text


@pytest.mark.slow  # of parts that are tested in tests/training/test_host.py and here
def test_gymnasium_trains_saves_resumes_and_is_evaluated(tmp_path, capsys):
    folder = tmp_path / "run"
    run = ["train", "gymnasium:CartPole-v1", "--checkpoint-dir", str(folder), "--json", *TINY]
    main(run)
    trained = json.loads(capsys.readouterr().out)
    assert (trained["env"], trained["total_timesteps"]) == ("gymnasium:CartPole-v1", 768)
    assert trained["evaluation_return"] >= 8
    main([*run, "--total-timesteps", "1024", "--resume"])
    out, err = capsys.readouterr()
    assert json.loads(out)["total_timesteps"] == 1024
    assert "going on after update 3" in err
    main(["evaluate", str(folder), "--episodes", "4", "--json"])
    assert json.loads(capsys.readouterr().out)["deterministic_return"] >= 8


def test_envs_lists_what_can_be_trained(capsys):
    main(["envs"])
    lines = capsys.readouterr().out.split()
    assert "CartPole-v1" in lines
    assert "Breakout-MinAtar" in lines


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "CartPol-v1"], ["CartPol-v1", "did you mean CartPole-v1"]),
        (["train", "gymnasium:CartPol-v1"], ["gymnasium:CartPol-v1", "CartPole"]),
        (["train", "CartPole-v1", "--max-kl", "-1"], ["max_kl", "above 0", "-1"]),
        (["train", "CartPole-v1", "--num-envs", "0"], ["num_envs", "at least 1", "0"]),
        (["train", "CartPole-v1", "--seed", "-1"], ["seed", "-1"]),
        (["train", "CartPole-v1", "--plot", "/no/such/folder/x.png"], ["plot", "/no/such/folder"]),
        (["train", "CartPole-v1", "--checkpoint-dir", __file__], ["checkpoint_dir", "is a file"]),
        (["train", "CartPole-v1", "--checkpoint-every", "0"], ["checkpoint_every", "at least 1"]),
        (["train", "CartPole-v1", "--resume"], ["--checkpoint-dir"]),
        (["evaluate", "/no/such/folder"], ["/no/such/folder", "holds no checkpoint"]),
        (["evaluate", "/no/such/folder", "--episodes", "0"], ["episodes", "at least 1"]),
        (["train", "CartPole-v1", "--num-envs", "x"], ["num-envs", "x"]),
        (["train"], ["ENV"]),
        (["tran"], ["tran", "train, evaluate"]),
    ],
)
def test_wrong_input_exits_with_2_and_a_message_without_traceback(arguments, words, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    text = "".join(capsys.readouterr())
    assert all(word in text for word in words), text
    assert "Traceback" not in text


@pytest.mark.slow  # tests/inputs/test_command_line.py starts two more
def test_the_module_runs_as_a_program():
    done = subprocess.run([sys.executable, "-m", "jtrpo", "envs"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Pendulum-v1" in done.stdout


def test_without_a_command_it_shows_the_commands(capsys):
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert all(command in out for command in ("train", "evaluate", "watch", "plot", "report", "envs"))


def test_watch_writes_an_animation_and_names_what_is_wrong(runs, tmp_path, capsys):
    pytest.importorskip("pygame")
    file = tmp_path / "policy.gif"
    main(["watch", str(runs[0]), "--out", str(file)])
    assert file.read_bytes().startswith(b"GIF8")
    assert "CartPole-v1: " in capsys.readouterr().out
    for arguments, word in (([str(tmp_path)], "holds no checkpoint"), ([str(runs[0]), "--out", "a.mp4"], ".gif")):
        with pytest.raises(SystemExit) as caught:
            main(["watch", *arguments])
        assert caught.value.code == 2
        assert word in capsys.readouterr().err


def test_training_logs_to_tensorboard_and_says_what_it_wrote(tmp_path, capsys):
    pytest.importorskip("tensorboardX")
    events, picture = tmp_path / "events", tmp_path / "curve.png"
    main(["train", "CartPole-v1", "--quiet", "--tensorboard", str(events), "--plot", str(picture), *TINY])
    assert list(events.iterdir())
    assert capsys.readouterr().out.splitlines()[-1] == f"see {picture}"
