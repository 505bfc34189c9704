"""A training on eight devices is the training on one: the same environments, the same constrained update, the same numbers."""

import json
import subprocess
import sys

import pytest

from tests.devices import ROOT, communicating, environment
from tests.training.on_eight_devices import LONG, QUICK, SLOW

CASES = [
    *QUICK,
    *(pytest.param(case, marks=pytest.mark.slow) for case in SLOW),
    *(pytest.param(case, marks=pytest.mark.long) for case in LONG),
]


@pytest.fixture(scope="module")
def errors(request):
    """Of all cases that this session asks for, from one process that sees eight devices."""
    items = (item for item in request.session.items if item.path == request.path)
    cases = [item.callspec.params["case"] for item in items if "errors" in item.fixturenames]
    command = [sys.executable, "-m", "tests.training.on_eight_devices", *cases]
    done = subprocess.run(
        command, env=environment(8), cwd=ROOT, capture_output=True, text=True, timeout=1500, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("case", CASES)
def test_on_eight_devices(errors, case):
    assert not errors[case], errors[case]


@pytest.mark.parametrize(
    ("notation", "groups"),
    [
        ("{{0,1},{2,3}}", {(0, 1), (2, 3)}),
        ("{{0,2},{1,3}}", {(0, 2), (1, 3)}),
        ("[2,2]<=[4]", {(0, 1), (2, 3)}),
        ("[2,2]<=[2,2]T(1,0)", {(0, 2), (1, 3)}),
        ("mesh['seeds'=2,'envs'=2] {'envs'}", {(0, 1), (2, 3)}),
        ("mesh['seeds'=2,'envs'=2] {'seeds'}", {(0, 2), (1, 3)}),
        ("mesh['seeds'=2,'envs'=2] {'seeds','envs'}", {(0, 1, 2, 3)}),
    ],
)
def test_who_talks_to_whom_is_read_in_every_notation_of_hlo(notation, groups):
    line = f"%psum = f64[2]{{0}} all-reduce(%x), channel_id=1, replica_groups={notation}, to_apply=%sum"
    assert communicating(line) == set(map(frozenset, groups))


def test_a_notation_that_is_not_known_is_an_error():
    with pytest.raises(ValueError, match="replica_groups=mesh"):
        communicating("all-reduce(%x), replica_groups=mesh['a'=4] {'a':(1)2}")
