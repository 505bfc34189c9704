import json

import jax
import numpy as np
import pytest

import jtrpo
from benchmarks import accelerator, throughput

pytestmark = pytest.mark.slow


def call(monkeypatch, module, *arguments):
    monkeypatch.setattr("sys.argv", [module.__name__, *map(str, arguments)])
    module.main()


def test_a_small_table_is_measured_and_drawn(tmp_path, monkeypatch, capsys):
    file = tmp_path / "rows.json"
    sizes = ("--num-envs", 4, "--num-steps", 8, "--widths", 16, "--updates", 2, "--seeds", 2)
    call(monkeypatch, throughput, *sizes, "--json", file)
    rows = json.loads(file.read_text())
    assert [row["num_envs"] for row in rows] == [4]
    for row in rows:
        assert row["run_seconds_least"] <= row["run_seconds"] <= row["run_seconds_most"]
        assert row["steps_per_second"] == 2 * 2 * row["num_envs"] * 8 / row["run_seconds"]
        assert row["compile_seconds"] > 0
        assert row["share_of_floor"] > 0
        assert row["hidden_sizes"] == [16, 16]
    table, picture = file.with_suffix(".md"), file.with_suffix(".png")
    assert all(throughput.line(row) in capsys.readouterr().out + table.read_text() for row in rows)
    picture.unlink()
    with pytest.raises(SystemExit):
        call(monkeypatch, throughput, "--redraw", file)
    assert picture.stat().st_size > 10_000


@pytest.mark.long
def test_the_accelerator_table_has_environments_and_seeds_and_the_time_to_solve(tmp_path, monkeypatch):
    file = tmp_path / "rows.json"
    monkeypatch.setattr(accelerator, "SOLVED_AT", {"Catch-bsuite": -2.0})  # at once
    monkeypatch.setattr(accelerator, "ENVIRONMENTS_OF_A_SEED", 4)
    call(monkeypatch, accelerator, "--num-envs", 8, "--seeds", 3, "--updates", 2, "--solve-updates", 3, "--json", file)
    catch, many = json.loads(file.read_text())
    assert [(row["num_envs"], row["seeds"]) for row in (catch, many)] == [(8, 1), (4, 3)]
    assert catch["seconds_to_solve"] == catch["run_seconds"] / 2  # by the first of the two updates of a timed run
    assert many["seconds_to_solve"] is None


def test_solving_is_found_at_the_right_update():
    returns = iter([[np.nan, 1.0], [2.0, 5.0], [9.0, 9.0]])
    train = lambda state: (state, np.array(next(returns)))  # noqa: E731
    assert throughput.seconds_to_solve(train, None, 5.0, 100, seconds_per_update=0.5) == 4 * 0.5
    assert throughput.seconds_to_solve(train, None, 10.0, 2, seconds_per_update=0.5) is None


def test_a_size_beyond_the_devices_memory_is_left_out_and_named(monkeypatch, capsys):
    def full(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(accelerator, "row", full)
    assert list(accelerator.rows(["CartPole-v1"], [2**20], [], 1, 5, 1)) == []
    assert "CartPole-v1: 1048576 environments" in capsys.readouterr().err


@pytest.mark.long
def test_memory_does_not_grow_with_the_length_of_the_run():
    """Only one row of metrics per update is kept: ten times the updates, the same program otherwise."""

    def planned(updates):
        config = jtrpo.TrainConfig("CartPole-v1", num_envs=8, num_steps=16, total_timesteps=updates * 8 * 16)
        program = jax.jit(jtrpo.make_train(config)).lower(jax.random.key(0)).compile().memory_analysis()
        return program.temp_size_in_bytes, program.output_size_in_bytes

    (short, short_output), (long, long_output) = planned(10), planned(100)
    assert long <= short
    assert long_output - short_output <= 90 * 64 * 4  # at most 64 numbers an update
