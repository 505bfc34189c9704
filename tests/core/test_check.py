import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtrpo.core.check import check_count, check_number

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
