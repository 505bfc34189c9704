"""Two processes with two devices each are one run: on one machine here, over the loopback interface."""

import importlib.util
import json
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from jtrpo.tools.checkpoint.folder import read, updates_in
from tests.devices import environment

pytestmark = pytest.mark.slow

# Well conditioned: where a small matrix is all but singular, as with products on a tenth of so few samples, rounding soon shows.
SETTINGS = [
    *("--quiet", "--num-steps", "16", "--hidden-sizes", "8", "--critic", "adam", "--critic-epochs", "2"),
    *("--fisher-fraction", "1", "--cg-tolerance", "0.001", "--checkpoint-every", "2"),
]
UPDATES = 6
needs_envpool = pytest.mark.skipif(not importlib.util.find_spec("envpool"), reason="EnvPool is not installed")
TIMEOUT = 240


def start(devices, *arguments, env="CartPole-v1", num_envs=8):
    command = [sys.executable, "-m", "jtrpo", "train", env, *map(str, ("--num-envs", num_envs, *SETTINGS, *arguments))]
    return subprocess.Popen(
        command,
        env=environment(devices),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def end(process):
    try:
        out, err = process.communicate(timeout=TIMEOUT)
    finally:
        process.kill()
    return process.returncode, out, err


def start_two(*arguments, of_the_second=(), **task):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    joined = ("--distributed", "--coordinator", address, "--num-processes", 2, "--process-id")
    return [start(2, *arguments, *more, *joined, process, **task) for process, more in ((0, ()), (1, of_the_second))]


def wait_for(checkpoint, processes):
    began = time.monotonic()
    while not checkpoint.exists():
        assert time.monotonic() < began + TIMEOUT
        assert all(process.poll() is None for process in processes), [end(process) for process in processes]
        time.sleep(0.1)


def parameters(folder):
    arrays = read(folder, UPDATES)[1]
    return np.concatenate([value.ravel() for name, value in sorted(arrays.items()) if name.startswith("policy_params")])


def difference(x, y):
    return np.linalg.norm(x - y) / np.linalg.norm(x)


def assert_lost(code, err):
    if code == 75:
        assert "another process of this run has ended or cannot be reached" in err
        assert "--resume" in err
    else:  # it was waiting for the other's word, not for its numbers, and JAX's own watch ended it
        assert code == -signal.SIGABRT
        assert "another task died" in err


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    ends = [end(p) for p in start_two("--total-timesteps", UPDATES * 128, "--checkpoint-dir", folder)]
    assert [code for code, _, _ in ends] == [0, 0], ends
    assert "after 768 steps" in ends[0][1]
    assert "return" not in ends[1][1]  # one of them reports
    return folder


def test_two_processes_end_like_one_with_as_many_devices(together, tmp_path):
    code, _, err = end(start(4, "--total-timesteps", UPDATES * 128, "--checkpoint-dir", tmp_path, "--devices", 4))
    assert code == 0, err
    assert difference(parameters(together), parameters(tmp_path)) <= 5e-6
    assert updates_in(together) == updates_in(tmp_path) == [2, 4, 6]
    assert {file.name for file in together.iterdir()} == {file.name for file in tmp_path.iterdir()}


# EnvPool takes a step to begin an episode, during which others of the process go on: here no episode ends meanwhile.
HOST = ["gymnasium:CartPole-v1", pytest.param("envpool:Pendulum-v1", marks=[needs_envpool, pytest.mark.long])]


@pytest.mark.parametrize("env", HOST)
def test_two_processes_step_the_environments_of_one_on_the_host(env, tmp_path):
    """With sample reuse a checkpoint holds the last batch. Of 128 episodes the two processes play unequal numbers."""
    settings = ("--total-timesteps", 6 * 12 * 16, "--reuse", 2)
    task = {"env": env, "num_envs": 12}
    both, alone = tmp_path / "both", tmp_path / "alone"
    ends = [end(p) for p in start_two(*settings, "--checkpoint-dir", both, **task)]
    ends.append(end(start(1, *settings, "--checkpoint-dir", alone, **task)))
    assert [code for code, _, _ in ends] == [0, 0, 0], ends
    assert "return" not in ends[1][1]
    ours, theirs = read(both, UPDATES)[1], read(alone, UPDATES)[1]
    assert {name for name in theirs if name.startswith("window")} >= {"window.observation", "window.action"}
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
    assert difference(parameters(alone), parameters(both)) <= 5e-6
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (both, alone)]
    for name in ("evaluation_return", "evaluation_std"):
        assert summaries[0][name] == pytest.approx(summaries[1][name], rel=1e-4)
    assert updates_in(both) == updates_in(alone) == [2, 4, 6]


def test_a_simulator_that_breaks_in_one_process_ends_all():
    began = time.monotonic()
    ends = [end(p) for p in start_two("--total-timesteps", 10**8, env="gymnasium:tests.tools.failing:Failing-v0")]
    assert time.monotonic() - began < 120
    assert ends[1][0] == 1
    assert "RuntimeError: the simulator broke" in ends[1][2]
    assert_lost(ends[0][0], ends[0][2])


@pytest.mark.parametrize("devices", [1, pytest.param(2, marks=pytest.mark.long)])
def test_the_run_goes_on_on_fewer_devices(devices, together, tmp_path):
    folder = shutil.copytree(together, tmp_path / "run")
    shutil.rmtree(folder / str(UPDATES))
    more = ("--total-timesteps", UPDATES * 128, "--checkpoint-dir", folder, "--devices", devices, "--resume")
    code, _, err = end(start(2, *more))
    assert code == 0, err
    assert "going on after update 4" in err
    assert difference(parameters(together), parameters(folder)) <= 5e-6


@pytest.mark.parametrize("lost", [pytest.param(0, marks=pytest.mark.long), 1])
def test_a_process_that_dies_ends_the_others_and_leaves_whole_checkpoints(lost, tmp_path):
    processes = start_two("--total-timesteps", 10**8, "--checkpoint-dir", tmp_path)
    wait_for(tmp_path / "4", processes)
    processes[lost].kill()
    killed = time.monotonic()
    code, _, err = end(processes[1 - lost])
    end(processes[lost])
    assert time.monotonic() - killed < 60
    assert_lost(code, err)
    done = max(updates_in(tmp_path))
    read(tmp_path, done)  # whole, and test_the_run_goes_on_on_fewer_devices


def test_a_polite_signal_to_one_lets_all_save_and_leave(tmp_path):
    processes = start_two("--total-timesteps", 10**8, "--checkpoint-dir", tmp_path)
    wait_for(tmp_path / "2", processes)
    processes[1].terminate()
    for code, _, err in [end(process) for process in processes]:
        assert code == 128 + signal.SIGTERM, err
        assert "stopped by SIGTERM after update" in err
    read(tmp_path, max(updates_in(tmp_path)))


def test_processes_with_different_settings_are_refused_by_all():
    for code, _, err in [end(process) for process in start_two("--seed", 1, of_the_second=("--seed", 2))]:
        assert code == 2, err
        assert "every process of a run needs the same settings: seed is 1 in process 0 and 2 in process 1" in err
