import subprocess
import sys
from importlib.util import find_spec

import jax
import pytest

from jtrpo.tools.cli import _keep_compiled_programs, main
from jtrpo.tools.commands import envs


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


def test_envs_lists_what_can_be_trained(capsys):
    main(["envs"])
    out, err = capsys.readouterr()
    assert {"CartPole-v1", "Breakout-MinAtar"} <= set(out.split())
    assert ":" not in out
    for suite in ("gymnasium", "brax", "playground", "craftax", "jumanji", "xminigrid", "envpool", "atari"):
        assert f"jtrpo: {suite}: " in err
    main(["envs", "cartpole"])
    out, err = capsys.readouterr()
    assert {"CartPole-v1", "gymnasium:CartPole-v1"} <= set(out.split())
    assert "Acrobot-v1" not in out
    assert not err
    for package, suite in (("mujoco", "gymnasium"), ("envpool", "envpool")):
        if find_spec(package) is not None:
            main(["envs", "safetyhopper"])
            assert f"{suite}:SafetyHopperVelocity-v1" in capsys.readouterr().out


def test_envs_lists_the_others_where_a_suite_cannot_be_imported(monkeypatch, capsys):
    def broken():
        raise ImportError("libstdc++.so.6 is too old")

    monkeypatch.setitem(envs.SUITES, "envpool", ("numpy", "the extra envpool", broken))
    main(["envs"])
    seen = capsys.readouterr()
    assert "CartPole-v1" in seen.out
    assert "envpool: cannot be imported: libstdc++.so.6 is too old" in seen.err
    assert "envpool: none here (the extra envpool)" in seen.err


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
        (["train", "CartPole-v1", "--cost-limit", "5"], ["cost_limit", "give --constraint-method"]),
        (["train", "gymnasium:no_such_package:E-v0"], ["gymnasium:no_such_package:E-v0", "no_such_package"]),
        (["evaluate", "/no/such/folder"], ["/no/such/folder", "holds no checkpoint"]),
        (["evaluate", "/no/such/folder", "--episodes", "0"], ["episodes", "at least 1"]),
        (["train", "CartPole-v1", "--num-envs", "x"], ["num-envs", "x"]),
        (["train"], ["ENV"]),
        (["envs", "zzz"], ["no id has 'zzz'"]),
        (["tran"], ["tran", "train, tune, evaluate"]),
    ],
)
def test_wrong_input_exits_with_2_and_a_message_without_traceback(arguments, words, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    text = "".join(capsys.readouterr())
    assert all(word in text for word in words), text
    assert "Traceback" not in text


@pytest.mark.long  # tests/inputs/test_command_line.py starts two more
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


@pytest.mark.slow
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
