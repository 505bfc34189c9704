import hypothesis
import jax
import pytest

import jtrpo  # noqa: F401  # before JAX's first computation

jax.config.update("jax_numpy_rank_promotion", "raise")
hypothesis.settings.register_profile("jtrpo", deadline=None, derandomize=True, database=None, max_examples=40)
hypothesis.settings.load_profile("jtrpo")


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="the whole soak of tests/faults: more kills, flips and draws")


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield
