import pytest

from tests.core.trpo_problem import POLICIES, as_float32, make_problem


@pytest.fixture(params=["categorical", "gaussian"])
def kind(request):
    return request.param


@pytest.fixture
def problem32(kind):
    params, batch = make_problem(kind)
    return POLICIES[kind], as_float32(params), as_float32(batch)


@pytest.fixture
def problem64(kind, x64):
    return POLICIES[kind], *make_problem(kind)
