"""Whatever is typed, and wherever: it works, or one line says what to do instead."""

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import types

import jax
import pytest

from jtrpo.tools import cli
from jtrpo.tools import run as module
from jtrpo.tools.checkpoint import Checkpoints
from jtrpo.tools.commands import train
from jtrpo.tools.options import parse
from jtrpo.tools.progress import Progress
from jtrpo.tools.run import run_training
from jtrpo.tools.wandb import WandB
from tests.inputs.folders import CONFIG, NUMBERS, PENDULUM, change, save, start

TINY = ["--total-timesteps", "24", "--num-envs", "2", "--num-steps", "4", "--hidden-sizes", "4", "--quiet"]


@pytest.fixture(autouse=True)
def few_episodes(monkeypatch):
    monkeypatch.setattr(module, "EVALUATION_EPISODES", 2)


def refused(arguments, capsys, code=2):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    out, err = capsys.readouterr()
    assert caught.value.code == code, err
    assert "Traceback" not in out + err
    return err


@pytest.mark.parametrize("seed", ["4294967296", "-1", "18446744073709551616"])
@pytest.mark.parametrize("command", ["train", "evaluate", "watch"])
def test_a_seed_out_of_range_is_refused_with_the_range(command, seed, capsys):
    err = refused([command, "CartPole-v1", "--seed", seed], capsys)
    assert f"seed must be a whole number from 0 to 4,294,967,295 (2**32 - 1); got {seed}" in err


