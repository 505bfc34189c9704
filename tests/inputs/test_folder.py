"""What is in a run's folder, and what is asked of it, is served, refused in words before anything begins, or left alone."""

import dataclasses
import functools
import json
import math
import os
import pickle
import shutil
import signal
import subprocess
import sys
import textwrap

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

import jtrpo
from jtrpo.tools import run as module
from jtrpo.tools.checkpoint import Checkpoints, load
from jtrpo.tools.checkpoint import folder as checkpoint_folder
from jtrpo.tools.checkpoint.folder import read, updates_in
from jtrpo.tools.checkpoint.lock import Lock
from jtrpo.tools.checkpoint.state import to_arrays
from jtrpo.tools.compare import compare_runs, read_metrics
from jtrpo.tools.fingerprint import environment_name, fingerprint
from jtrpo.tools.plot import learning_curve
from jtrpo.tools.report import report
from jtrpo.tools.run import run_training
from jtrpo.tools.settings import describe, differences
from jtrpo.training.tuned import TUNED
from tests import probes
from tests.inputs.folders import CONFIG, NUMBERS, PENDULUM, at, change, contents, longer, save, start


@pytest.fixture(scope="module")
def state():
    return start()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run of three updates in Pendulum, in which no episode ends."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "EVALUATION_EPISODES", 2)
        with Checkpoints(folder, PENDULUM, NUMBERS, 0) as checkpoints:
            run_training(PENDULUM, checkpoints=checkpoints, checkpoint_every=1)
    return folder


def go_on(folder, config=PENDULUM, **settings):
    with Checkpoints(folder, config, NUMBERS, 0) as checkpoints:
        restored = checkpoints.restore(settings.pop("update", None))
        return run_training(config, checkpoints=checkpoints, restored=restored, **settings)


# Paths


@pytest.mark.parametrize(
    "name",
    [
        "h=[8]",
        "st*r",
        "qu?",
        "back\\slash",
        "gs:",
        "sp ace",
        "per%20cent",
        "ünï ✓",
        "-dash",
        "a=b,c",
        "new\nline",
        "sur\udce4",
        "~x",
    ],
    ids=ascii,
)
def test_every_path_that_a_folder_can_have(name, tmp_path, state):
    save(tmp_path / name / "run", [state])
    config, restored = load(tmp_path / name / "run")
    assert (config, restored.update) == (CONFIG, 0)
    assert not list((tmp_path / name / "run").glob(".jtrpo-[0-9]*"))


def test_what_was_written_is_read_back_before_it_counts(tmp_path, state, monkeypatch):
    save(tmp_path, [state])
    wrong = {name: value * 2 for name, value in to_arrays(state).items()}
    monkeypatch.setattr(checkpoint_folder, "read_arrays", lambda folder: wrong)
    with pytest.raises(ValueError, match=r"does not read back.*Make room, or mend the folder"):
        save(tmp_path, [at(state, 1)])
    assert updates_in(tmp_path) == [0]


def test_a_path_that_is_none_is_refused_in_words(tmp_path):
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for path, words in (("a\0b", "zero byte"), ("x" * 300, "too long"), (loop, "checkpoint_dir")):
        with pytest.raises(ValueError, match=words):
            Checkpoints(tmp_path / path, CONFIG)
    for path in (None, 3, b"run"):
        with pytest.raises(TypeError, match=f"directory must be a path, .*; got {path!r}"):
            jtrpo.load_policy(path)
        with pytest.raises(TypeError, match=f"checkpoint_dir must be a path, .*; got {path!r}"):
            Checkpoints(path, CONFIG)


# What is not jtrpo's


