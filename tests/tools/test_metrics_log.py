import csv

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtrpo.tools.metrics_log import MetricsLog

ROWS = [
    {
        "kl": jnp.float32(0.1) / k,
        "accepted": jnp.bool_(k % 2),
        "steps": jnp.int32(k * 10**6),
        "return": jnp.float32(value),
    }
    for k, value in enumerate([1.5, np.nan, np.inf, -3e38, 1e-45], start=1)
]
LIKE = jax.eval_shape(lambda: ROWS[0])


def write(file, rows, done=0):
    with MetricsLog(file, done, LIKE) as log:
        for update in rows:
            log.append(update, ROWS[update - 1])
        return log.history()


def test_numbers_come_back_bit_for_bit_and_the_table_can_be_read_by_anyone(tmp_path):
    file = tmp_path / "metrics.csv"
    write(file, range(1, 6))
    history = write(file, [], done=5)
    for name, values in history.items():
        wanted = np.stack([row[name] for row in ROWS])
        assert values.dtype == wanted.dtype
        np.testing.assert_array_equal(values, wanted)
    with file.open() as opened:
        rows = list(csv.DictReader(opened))
    assert [int(row["update"]) for row in rows] == [1, 2, 3, 4, 5]
    assert [row["steps"] for row in rows] == [f"{k}000000" for k in range(1, 6)]


@pytest.mark.parametrize("torn", ["", "5,0.02,1", "5,0.02,1,5000000,1e-45", "garbage\n,,,,\n"])
def test_a_resumed_run_leaves_no_gap_and_no_double_whatever_the_end_of_the_file(tmp_path, torn):
    whole, cut = tmp_path / "whole.csv", tmp_path / "cut.csv"
    write(whole, range(1, 6))
    write(cut, range(1, 5))
    with cut.open("a") as file:
        file.write(torn)
    history = write(cut, [4, 5], done=3)
    assert cut.read_text() == whole.read_text()
    np.testing.assert_array_equal(history["steps"], [k * 10**6 for k in range(1, 6)])


def test_a_missing_row_is_filled_and_told_and_the_file_kept(tmp_path):
    file = tmp_path / "metrics.csv"
    write(file, [1, 2, 4])
    before = file.read_text()
    with pytest.warns(UserWarning, match=r"lacks the rows of 1 updates.*from 3 on.*kept as damaged-metrics\.csv"):
        history = write(file, [5], done=4)
    assert (tmp_path / "damaged-metrics.csv").read_text() == before
    np.testing.assert_array_equal(history["steps"], [10**6, 2 * 10**6, 0, 4 * 10**6, 5 * 10**6])
    assert np.isnan(history["kl"]).tolist() == [False, False, True, False, False]
    again = MetricsLog(file, 5, LIKE)  # and once is enough
    with again:
        assert again.known == [True, True, False, True, True]
