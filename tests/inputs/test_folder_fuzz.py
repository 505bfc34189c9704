"""Whatever becomes of a run's folder, nothing of the user's is lost, what is whole is found, and every message names a remedy."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import warnings
from functools import partial

import jax
import pytest

from jtrpo.tools.checkpoint import Checkpoints, load
from jtrpo.tools.checkpoint.folder import updates_in
from jtrpo.tools.checkpoint.state import to_arrays
from jtrpo.tools.compare import read_metrics
from jtrpo.tools.metrics_log import MetricsLog
from jtrpo.tools.run_directory import METRICS_FILE, check_no_foreign_files, read_settings, read_summary, write_settings
from jtrpo.tools.settings import describe
from tests.inputs.folders import CONFIG, NUMBERS, at, start

SETTINGS = describe(CONFIG, NUMBERS, 0)

LIKE = {"timesteps": jax.ShapeDtypeStruct((), "int32"), "policy.kl": jax.ShapeDtypeStruct((), "float32")}
REMEDY = (
    "choose another|choose a folder|start anew|give |move |Make room|--resume|name (a|the)|use (that|the)|upgrade|wait until|"
    "there are|save states"
)
NAMES = [
    "notes.txt", "0", "1", "2", "3", "4", "5", "01", "1-jtrpo", "-1", "arrays", "jtrpo.json", ".jtrpo-4", ".jtrpo-9", "damaged-3",
    "replaced-2", "metrics.tmp", "damaged-metrics.csv", "[3]", "ünï", ".jtrpo-replaced-8", "model.pkl", "tmp",
]  # fmt: skip


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder like that of a run: checkpoints 1, 2 and 3 and what is beside them; and the arrays of each."""
    folder, state = tmp_path_factory.mktemp("saved") / "run", start()
    with Checkpoints(folder, CONFIG) as checkpoints:
        for update in (1, 2, 3):
            checkpoints.save(at(state, update), float(update == 1))
    write_settings(folder, SETTINGS)
    rows = "".join(f"{update},{8 * update},0.00{update}\n" for update in (1, 2, 3))
    (folder / METRICS_FILE).write_text(f"update,timesteps,policy.kl\n{rows}")
    return folder, state, {update: to_arrays(at(state, update)) for update in range(12)}


def add(folder, chance, mine):
    """A file or folder of the user's, somewhere."""
    places = [folder, *(path for path in folder.rglob("*") if path.is_dir() and not path.is_symlink())]
    path = chance.choice(places[: 1 + chance.randrange(len(places))]) / chance.choice(NAMES)
    if path.exists() or path.is_symlink():
        return
    kind = chance.randrange(4)
    content = f"mine {len(mine)} {chance.random()}".encode()
    if kind == 0:
        path.mkdir()
        path /= chance.choice(NAMES)
    if kind == 3:
        path.symlink_to(folder.parent / "nowhere")
        mine[path.name] = None
        return
    path.write_bytes(content)
    mine[path.name] = content


def damage(folder, chance, mine):
    """Something of jtrpo's own, as a bad disk or a hand that slipped leaves it."""
    owned = [path for path in folder.rglob("*") if path.is_file() and path.read_bytes() not in mine.values()]
    if not owned:
        return
    path, content = chance.choice(owned), b""
    content = path.read_bytes()
    kind = chance.randrange(6)
    if kind == 0:
        path.write_bytes(content[: chance.randrange(len(content) + 1)])
    elif kind == 1:
        path.unlink()
    elif kind == 2 and content:
        place = chance.randrange(len(content))
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << chance.randrange(8)]) + content[place + 1 :])
    elif kind == 3:
        path.write_bytes(chance.randbytes(chance.randrange(200)))
    elif kind == 4:
        path.unlink()
        path.mkdir()
    elif path.parent != folder:
        top = folder / path.relative_to(folder).parts[0]
        if not any(
            each.is_symlink() or (each.is_file() and each.read_bytes() in mine.values()) for each in top.rglob("*")
        ):
            shutil.rmtree(top)


def tried(act, said):
    try:
        return act()
    except (FileNotFoundError, ValueError) as error:
        said.append(str(error))
        return None


def use(folder, state, arrays, chance, said):
    """As a run that begins or goes on there does."""
    loaded = tried(lambda: load(folder), said)
    if loaded is not None:
        assert same(loaded[1], arrays)
    with Checkpoints(folder, CONFIG, keep=chance.randrange(1, 4)) as checkpoints:
        restored = tried(checkpoints.restore, said)
        if restored is not None:
            assert same(restored, arrays)
        if tried(lambda: check_no_foreign_files(folder) or True, said) is None:
            return
        done = 0 if restored is None else restored.update
        tried(lambda: write_settings(folder, SETTINGS), said)
        log = tried(lambda: MetricsLog(folder / METRICS_FILE, done, LIKE), said)
        if log is not None:
            log.__exit__(None, None, None)
        for update in sorted(chance.sample(range(12), 2)):
            tried(lambda update=update: checkpoints.save(at(state, update), chance.choice([None, 0.5])), said)
        tried(checkpoints.wait, said)
    for read in (read_settings, read_summary, read_metrics, load):
        tried(lambda read=read: read(folder), said)