def test_a_folder_of_the_users_that_is_named_like_a_checkpoint_is_never_touched(tmp_path, state):
    for name in ("1", "2", "10", "007"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "notes.txt").write_text("mine")
    (tmp_path / ".jtrpo-2").mkdir()  # as one that is being written would be named
    (tmp_path / ".jtrpo-2" / "arrays.txt").write_text("mine")
    before = contents(tmp_path)
    with Checkpoints(tmp_path, CONFIG, keep=1) as checkpoints:
        assert checkpoints.updates() == []
        with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
            checkpoints.restore()
        for update in (1, 2, 3):
            checkpoints.save(at(state, update))
        assert checkpoints.updates() == [3]
        checkpoints.save(at(state, 10))
        assert checkpoints.restore().update == 10
    assert load(tmp_path)[1].update == 10
    left = contents(tmp_path)
    moved = {name.replace(".jtrpo-2", "2-jtrpo"): content for name, content in before.items()}
    assert moved.items() <= left.items()


def test_a_file_that_the_user_put_into_a_checkpoint_outlives_it(tmp_path, state):
    save(tmp_path, [at(state, 1)], keep=1)
    (tmp_path / "1" / "notes.txt").write_text("mine")
    (tmp_path / "1" / "arrays" / "more.txt").write_text("mine too")
    assert load(tmp_path)[1].update == 1
    save(tmp_path, [at(state, 2)], keep=1)
    assert updates_in(tmp_path) == [2]
    left = contents(tmp_path / "1")
    assert left == {"notes.txt": b"mine", "arrays": None, "arrays/more.txt": b"mine too"}
    save(tmp_path, [at(state, 1)], keep=5)  # its old name is taken
    assert updates_in(tmp_path) == [1, 2]
    assert contents(tmp_path / "1") == left


@pytest.mark.parametrize("name", ["metrics.csv", "config.json", "summary.json", "curve.png"])
def test_files_that_a_run_would_write_over_are_refused_before_it_begins(name, tmp_path):
    (tmp_path / name).write_text('{"mine": 1}')
    with (
        Checkpoints(tmp_path, CONFIG) as checkpoints,
        pytest.raises(ValueError, match=rf"holds {name}, which no run of jtrpo"),
    ):
        run_training(CONFIG, checkpoints=checkpoints)
    assert (tmp_path / name).read_text() == '{"mine": 1}'


def test_what_a_killed_process_left_is_cleared_and_nothing_else(tmp_path, state):
    save(tmp_path, [at(state, update) for update in (1, 2, 3)])
    (tmp_path / "1").rename(tmp_path / ".jtrpo-replaced-1")  # killed between the two names
    (tmp_path / "2" / "jtrpo.json").rename(tmp_path / "2" / ".jtrpo-leaving.json")  # killed while it was being removed
    (tmp_path / ".jtrpo-4" / "arrays.orbax-checkpoint-tmp").mkdir(parents=True)
    (tmp_path / ".jtrpo-5").mkdir()
    (tmp_path / ".jtrpo-5" / "notes.txt").write_text("mine")
    with Checkpoints(tmp_path, CONFIG) as checkpoints:
        checkpoints.claim()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".jtrpo-5", ".jtrpo-lock", "1", "3"]
    assert load(tmp_path)[1].update == 3


# Once more, and back


def test_the_same_update_twice_and_going_back_replace_what_was_there(tmp_path, state):
    with Checkpoints(tmp_path, CONFIG, keep=5) as checkpoints:
        for update in (1, 2, 3):
            checkpoints.save(at(state, update))
        back = checkpoints.restore(2).state
        changed = back._replace(key=jax.random.key(7))
        for _ in range(2):
            checkpoints.save(changed, score=5.0)
        assert checkpoints.updates() == [1, 2, 3]
        restored = checkpoints.restore(2)
        assert restored.score == 5.0
        assert (jax.random.key_data(restored.state.key) == jax.random.key_data(changed.key)).all()
        with pytest.raises(FileNotFoundError, match="holds no checkpoint 7; there are 1, 2, 3"):
            checkpoints.restore(7)
    with Checkpoints(tmp_path, CONFIG) as again:  # after its end, too
        again.wait()
    again.save(at(state, 4))
    again.__exit__(None, None, None)
    assert updates_in(tmp_path)[-1] == 4
    assert not [path for path in tmp_path.iterdir() if "replaced" in path.name]


