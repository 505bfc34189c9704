"""A disk that fills up ends the run with a message and leaves what was saved."""

import os
import subprocess
import sys

import pytest

from jtrpo.tools.checkpoint import load
from jtrpo.tools.checkpoint.folder import updates_in

pytestmark = pytest.mark.slow

RUN = (
    "CartPole-v1", "--num-envs", "4", "--num-steps", "8", "--total-timesteps", "3200", "--hidden-sizes", "8",
    "--checkpoint-every", "1",
)  # fmt: skip


def train(folder, *more, before="", **environment):
    command = [sys.executable, "-m", "jtrpo", "train", *RUN, "--checkpoint-dir", str(folder), *more]
    shell = ["bash", "-c", f'{before} exec "$@"', "bash", *command]
    return subprocess.run(shell, capture_output=True, text=True, timeout=200, env={**os.environ, **environment})


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small disk needs the right to")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def assert_told_and_whole(done, folder):
    assert done.returncode == 2, done.stderr
    assert "Make room" in done.stderr
    assert str(folder) in done.stderr
    assert "Traceback" not in done.stderr
    assert not updates_in(folder) or load(folder)[1].update == updates_in(folder)[-1]


def test_a_disk_that_fills_up(small_disk):
    done = train(small_disk, "--keep", "1000")
    assert_told_and_whole(done, small_disk)
    saved = updates_in(small_disk)
    assert saved
    done = train(small_disk, "--keep", "1", "--resume")  # old ones make room
    assert f"going on after update {saved[-1]}" in done.stderr


@pytest.mark.long
def test_a_quota_on_the_size_of_files(tmp_path):
    """The table of metrics outgrows 16 KiB after some updates; checkpoints need less."""
    assert_told_and_whole(train(tmp_path, before="ulimit -f 16;", JAX_ENABLE_COMPILATION_CACHE="0"), tmp_path)
    assert updates_in(tmp_path)
