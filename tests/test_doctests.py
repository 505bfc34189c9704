"""The examples in docstrings run, and whatever people call by hand has one."""

import doctest
import importlib
import pkgutil

import jax
import jax.numpy as jnp
import pytest

import jtrpo

NAMES = {"jax": jax, "jnp": jnp, "jtrpo": jtrpo}
"""What examples may use without importing it."""
MADE_FOR_PEOPLE = {
    "Agent", "CGInfo", "CPOInfo", "EnvStep", "EvaluatedResult", "HostTrainer", "LocalPolicy", "Metrics", "TRPOInfo",
    "TrainResult", "TrainState", "Trainer",
}  # fmt: skip
"""What comes back from functions and is never built by hand."""
ELSEWHERE = {"export_policy", "load_policy", "make_host_trainer"}
"""Too slow or too much for an example that runs at once: see tests/tools/test_export.py, checkpoint, training/test_host.py."""

MODULES = [module.name for module in pkgutil.walk_packages(jtrpo.__path__, "jtrpo.") if module.name != "jtrpo.__main__"]


def examples_of(module):
    found = doctest.DocTestFinder().find(module, extraglobs=NAMES)
    return {test.name.removeprefix(f"{module.__name__}."): test for test in found if test.examples}


EXAMPLES = {name: test for name in MODULES for name, test in examples_of(importlib.import_module(name)).items()}


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name):
    said = []
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.FAIL_FAST)
    runner.run(EXAMPLES[name], out=said.append, clear_globs=False)
    assert runner.summarize(verbose=False).failed == 0, "".join(said)


def test_what_people_call_has_an_example():
    assert set(jtrpo.__all__) - MADE_FOR_PEOPLE - ELSEWHERE <= set(EXAMPLES)


def test_a_wrong_example_is_noticed():
    test = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, None)
    assert doctest.DocTestRunner(verbose=False).run(test, out=lambda _: None).failed == 1