def test_a_used_folder_is_refused_before_a_training_begins(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_compile", lambda *_, **__: pytest.fail("began"))
    with Checkpoints(trained, PENDULUM, NUMBERS, 0) as checkpoints:
        with pytest.raises(
            ValueError, match=r"already holds checkpoints, up to update 3; give restored=checkpoints\.restore\(\)"
        ):
            run_training(PENDULUM, checkpoints=checkpoints)
        with pytest.raises(
            ValueError, match="checkpoints are of other settings than the run: seed is 0 there and 1 here"
        ):
            run_training(PENDULUM, 1, checkpoints=checkpoints)
    with pytest.raises(ValueError, match="seed must be a whole number from 0 to 4,294,967,295"):
        run_training(PENDULUM, 2**32)
    with pytest.raises(ValueError, match="seed must be"):
        run_training(PENDULUM, -1)
    with pytest.raises(TypeError, match="seed must be"):
        run_training(PENDULUM, 1.0)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            lambda state: jax.tree.map(lambda x: x[None], state),
            r"state must be of one training; got .* shape \(1,\).*x\[0\]",
        ),
        (lambda state: state._replace(policy_params=()), "state has other parts"),
        (
            lambda state: state._replace(hyperparams=state.hyperparams._replace(max_kl=jnp.zeros(3))),
            r"state's hyperparams\.max_kl is float32\(3,\) there and float32\(\) in the training",
        ),
        (lambda state: dict(state._asdict()), "state must be a jtrpo.TrainState"),
    ],
)
def test_a_state_that_could_not_be_restored_is_not_saved(changed, words, tmp_path, state):
    with Checkpoints(tmp_path, CONFIG) as checkpoints, pytest.raises((TypeError, ValueError), match=words):
        checkpoints.save(changed(state))
    assert updates_in(tmp_path) == []


def test_a_donated_or_traced_state_is_refused_in_words(tmp_path, state):
    copy = jax.tree.map(jnp.copy, state)
    jax.tree.leaves(copy.policy_params)[0].delete()
    with Checkpoints(tmp_path, CONFIG) as checkpoints:
        with pytest.raises(ValueError, match="state was donated"):
            checkpoints.save(copy)
        with pytest.raises(TypeError, match="these are traced"):
            jax.jit(checkpoints.save)(state)


# Precision and keys


def test_the_other_precision_is_told_in_words_both_ways(tmp_path, state):
    save(tmp_path / "32", [state])
    with jax.enable_x64(True):
        save(tmp_path / "64", [start()])
        with pytest.raises(
            ValueError, match=r"has 32 bits and this process computes with 64: leave JAX_ENABLE_X64 unset"
        ):
            load(tmp_path / "32")
        assert load(tmp_path / "64")[1].update == 0
    with pytest.raises(ValueError, match=r"has 64 bits and this process computes with 32: set JAX_ENABLE_X64=1"):
        load(tmp_path / "64")
    with Checkpoints(tmp_path / "64", CONFIG) as checkpoints, pytest.raises(ValueError, match="has 64 bits"):
        checkpoints.restore()


@pytest.mark.parametrize("impl", ["rbg", "unsafe_rbg", "threefry2x32"])
def test_keys_of_every_implementation_come_back(impl, tmp_path):
    first = jtrpo.make_trainer(CONFIG).init(jax.random.key(0, impl=impl))
    save(tmp_path, [first])
    again = load(tmp_path)[1].state
    assert again.key.dtype == first.key.dtype
    assert (jax.random.key_data(again.key) == jax.random.key_data(first.key)).all()


# Nothing read from a file imports or calls by name


