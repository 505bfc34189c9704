"""A process killed at any moment leaves whole checkpoints behind, and the resumed run the bits of one never killed."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from jtrpo.tools.checkpoint.folder import read, updates_in

pytestmark = pytest.mark.slow

RUN = (
    "CartPole-v1",
    "--num-envs",
    "8",
    "--num-steps",
    "16",
    "--hidden-sizes",
    "16",
    "--checkpoint-every",
    "2",
    "--json",
)


@pytest.fixture(scope="module")
def kills(request):
    return 50 if request.config.getoption("--long") else 3


@pytest.fixture(scope="module")
def updates(kills):
    return max(160, 24 * kills)


def start(folder, cache, updates, *more):
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache)}
    length = ("--total-timesteps", str(updates * 8 * 16))
    command = [sys.executable, "-m", "jtrpo", "train", *RUN, *length, "--checkpoint-dir", str(folder), *more]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def rows(folder):
    file = folder / "metrics.csv"
    return file.read_text().split("\n")[1:] if file.exists() else []


def arrays(folder, update):
    return read(folder, update)[1]


@pytest.fixture(scope="module")
def straight(tmp_path_factory, updates):
    """The run that nobody kills, every checkpoint kept."""
    folder, cache = tmp_path_factory.mktemp("straight"), tmp_path_factory.mktemp("cache")
    out, err = start(folder, cache, updates, "--keep", "100000").communicate(timeout=300)
    return folder, cache, json.loads(out)


def test_kills_at_random_moments_cost_nothing_but_time(straight, tmp_path, kills, updates):
    reference, cache, summary = straight
    chance, seen = random.Random(0), 0
    wanted = rows(reference)
    for kill in range(kills):
        process = start(tmp_path, cache, updates, "--resume")
        if kill % 5 == 2:
            time.sleep(chance.uniform(0.0, 3.0))  # while it starts or restores
        else:
            before = len(rows(tmp_path))
            # After the first kill, which may come before anything is saved, there is something to go on from.
            while len(rows(tmp_path)) <= max(before, 1) or (kill and not updates_in(tmp_path)):
                if process.poll() is not None:
                    break
                time.sleep(0.002)
            time.sleep(chance.uniform(0.0, 0.3))  # while it trains and saves
        process.send_signal(signal.SIGKILL)
        _, err = process.communicate()
        assert process.returncode == -signal.SIGKILL, f"not killed: {err}"
        # Whatever was under way: the newest checkpoint is whole and the one that was to be.
        saved = max(updates_in(tmp_path), default=None)
        if saved is not None:
            seen += 1
            ours, theirs = arrays(tmp_path, saved), arrays(reference, saved)
            assert all(ours[name].tobytes() == theirs[name].tobytes() for name in theirs)
            assert len(rows(tmp_path)) > saved
        *complete, _ = rows(tmp_path) or [""]
        assert complete == wanted[: len(complete)]
    assert seen >= kills - 2
    out, err = start(tmp_path, cache, updates, "--resume").communicate(timeout=300)
    ours, theirs = arrays(tmp_path, updates), arrays(reference, updates)
    assert set(ours) == set(theirs)
    assert all(ours[name].tobytes() == theirs[name].tobytes() for name in theirs), err
    assert (tmp_path / "metrics.csv").read_bytes() == (reference / "metrics.csv").read_bytes()
    assert json.loads(out)["evaluation_return"] == summary["evaluation_return"]
    assert "damaged" not in err


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.long)]
)
def test_a_polite_signal_saves_and_says_how_to_go_on(straight, tmp_path, updates, number, code):
    reference, cache, _ = straight
    process = start(tmp_path, cache, updates)
    while len(rows(tmp_path)) < 5:
        time.sleep(0.002)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    (last,) = [int(line.split()[6]) for line in err.splitlines() if line.startswith("jtrpo: stopped by")]
    assert "go on with: jtrpo train CartPole-v1" in err
    assert "--resume" in err
    assert "Traceback" not in err
    assert set(arrays(tmp_path, last)) == set(arrays(reference, 2))
    assert len(rows(tmp_path)) == last + 1  # and the empty end of the last line
    assert rows(tmp_path)[:-1] == rows(reference)[:last]