@pytest.mark.parametrize(
    "typed", [["plot", ""], ["watch", ""], ["report", "a", ""], ["train", "CartPole-v1", "--checkpoint-dir="]]
)
def test_an_empty_argument_is_not_this_folder(typed, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "must not be empty (a variable of the shell that is not set?)" in refused(typed, capsys)
    assert not list(tmp_path.iterdir())


def test_what_ships_gives_way_to_what_is_typed_and_only_to_that():
    typed = parse(["train", "MountainCar-v0", "--sampling", "vine", "--max-kl", "0.025", "--num-steps", "32"])
    # Values that are those that ship, or the defaults, were typed all the same.
    assert typed.given == {"sampling": "vine", "max_kl": 0.025, "num_steps": 32}
    assert parse(["train", "CartPole-v1"]).given == {}
    assert parse(["train", "Acrobot-v1", "--reuse", "4", "--seed", "3"]).given == {"reuse": 4}


def test_vine_is_trained_where_reuse_ships(capsys, monkeypatch):
    seen = []

    def stop(config, *rest, **more):
        seen.append(config)
        raise ValueError("enough")

    monkeypatch.setattr(train, "run_training", stop)
    err = refused(["train", "Acrobot-v1", "--sampling", "vine", "--quiet"], capsys)
    assert (
        "jtrpo: reuse=4, which ships for Acrobot-v1, does not go with sampling='vine', and gives way to the default reuse=1"
        in err
    )
    assert (seen[0].sampling, seen[0].reuse, seen[0].cg_iterations) == ("vine", 1, 30)


@pytest.mark.slow
def test_no_episode_ends_and_the_summary_comes_before_any_picture(tmp_path, capsys, monkeypatch):
    folder, picture = tmp_path / "h=[8]", tmp_path / "curve.png"
    run = ["train", "Pendulum-v1", "--json", "--checkpoint-dir", str(folder), *TINY]
    cli.main(run)
    assert json.loads(capsys.readouterr().out)["total_timesteps"] == 24
    assert (folder / "curve.png").exists()
    cli.main(["plot", str(folder), "--out", str(picture)])
    cli.main(["report", str(folder), "--out", str(tmp_path / "report.html")])
    assert picture.exists()
    capsys.readouterr()

    def broken(*_):
        raise OSError(28, "No space left on device", str(picture))

    monkeypatch.setattr(train, "save_figure", broken)
    with pytest.raises(SystemExit):
        cli.main([*run, "--resume", "--plot", str(picture)])
    out, err = capsys.readouterr()
    assert json.loads(out)["total_timesteps"] == 24
    assert "No space left on device" in err
    for arguments, words in (
        (run, ["already holds checkpoints, up to update 3", "add --resume"]),
        ([*run, "--resume", "--seed", "1"], ["seed is 0 there and 1 here"]),
    ):
        err = refused(arguments, capsys)
        assert all(word in err for word in words), err


def test_pictures_that_cannot_be_written_are_refused_before_anything_begins(tmp_path, capsys):
    (tmp_path / "folder.png").mkdir()
    for command in (
        ["train", "CartPole-v1", "--plot"],
        ["plot", str(tmp_path), "--out"],
        ["report", str(tmp_path), "--out"],
    ):
        for name, words in (("folder.png", "is a folder"), ("nowhere/x.png", "does not exist; make it first")):
            assert words in refused([*command, str(tmp_path / name)], capsys)
    assert "must end with .png, .svg or .pdf" in refused(["train", "CartPole-v1", "--plot", "x.doc"], capsys)
    assert "tensorboard=" in refused(["train", "CartPole-v1", "--tensorboard", __file__], capsys)


def test_a_strangers_environment_is_taken_from_the_command_line_alone(tmp_path, capsys):
    save(tmp_path, [start()])
    change(tmp_path, 0, settings={"env": "gymnasium:stranger:CartPole-v1"})
    err = refused(["evaluate", str(tmp_path)], capsys)
    assert "give env='gymnasium:stranger:CartPole-v1'" in err
    cli.main(["evaluate", str(tmp_path), "--env", "CartPole-v1", "--episodes", "2", "--json"])
    assert json.loads(capsys.readouterr().out)["episodes"] == 2


# Weights & Biases


class Fake(types.ModuleType):
    """As much of W&B as is called."""

    def __init__(self, error=None):
        super().__init__("wandb")
        self.calls, self.error, self.errors = [], error, types.SimpleNamespace(Error=ArithmeticError)

    def init(self, **given):
        self.calls.append(given)
        if self.error is not None:
            raise self.error
        run = types.SimpleNamespace(id=given.get("id") or f"id{len(self.calls)}", log=lambda *_, **__: None)
        run.finish = lambda exit_code: None
        return run


def test_a_resumed_run_goes_on_with_the_same_run_of_wandb(tmp_path, monkeypatch):
    fake = Fake()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for resume in (False, True, True, False, True):
        with WandB(CONFIG, folder=tmp_path, resume=resume, project="p"):
            pass
    assert [call.get("id") for call in fake.calls] == [None, "id1", "id1", None, "id4"]
    assert [call.get("resume") for call in fake.calls] == [None, "allow", "allow", None, "allow"]
    (tmp_path / "wandb-id.txt").write_text("../../x y")
    WandB(CONFIG, folder=tmp_path, resume=True)
    assert fake.calls[-1].get("id") is None


def test_without_a_login_to_wandb_one_line_says_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", Fake(ArithmeticError("api_key not configured (no-tty)")))
    err = refused(["train", "CartPole-v1", "--wandb", "p", "--checkpoint-dir", str(tmp_path / "run"), *TINY], capsys)
    assert "api_key not configured" in err
    assert "`wandb login`, or set WANDB_MODE=offline" in err


# The process


@pytest.mark.slow
def test_a_reader_that_has_seen_enough_ends_the_command_quietly():
    read, write = os.pipe()
    os.close(read)  # what `| head` does
    done = subprocess.run(
        [sys.executable, "-m", "jtrpo", "envs"],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
        env=bare(),
    )
    os.close(write)
    assert done.returncode == 128 + signal.SIGPIPE, done.stderr
    assert done.stderr == ""


def bare(**more):
    path = os.pathsep.join(sys.path)
    return {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu", "PATH": os.environ["PATH"], **more}


NOBODY = """
import pwd, sys
def nobody(_):
    raise KeyError("uid not found")
pwd.getpwuid = nobody
from jtrpo.tools.cli import main
for command in (["train", "--help"], ["envs"]):
    sys.argv = ["jtrpo", *command]
    try:
        main()
    except SystemExit as ended:
        assert ended.code == 0
"""


@pytest.mark.slow
def test_without_docstrings_a_home_a_name_or_more_than_ascii():
    """Python -OO, an empty environment, a user whom nobody knows, and a terminal of few characters."""
    pytest.importorskip("pwd")
    command = [sys.executable, "-OO", "-c", NOBODY]
    done = subprocess.run(command, capture_output=True, timeout=200, env=bare(PYTHONIOENCODING="ascii"), cwd="/")
    assert done.returncode == 0, done.stderr.decode()
    assert b"--total-timesteps" in done.stdout
    assert b"Pendulum-v1" in done.stdout
    assert b"Traceback" not in done.stderr


def test_without_a_home_nothing_is_kept_and_the_command_goes_on(monkeypatch, tmp_path):
    def nobody():
        raise RuntimeError("Could not determine home directory.")

    before = jax.config.values["jax_compilation_cache_dir"]
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setattr("pathlib.Path.home", nobody)
        cli._keep_compiled_programs()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        (tmp_path / "file").touch()  # and where it cannot be made
        cli._keep_compiled_programs()
        assert jax.config.values["jax_compilation_cache_dir"] is None
        monkeypatch.setattr("pathlib.Path.expanduser", lambda path: nobody())
        assert Checkpoints(tmp_path / "~", CONFIG).directory == tmp_path / "~"
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (PermissionError(13, "Permission denied", "/x"), 2, "'/x': Permission denied"),
        (OSError("odd"), 2, "odd"),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\nmore"), 1, "lower --num-envs"),
    ],
    ids=str,
)
def test_what_goes_wrong_outside_is_told_in_one_line(error, code, words, monkeypatch, capsys):
    def raises(command):
        raise error

    monkeypatch.setattr("jtrpo.tools.commands.Envs.run", raises)
    err = refused(["envs"], capsys, code)
    assert words in err
    assert len(err.splitlines()) == 1


def test_a_gauge_of_few_characters():
    written = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    with contextlib.redirect_stderr(written):
        progress = Progress(PENDULUM)
        progress._live = True
        run_training(PENDULUM, 0, NUMBERS, progress)
        progress._close()
    written.flush()
    assert re.search(rb"[#-]{20} \S+ of 0.005", written.buffer.getvalue())