def test_a_checkpoint_that_names_a_module_is_not_obeyed(tmp_path, state, monkeypatch):
    save(tmp_path / "run", [state])
    (tmp_path / "stranger.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nimport gymnasium\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("gymnasium:stranger:CartPole-v1", "gymnasium:brax:X", "brax:stranger:x"):
        change(tmp_path / "run", 0, settings={"env": name})
        with pytest.raises(ValueError, match=r"would import a module; if you trust it, give env="):
            load(tmp_path / "run")
        with pytest.raises(ValueError, match="if you trust it"):
            jtrpo.load_policy(tmp_path / "run")
    for name in (["CartPole-v1"], {"a": 1}, 7, None):
        change(tmp_path / "run", 0, settings={"env": name})
        with pytest.raises(ValueError, match="give env="):
            load(tmp_path / "run")
    assert not (tmp_path / "ran").exists()
    assert load(tmp_path / "run", "CartPole-v1")[1].update == 0  # the caller's word is taken


@pytest.mark.parametrize(
    "changes",
    [
        {"settings": {"activation": "os.system"}},
        {"settings": {"memory": "os"}},
        {"settings": {"hidden_sizes": [{"__import__": "os"}]}},
        {"settings": {"box_distribution": "jtrpo.tools.cli.main"}},
        {"key": "numpy.random"},
        {"files": {"../../../etc/hostname": "x"}},
        {"files": ["x"]},
        {"versions": None},
        {"score": "high"},
        {"update": 5},
    ],
    ids=str,
)
def test_what_a_stranger_writes_into_a_checkpoint_is_refused_by_name(changes, tmp_path, state):
    save(tmp_path, [state])
    change(tmp_path, 0, **json.loads(json.dumps(changes)))
    with pytest.raises(ValueError, match=r"damaged|cannot be used|must be one of|does not know|hidden_sizes|settings"):
        load(tmp_path)


# Environments of one's own


class Gain(probes.TwoSteps):
    """Its reward is scaled by a number, a table and a function of one's own."""

    def __init__(self, gain=1.0, table=(1, 2), high=2.0, reward=None):
        super().__init__(probes.DISCRETE)
        self.gain, self.table, self.reward = gain, np.asarray(table), reward
        self.observation_space = spaces.Box(-2.0, high, (1,), np.float32)

    @functools.cached_property
    def kept(self):
        return object()


def of(env):
    return describe(jtrpo.TrainConfig(env, num_envs=2, num_steps=4, critic_minibatches=1))


def test_environments_are_told_apart_in_words_and_never_by_an_address():
    def closing_over(number):
        return lambda x: x * number

    known = of(Gain())
    assert known == of(Gain())
    assert "0x" not in json.dumps(known)
    used = Gain()
    assert used.kept
    assert known == of(used)
    for other, name in (
        (Gain(gain=2.0), "env.gain"),
        (Gain(table=(1, 3)), "env.table"),
        (Gain(table=range(99)), "env.table"),
        (Gain(high=3.0), "env.observation_space"),
        (probes.TwoSteps(probes.DISCRETE), "env.class"),
    ):
        assert name in differences(known, of(other)), name
    tables = [np.arange(99), np.arange(99)]
    tables[1][50] = 0  # what NumPy does not print
    assert "env.table" in differences(*(of(Gain(table=table)) for table in tables))
    assert "env.reward.number" in differences(*(of(Gain(reward=closing_over(number))) for number in (1, 2)))
    nested = [Gain(reward={"inner": Gain(gain=gain)}) for gain in (1, 2)]
    assert "env.reward.inner.gain" in differences(*map(of, nested))
    keyed = [Gain(reward={Gain(): np.array([Gain(), gain], object)}) for gain in (1, 1, 2)]
    assert of(keyed[0]) == of(keyed[1]) != of(keyed[2])
    assert "0x" not in json.dumps(of(keyed[0]))
    itself = Gain()
    itself.reward = itself
    of(itself)


def test_a_gymnax_environment_with_other_parameters_does_not_resume(tmp_path):
    import gymnax

    env, params = gymnax.make("CartPole-v1")
    config = dataclasses.replace(CONFIG, env=(env, params))
    assert environment_name(config) == "GymnaxEnvironment(CartPole-v1)"
    save(tmp_path, [start(config)], config)
    other = dataclasses.replace(config, env=(env, params.replace(gravity=1.5)))
    told = pytest.raises(ValueError, match=r"env\.params\.gravity is 9\.8 there and 1\.5 here")
    with Checkpoints(tmp_path, other) as checkpoints, told:
        checkpoints.restore()
    with Checkpoints(tmp_path, dataclasses.replace(config, env=gymnax.make("CartPole-v1"))) as checkpoints:
        assert checkpoints.restore().update == 0
    with pytest.raises(ValueError, match=r"observation_space is .* there and .* here; give one with the same spaces"):
        load(tmp_path, "Pendulum-v1")


def test_vector_environments_are_known_by_classes_and_spaces_not_by_how_far_they_are():
    def known(lengths):
        vector = probes.counting(lengths, AutoresetMode.SAME_STEP)
        config = jtrpo.TrainConfig(gymnasium.wrappers.vector.RecordEpisodeStatistics(vector), num_envs=2)
        before = fingerprint(config)
        vector.reset(seed=0)
        vector.step(np.zeros(2, int))
        assert fingerprint(config) == before
        return before

    assert known([3, 4])[
        "env.class"
    ] == "vector.RecordEpisodeStatistics > sync_vector_env.SyncVectorEnv > probes.Counting" or (
        "SyncVectorEnv" in known([3, 4])["env.class"]
    )


def test_two_processes_agree_on_an_environment_of_ones_own(tmp_path):
    code = """
        import jtrpo, jax, json
        from gymnasium import spaces
        from jtrpo.tools.settings import describe

        class Mine:
            observation_space, action_space = spaces.Box(0.0, 1.0, (1,)), spaces.Discrete(2)

            def __init__(self):
                self.names, self.act = {"b", "a", "c"}, lambda x: x

            def reset(self, key):
                return jax.numpy.zeros(1), key

            def step(self, key, state, action): ...

        config = object.__new__(jtrpo.TrainConfig)
        object.__setattr__(config, "__dict__", {"env": Mine(), "environment": Mine(), "schedules": {}})
        from jtrpo.tools.fingerprint import environment_name, fingerprint
        if __name__ == "__main__":
            print(json.dumps([environment_name(config), fingerprint(config)]))
    """
    (tmp_path / "train.py").write_text(textwrap.dedent(code))
    run = (
        [sys.executable, "train.py"],
        [
            sys.executable,
            "-c",
            "from train import *; print(json.dumps([environment_name(config), fingerprint(config)]))",
        ],
    )
    path = os.pathsep.join((str(tmp_path), *sys.path))
    said = [
        subprocess.Popen(
            command,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": seed},
        )
        for command, seed in zip(run, "12", strict=True)
    ]
    first, second = [process.communicate(timeout=120)[0] for process in said]
    assert first == second
    assert json.loads(first)[0] == "Mine"
    assert json.loads(first)[1]["env.class"] == "train.Mine"


# Two processes


HOLD = """
import sys, pathlib
from jtrpo.tools.checkpoint.lock import Lock
lock = Lock(pathlib.Path(sys.argv[1]))
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


def test_a_folder_in_use_is_refused_in_words_and_a_dead_process_does_not_hold_it(tmp_path, state):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other,
        Checkpoints(tmp_path, CONFIG) as checkpoints,
    ):
        assert other.stdout.readline() == "held\n"
        for write in (lambda: checkpoints.save(state), lambda: run_training(CONFIG, checkpoints=checkpoints)):
            with pytest.raises(
                ValueError, match=rf"is in use by process {other.pid} on .* since .*; wait until it has ended, stop it"
            ):
                write()
        assert contents(tmp_path).keys() == {".jtrpo-lock"}
        other.kill()
        other.wait()
        checkpoints.save(state)
    assert updates_in(tmp_path) == [0]


def test_one_process_has_one_run_in_a_folder_and_may_read_it_meanwhile(tmp_path, state):
    with Checkpoints(tmp_path, CONFIG) as first:
        first.save(state)
        first.wait()
        assert Checkpoints(tmp_path, CONFIG).restore().update == 0
        assert load(tmp_path)[1].update == 0
        second = Checkpoints(tmp_path, CONFIG)
        with pytest.raises(ValueError, match="in use by this very process; end that run first"):
            second.save(state)
    second.save(at(state, 1))
    second.wait()
    del second  # forgotten rather than closed
    save(tmp_path, [at(state, 2)])


def test_a_lock_of_another_host_that_is_gone_and_a_file_of_that_name(tmp_path, monkeypatch):
    (tmp_path / ".jtrpo-lock").write_text('{"pid": 1, "host": "elsewhere", "since": "long ago"}')
    lock = Lock(tmp_path)
    lock.acquire()
    lock.release()
    (tmp_path / ".jtrpo-lock").write_text("mine")
    lock.acquire()
    lock.release()
    assert (tmp_path / ".jtrpo-lock").read_text() == "mine"

    def without_locks(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", without_locks)
    with pytest.warns(UserWarning, match="knows no locks"):
        lock.acquire()
    assert lock
    lock.release()


@pytest.mark.skipif(not hasattr(os, "register_at_fork"), reason="processes cannot be forked here")
def test_a_forked_child_does_not_hold_the_lock_of_its_parent(tmp_path):
    code = """
import os, pathlib, signal, sys, time
from jtrpo.tools.checkpoint.lock import Lock
lock = Lock(pathlib.Path(sys.argv[1]))
lock.acquire()
child = os.fork()
if child == 0:
    time.sleep(60)
print(child, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    command = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        child = int(process.stdout.readline())
        process.wait()
        try:
            lock = Lock(tmp_path)
            lock.acquire()  # though the child lives
            assert lock
            lock.release()
        finally:
            os.kill(child, signal.SIGKILL)


# Metrics


def test_lost_rows_are_filled_and_told_and_the_old_file_is_kept(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "EVALUATION_EPISODES", 2)
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    lines = (folder / "metrics.csv").read_text().splitlines()
    (folder / "metrics.csv").write_text("\n".join([lines[0], lines[1], lines[3][:20]]))
    with pytest.warns(UserWarning, match=r"lacks the rows of 2 updates .* from 2 on.*kept as damaged-metrics\.csv"):
        run = go_on(folder, longer(PENDULUM, 4))
    table = read_metrics(folder)
    assert table["update"].tolist() == [1, 2, 3, 4]
    assert np.isnan(table["policy.kl"]).tolist() == [False, True, True, False]
    assert np.isfinite(run.summary["max_kl_seen"])
    assert run.summary["accepted_fraction"] in (0.0, 0.5, 1.0)
    assert (folder / "damaged-metrics.csv").read_text().endswith(lines[3][:20])
    json.dumps(run.summary, allow_nan=False)
    compare_runs([folder])
    (folder / "metrics.csv").unlink()  # all of it
    (folder / "config.json").write_text("")
    with pytest.warns(UserWarning, match="lacks the rows of 4 updates"):
        go_on(folder, longer(PENDULUM, 4))


def test_rows_are_on_the_disk_before_a_checkpoint_counts(tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr(module, "EVALUATION_EPISODES", 2)
    real = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda fd: (order.append(os.readlink(f"/proc/self/fd/{fd}").split("/")[-1]), real(fd))
    )
    renamed = checkpoint_folder._move_into_place
    monkeypatch.setattr(
        checkpoint_folder,
        "_move_into_place",
        lambda writing, *rest: (order.append(f"put {rest[1]}"), renamed(writing, *rest)),
    )
    if not os.path.exists("/proc/self/fd"):
        pytest.skip("files cannot be told by their numbers")
    with Checkpoints(tmp_path / "run", PENDULUM, NUMBERS, 0) as checkpoints:
        run_training(PENDULUM, checkpoints=checkpoints, checkpoint_every=2)
    assert [each for each in order if each.startswith("put")] == ["put 2", "put 3"]
    for put in ("put 2", "put 3"):
        before = order[: order.index(put)]
        assert before.count("metrics.csv") >= int(put == "put 3") + 1
        assert before[-2:] == ["jtrpo.json", f".jtrpo-{put[-1]}"]
        assert order[order.index(put) + 1] == "run"


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"a,b\n", b"update,timesteps\n1,x\n", b"\0" * 50])
def test_a_damaged_table_is_named_with_the_remedy(content, tmp_path):
    (tmp_path / "metrics.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"metrics\.csv' is damaged; `--resume` mends it"):
        read_metrics(tmp_path)


# No episode ends


def test_a_run_in_which_no_episode_ends_has_an_empty_curve_with_a_word(trained, recwarn):
    summary = json.loads((trained / "summary.json").read_text())
    assert math.isfinite(summary["evaluation_return"])
    assert (trained / "curve.png").read_bytes().startswith(b"\x89PNG")
    table = read_metrics(trained)
    assert np.isnan(table["episode.return_mean"]).all()
    axes = compare_runs([trained])
    assert [text.get_text() for text in axes.texts] == ["no value of episode.return_mean"]
    assert "no value of episode.return_mean" in report([trained])
    metrics = jax.tree.map(np.asarray, go_on(trained).metrics)
    assert [text.get_text() for text in learning_curve(metrics).texts] == ["no episode ended"]
    assert not recwarn.list


def test_a_picture_that_cannot_be_drawn_does_not_cost_the_summary(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "EVALUATION_EPISODES", 2)
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()

    def broken(*_):
        raise RuntimeError("no pictures here")

    monkeypatch.setattr("jtrpo.tools.run_directory.save_figure", broken)
    with pytest.warns(UserWarning, match=r"curve\.png' could not be drawn \(no pictures here\); `jtrpo plot`"):
        run = go_on(tmp_path / "run")
    assert run.summary["total_timesteps"] == 24
    assert (tmp_path / "run" / "summary.json").exists()


# Reading one


def test_one_checkpoint_is_read_to_return_one(tmp_path, state, monkeypatch):
    with Checkpoints(tmp_path, CONFIG, keep=4) as checkpoints:
        for update, score in ((1, 1.0), (2, 9.0), (3, float("nan")), (4, None)):
            checkpoints.save(at(state, update), score)
    times = []
    monkeypatch.setattr(
        "jtrpo.tools.checkpoint.loading.read", lambda path, update: (times.append(update), read(path, update))[1]
    )
    assert load(tmp_path)[1].update == 2
    assert times == [2]
    for path in (tmp_path / "2" / "arrays" / "d").iterdir():
        path.write_bytes(b"")
    with pytest.warns(UserWarning, match="checkpoint 2 .* is damaged: .* was changed; left aside"):
        assert load(tmp_path)[1].update == 1
    assert times == [2, 2, 1]


# Policies


def test_a_policy_takes_what_an_environment_gives_and_gives_what_it_takes(tmp_path, state):
    save(tmp_path, [state])
    policy = jtrpo.load_policy(tmp_path)
    env = gymnasium.make("CartPole-v1")
    observation, _ = env.reset(seed=0)
    action, _ = policy(observation)
    assert isinstance(action, np.int64)
    env.step(action)
    for one in (list(map(float, observation)), tuple(observation), observation.astype(np.float64)):
        assert policy(one)[0] == action
    many, _ = policy(np.stack([observation] * 3))
    assert many.tolist() == [action] * 3
    assert policy(np.zeros((0, 4)))[0].shape == (0,)
    assert isinstance(policy(jnp.asarray(observation))[0], jax.Array)
    assert jax.jit(lambda x: policy(x)[0])(observation) == action
    with pytest.raises(TypeError, match="key must be a random key"):
        policy(observation, key=5)
    for memory in (np.zeros(3), (), 0):
        with pytest.raises(TypeError, match=f"memory must be what the policy returned .*got .*{type(memory).__name__}"):
            policy(observation, memory)
    for wrong in (np.zeros(3), np.zeros((2, 5)), 0.0, [], "left", {"a": 1}, [[0, 0], [0]], np.zeros((1, 1, 4))):
        with pytest.raises(ValueError, match=r"observation must"):
            policy(wrong)


def test_a_policy_of_parts_names_the_part_that_is_wrong(tmp_path):
    class Parts(probes.TwoSteps):
        observation_space = spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Tuple([spaces.Discrete(3)])})

        def observe(self, key, state):
            return {"a": jnp.zeros(2), "b": (state * 0,)}

        def step(self, key, state, action):
            observation, zero = self.reset(key)
            return jtrpo.EnvStep(observation, zero, jnp.float32(1), jnp.bool_(True), jnp.bool_(False), observation)

    actions = spaces.Dict({"x": spaces.Discrete(2), "y": spaces.Box(-1, 1, (2,))})
    env = Parts(actions)
    config = jtrpo.TrainConfig(env, num_envs=2, num_steps=4, hidden_sizes=(4,))
    save(tmp_path, [start(config)], config)
    policy = jtrpo.load_policy(tmp_path, env)
    action, _ = policy({"b": [1], "a": [0.5, 0]})
    assert actions.contains(action), action
    for wrong, words in (
        ({"a": [0, 0]}, "dictionary with a, b"),
        ({"a": [0, 0], "b": ()}, r"observation\['b'\] must be a tuple of 1"),
        ({"a": [0, 0, 0], "b": (1,)}, r"observation\['a'\] must have the shape \[2\]"),
        ({"a": [[0, 0]], "b": (1,)}, "one, or a batch in all its parts"),
    ):
        with pytest.raises(ValueError, match=words):
            policy(wrong)