def same(restored, arrays):
    there, wanted = to_arrays(restored.state), arrays[restored.update]
    return there.keys() == wanted.keys() and all(there[name].tobytes() == wanted[name].tobytes() for name in wanted)


@pytest.mark.slow
def test_random_folders(saved, tmp_path, request):
    whole, state, arrays = saved
    rounds, restored = 600 if request.config.getoption("--long") else 12, 0
    for seed in range(rounds):
        chance, folder, mine, said = random.Random(seed), tmp_path / f"{seed}", {}, []
        shutil.copytree(whole, folder) if chance.random() < 0.8 else folder.mkdir()
        for _ in range(chance.randrange(1, 6)):
            add(folder, chance, mine) if chance.random() < 0.6 else damage(folder, chance, mine)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            use(folder, state, arrays, chance, said)
        left = list(folder.rglob("*"))
        for name, content in mine.items():
            found = [path for path in left if path.is_symlink() or (path.is_file() and path.read_bytes() == content)]
            assert any(path.name == name for path in found), (seed, name, said)
        for message in (*said, *(str(warning.message) for warning in told)):
            assert re.search(f"{REMEDY}|set aside as|left aside|kept as|stay empty|holds no checkpoint$", message), (
                seed,
                message,
            )
        restored += not said
        shutil.rmtree(folder)
    assert restored  # not everything is refused


class Failing:
    """A function whose call of one number fails."""

    def __init__(self, real, number):
        self.real, self.number, self.count = real, number, 0

    def __call__(self, *args, **more):
        self.count += 1
        if self.count == self.number + 1:
            raise OSError(5, "Input/output error")
        return self.real(*args, **more)


@pytest.mark.parametrize(
    "cut", ["replace", *(pytest.param(each, marks=pytest.mark.slow) for each in ("rename", "unlink", "rmdir", "fsync"))]
)
def test_a_disk_that_refuses_at_any_moment_costs_nothing_that_was_there(cut, saved, tmp_path, monkeypatch, request):
    """Each call of one kind fails in turn; then the folder is gone on with."""
    whole, state, arrays = saved
    for number in range(40) if request.config.getoption("--long") else (0, 1, 2, 5):
        folder = shutil.copytree(whole, tmp_path / f"{number}")
        mine = folder / "3" / "notes.txt"
        mine.write_text("mine")
        failing = Failing(getattr(os, cut), number)
        with monkeypatch.context() as patch:
            patch.setattr(os, cut, failing)
            said = []
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                checkpoints = Checkpoints(folder, CONFIG, keep=2)
                tried(partial(checkpoints.save, at(state, 3), 2.0), said)
                tried(checkpoints.wait, said)
        checkpoints.__exit__(None, None, None)
        assert all(re.search(REMEDY, message) for message in said), said
        with Checkpoints(folder, CONFIG, keep=2) as checkpoints:
            checkpoints.save(at(state, 4))
            assert same(checkpoints.restore(), arrays)
            assert checkpoints.updates()[-1] == 4
        assert 3 in updates_in(folder)
        assert [path.read_text() for path in folder.rglob("notes.txt")] == ["mine"]
        shutil.rmtree(folder)
        if failing.count <= number:
            break


SAVE = """
import sys
from jtrpo.tools.checkpoint import Checkpoints
from tests.inputs.folders import CONFIG, at, start

state = start()
with Checkpoints(sys.argv[1], CONFIG) as checkpoints:
    for update in range(int(sys.argv[2]), 10**6):
        checkpoints.save(at(state, update))
        checkpoints.wait()
        print(update, flush=True)
"""


@pytest.mark.slow
def test_two_processes_one_of_which_is_killed_while_it_saves(saved, tmp_path, request):
    folder, state = shutil.copytree(saved[0], tmp_path / "run"), saved[1]
    chance, update = random.Random(0), 4
    for _ in range(20 if request.config.getoption("--long") else 1):
        command = [sys.executable, "-c", SAVE, str(folder), str(update)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
            for _ in range(chance.randrange(1, 4)):
                update = int(other.stdout.readline())
            with Checkpoints(folder, CONFIG) as checkpoints, pytest.raises(ValueError, match="is in use by process"):
                checkpoints.save(at(state, 10**6))
            with pytest.raises(subprocess.TimeoutExpired):
                other.wait(chance.uniform(0.0, 0.3))
            other.send_signal(signal.SIGKILL)
        with Checkpoints(folder, CONFIG) as checkpoints:
            restored = checkpoints.restore()
            assert restored.update >= update
            update = restored.update + 1
            checkpoints.save(at(state, update))
    assert not list(folder.glob(".jtrpo-[0-9r]*"))
