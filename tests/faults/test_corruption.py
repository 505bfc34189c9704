"""Damage to any file of a checkpoint is found, or harmless; it never restores something else."""

import random
import shutil
import warnings

import jax
import pytest

import jtrpo
from jtrpo.tools.checkpoint import Checkpoints, load
from jtrpo.tools.checkpoint.state import to_arrays

CONFIG = jtrpo.TrainConfig("CartPole-v1", num_envs=2, num_steps=4, hidden_sizes=(4,))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with checkpoints 0 and 1, and their states as arrays."""
    folder, trainer = tmp_path_factory.mktemp("saved"), jtrpo.make_trainer(CONFIG)
    first = jax.jit(trainer.init)(jax.random.key(0))
    second = first._replace(
        policy_params=jax.tree.map(lambda x: x / 3 + 0.1, first.policy_params), update=first.update + 1
    )
    with Checkpoints(folder, CONFIG) as checkpoints:
        checkpoints.save(first)
        checkpoints.save(second)
    return folder, to_arrays(first), to_arrays(second)


def flip(content, chance):
    place = chance.randrange(len(content) * 8)
    flipped = bytearray(content)
    flipped[place // 8] ^= 1 << place % 8
    return bytes(flipped)


DAMAGE = {
    "a bit flipped": flip,
    "the first bits flipped": lambda content, chance: bytes([content[0] ^ 1]) + content[1:],
    "cut in half": lambda content, chance: content[: len(content) // 2],
    "the last byte gone": lambda content, chance: content[:-1],
    "emptied": lambda content, chance: b"",
    "removed": lambda content, chance: None,
    "zeros": lambda content, chance: bytes(len(content)),
    "of another file": lambda content, chance: b'{"format": 1}',
}


@pytest.mark.slow
def test_every_file_damaged_in_turn(saved, tmp_path, request):
    folder, first, second = saved
    same = lambda a, b: set(a) == set(b) and all(a[name].tobytes() == b[name].tobytes() for name in b)  # noqa: E731
    long = request.config.getoption("--long")
    chance, flips = random.Random(0), 100 if long else 1
    files = sorted(path.relative_to(folder) for path in (folder / "1").rglob("*") if path.is_file())
    assert len(files) >= 8
    found = harmless = done = 0
    for number, file in enumerate(files):
        names = list(DAMAGE)
        for name in names if long else dict.fromkeys(("a bit flipped", names[1 + number % (len(names) - 1)])):
            damage = DAMAGE[name]
            for _ in range(flips if name == "a bit flipped" else 1):
                done += 1
                copy = tmp_path / "copy"
                shutil.copytree(folder, copy)
                content = (copy / file).read_bytes()
                damaged = damage(content, chance) if content or name in ("removed", "of another file") else content
                (copy / file).unlink() if damaged is None else (copy / file).write_bytes(damaged)
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    _, loaded = load(copy)
                    with Checkpoints(copy, CONFIG) as checkpoints:
                        restored = checkpoints.restore()
                told = [str(warning.message) for warning in caught if "damaged" in str(warning.message)]
                where = f"{file}: {name}"
                if restored.update == 1:
                    harmless += 1
                    assert same(to_arrays(restored.state), second), where
                    assert same(to_arrays(loaded.state), second), where
                    assert not told, where
                else:
                    found += 1
                    assert same(to_arrays(restored.state), first), where
                    assert same(to_arrays(loaded.state), first), where
                shutil.rmtree(copy)
    assert found >= done / 4
    assert found + harmless == done >= 2 * len(files)


def test_the_older_whole_checkpoint_is_offered_and_the_damaged_one_kept_aside(saved, tmp_path):
    folder, first, _ = saved
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    for path in (copy / "1" / "arrays" / "d").iterdir():
        path.write_bytes(path.read_bytes()[:-7])
    with Checkpoints(copy, CONFIG) as checkpoints:
        with pytest.warns(UserWarning, match=r"checkpoint 1 .* is damaged .* set aside as damaged-1; going back to 0"):
            restored = checkpoints.restore()
        assert (copy / "damaged-1" / "arrays").is_dir()
        checkpoints.save(
            restored.state._replace(update=restored.state.update + 1)
        )  # the run goes on under the same number
        assert checkpoints.updates() == [0, 1]
        assert checkpoints.restore().update == 1