def test_a_configuration_of_gymnasium_can_be_pickled():
    config = jtrpo.TrainConfig("gymnasium:CartPole-v1", num_envs=2)
    assert config.environment.num_envs is None
    again = pickle.loads(pickle.dumps(config))
    assert again == config
    assert again.environment.observation_space == config.environment.observation_space


# What ships gives way


@pytest.mark.parametrize(
    ("env", "given", "gives_way"),
    [
        ("Acrobot-v1", {"sampling": "vine"}, "reuse"),
        ("Reacher-misc", {"hidden_sizes": ()}, "box_distribution"),
        ("BernoulliBandit-misc", {"hidden_sizes": ()}, "memory"),
        ("Acrobot-v1", {"schedules": {"max_kl": lambda update: 0.01}}, "anneal"),
    ],
)
def test_what_ships_and_clashes_with_what_is_given_gives_way_with_a_word(env, given, gives_way):
    default = {field.name: field.default for field in dataclasses.fields(jtrpo.TrainConfig)}[gives_way]
    with pytest.warns(UserWarning, match=rf"{gives_way}=.* ships for {env}.*default {gives_way}="):
        config, _ = jtrpo.tuned(env, **given)
    assert getattr(config, gives_way) == default
    assert all(getattr(config, name) == value for name, value in given.items())
    others = TUNED[env][0].keys() - {gives_way, *given}
    assert all(getattr(config, name) == TUNED[env][0][name] for name in others)


def test_what_the_user_gives_and_clashes_by_itself_is_the_users_error():
    with pytest.raises(ValueError, match="it needs reuse=1"):
        jtrpo.tuned("Acrobot-v1", sampling="vine", reuse=2)
    with pytest.raises(ValueError, match="num_envs must be"):
        jtrpo.tuned("Pendulum-v1", num_envs=0)
