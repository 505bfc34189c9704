import json
import os
import subprocess
import sys

import pytest

from tests.devices import ROOT

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("scaling") / "study.json"
    arguments = ["--devices", "1", "4", "--num-envs", "8", "--num-steps", "8", "--hidden-sizes", "8", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scaling", *arguments, str(path)],
        env=os.environ,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(path.read_text()), done.stdout


def test_an_update_needs_a_message_for_each_product_and_each_try_and_a_few_more(run):
    one, four = run[0]["strong"]
    assert one["messages"] == {}
    assert set(four["messages"]) == {"product", "try", "critic", "once"}  # and none while environments are stepped
    assert all(entry["kinds"] == ["all-reduce"] for entry in four["messages"].values())  # nothing is gathered
    assert [four["messages"][where]["number"] for where in ("product", "try", "critic")] == [1, 1, 1]
    assert four["messages"]["once"]["number"] <= 14
    parameters = 4 * 8 + 8 + 8 * 2 + 2
    assert four["messages"]["product"]["bytes"] == 4 * parameters
    assert four["messages"]["once"]["bytes"] < 4 * parameters + 500  # one gradient, and else a few numbers


def test_the_bound_holds_and_the_table_has_a_row_for_each_count(run):
    study, out = run
    for kind in ("strong", "weak"):
        assert [row["devices"] for row in study[kind]] == [1, 4]
        assert all(0 < row["max_kl_seen"] <= 0.005 for row in study[kind])
    assert [row["num_envs"] for row in study["weak"]] == [8, 32]
    assert study["strong"][1]["difference"] < 1e-2
    assert sum(line.startswith(("| strong |", "| weak |")) for line in out.splitlines()) == 4
