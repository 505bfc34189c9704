import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jtrpo
from jtrpo.core.check import check_callable, check_count, check_number, check_same_form

BOUNDS = {"above": 0, "at_most": 1}


@pytest.mark.parametrize("value", [0.5, 1, np.float32(0.1), np.array([0.1, 1.0]), jnp.float32(0.1), jnp.bfloat16(0.5)])
def test_check_number_accepts(value):
    check_number("x", value, **BOUNDS)


@pytest.mark.parametrize(
    ("value", "error", "shown"),
    [
        (0, ValueError, "got 0"),
        (-0.5, ValueError, "got -0.5"),
        (1.5, ValueError, "got 1.5"),
        (float("nan"), ValueError, "got nan"),
        (float("inf"), ValueError, "got inf"),
        (np.array([0.5, 2.5, 3.5]), ValueError, "got 2.5 among 3 values"),
        (jnp.array([0.5, jnp.nan]), ValueError, "got nan among 2 values"),
        ("0.5", TypeError, "got '0.5' of type str"),
        (None, TypeError, "got None of type NoneType"),
        (True, TypeError, "got True of type bool"),
        ([0.5], TypeError, "of type list"),
        (jnp.array([True]), TypeError, "array of bool"),
    ],
)
def test_check_number_names_argument_bounds_and_value(value, error, shown):
    with pytest.raises(error) as caught:
        check_number("my_setting", value, **BOUNDS)
    message = str(caught.value)
    assert message.startswith("my_setting must be a finite number above 0 and at most 1; ")
    assert shown in message


@pytest.mark.parametrize(("bound", "inside", "outside"), [("at_least", 2, 1.999), ("above", 2.001, 2)])
def test_check_number_lower_bounds(bound, inside, outside):
    check_number("x", inside, **{bound: 2})
    with pytest.raises(ValueError, match=f"{bound.replace('_', ' ')} 2; got {outside}"):
        check_number("x", outside, **{bound: 2})


@pytest.mark.parametrize(("bound", "inside", "outside"), [("at_most", 2, 2.001), ("below", 1.999, 2)])
def test_check_number_upper_bounds(bound, inside, outside):
    check_number("x", inside, **{bound: 2})
    with pytest.raises(ValueError, match=f"{bound.replace('_', ' ')} 2; got {outside}"):
        check_number("x", outside, **{bound: 2})


@pytest.mark.parametrize("value", [1, 10, np.int64(3), jnp.int32(3), np.array(2)])
def test_check_count_accepts(value):
    check_count("x", value, at_least=1)


@pytest.mark.parametrize(
    ("value", "error", "shown"),
    [
        (0, ValueError, "got 0"),
        (-3, ValueError, "got -3"),
        (jnp.int32(0), ValueError, "got 0"),
        (1.5, TypeError, "got 1.5 of type float"),
        (2.0, TypeError, "write 2"),
        (float("nan"), TypeError, "got nan"),
        ("3", TypeError, "got '3' of type str"),
        (None, TypeError, "NoneType"),
        (True, TypeError, "got True of type bool"),
        (np.array([1, 2]), TypeError, "ndarray"),
    ],
)
def test_check_count_names_argument_bound_and_value(value, error, shown):
    with pytest.raises(error) as caught:
        check_count("my_count", value, at_least=1)
    message = str(caught.value)
    assert message.startswith("my_count must be a whole number of at least 1; ")
    assert shown in message


def test_values_known_only_at_run_time_pass():
    @jax.jit
    def f(x, n):
        check_number("x", x, above=0)
        check_count("n", n, at_least=1)
        return x * n

    assert f(-1.0, 0) == 0


@functools.wraps(lambda a, b, c: None)
def wrapped(a, b):
    """Takes other arguments than what it wraps."""


@pytest.mark.parametrize(
    "function", [wrapped, jax.jit(lambda a, b: None), max, lambda *all: None, lambda a, b, c=0: None]
)
def test_a_function_that_takes_its_arguments_passes(function):
    check_callable("f", function, "(a, b)", takes=2)


@pytest.mark.parametrize(
    ("function", "got"),
    [
        (3, "got 3 of type int"),
        (lambda a: None, r"got one of \(a\)"),
        (lambda a, b, *, c: None, r"got one of \(a, b, c\)"),
    ],
)
def test_a_function_of_other_arguments_is_told_with_those_wanted(function, got):
    with pytest.raises(TypeError, match=r"f must be a function, \(a, b\) -> c; " + got):
        check_callable("f", function, "(a, b) -> c", takes=2)


def test_keywords_are_wanted_by_name():
    check_callable("f", lambda a, *, gamma: None, "", takes=1, keywords=("gamma",))
    with pytest.raises(TypeError, match=r"got one of \(a, g\)"):
        check_callable("f", lambda a, *, g: None, "", takes=1, keywords=("gamma",))


BATCH = jtrpo.Batch({"x": jnp.zeros((4, 2))}, jnp.zeros(4, int), jnp.zeros(4))


@pytest.mark.parametrize(
    ("change", "got"),
    [
        (lambda batch: None, "got NoneType"),
        (lambda batch: tuple(batch), "got tuple"),
        (lambda batch: batch._replace(weight=batch.advantage), r"got PyTreeDef.* in place of PyTreeDef"),
        (
            lambda batch: batch._replace(advantage=batch.action),
            r"got int32\[4\] in place of float32\[4\] at .advantage",
        ),
        (
            lambda batch: jax.tree.map(lambda x: x[:2], batch),
            r"got float32\[2, 2\] in place of float32\[4, 2\] at .observation\['x'\]",
        ),
        (lambda batch: batch._replace(advantage=1.0), r"got float in place of float32\[4\] at .advantage"),
    ],
)
def test_another_form_is_told_by_its_first_difference(change, got):
    assert check_same_form("f must return", BATCH._replace(advantage=jnp.ones(4)), BATCH).advantage.sum() == 4
    with pytest.raises(ValueError, match="^f must return; " + got):
        check_same_form("f must return", change(BATCH), BATCH)
