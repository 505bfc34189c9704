import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse.linalg

from jtrpo import conjugate_gradient

N = 8


def spd(seed=0, n=N, condition=100.0):
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))
    return (q * np.geomspace(1, condition, n)) @ q.T


def right_hand_side(seed=1, n=N):
    return np.random.default_rng(seed).normal(size=n)


@jax.jit
def solve(matrix, b, max_iterations=10, tolerance=1e-5):
    return conjugate_gradient(lambda v: matrix @ v, b, max_iterations=max_iterations, tolerance=tolerance)


@pytest.mark.usefixtures("x64")
def test_agrees_with_a_direct_solve():
    matrix, b = spd(), right_hand_side()
    x, info = solve(matrix, b, 100, 1e-13)
    np.testing.assert_allclose(x, jnp.linalg.solve(matrix, b), rtol=1e-10)
    assert info.iterations <= N + 3
    assert not info.curvature_guard


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("k", [1, 2, 3, 5, 7])
def test_iterates_are_those_of_scipy(k):
    matrix, b = spd(), right_hand_side()
    expected, _ = scipy.sparse.linalg.cg(matrix, b, rtol=0, atol=0, maxiter=k)
    x, info = solve(matrix, b, k, 0.0)
    np.testing.assert_allclose(x, expected, rtol=1e-9)
    assert info.iterations == k


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("k", [0, 1, 3, 6])
def test_info_reports_the_true_residual_and_curvature(k):
    matrix, b = spd(), right_hand_side()
    x, info = solve(matrix, b, k, 0.0)
    x = np.asarray(x)
    np.testing.assert_allclose(info.relative_residual, np.linalg.norm(b - matrix @ x) / np.linalg.norm(b), rtol=1e-9)
    np.testing.assert_allclose(info.curvature, x @ matrix @ x, rtol=1e-9)


@pytest.mark.usefixtures("x64")
def test_a_pytree_gives_the_solution_of_the_flat_system():
    matrix, b = spd(), right_hand_side()
    tree, unravel = jax.flatten_util.ravel_pytree({"w": b[:6].reshape(2, 3), "b": (b[6:7], b[7])})
    b = np.asarray(tree)
    flat, flat_info = solve(matrix, b, 5, 0.0)
    x, info = conjugate_gradient(
        lambda v: unravel(matrix @ jax.flatten_util.ravel_pytree(v)[0]), unravel(b), max_iterations=5, tolerance=0.0
    )
    assert jax.tree.structure(x) == jax.tree.structure(unravel(b))
    np.testing.assert_allclose(jax.flatten_util.ravel_pytree(x)[0], flat, rtol=1e-10)
    np.testing.assert_allclose(info.curvature, flat_info.curvature, rtol=1e-10)


@pytest.mark.parametrize("exponent", [-20, -7, 9, 20])
def test_scaling_the_right_hand_side_scales_the_solution_bit_for_bit(exponent):
    matrix, b = np.float32(spd()), np.float32(right_hand_side())
    scale = np.float32(2.0**exponent)
    x, info = solve(matrix, b, 50, 0.3)
    scaled_x, scaled_info = solve(matrix, scale * b, 50, 0.3)
    np.testing.assert_array_equal(scaled_x, scale * x)
    assert scaled_info.iterations == info.iterations
    assert 1 < info.iterations < N  # the tolerance, and not the limit, ended it
    np.testing.assert_array_equal(scaled_info.relative_residual, info.relative_residual)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("tolerance", [1e-1, 1e-3, 1e-6])
def test_stops_at_the_first_iterate_within_the_relative_tolerance(tolerance):
    matrix, b = spd(), right_hand_side()
    _, info = solve(matrix, b, 100, tolerance)
    assert info.relative_residual <= tolerance
    _, before = solve(matrix, b, info.iterations - 1, 0.0)
    assert before.relative_residual > tolerance


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("distinct", [1, 2, 3])
def test_needs_as_many_iterations_as_there_are_distinct_eigenvalues(distinct):
    diagonal = 1.0 + np.arange(N) % distinct
    x, info = solve(np.diag(diagonal), right_hand_side(), 100, 1e-10)
    assert info.iterations == distinct
    np.testing.assert_allclose(x, right_hand_side() / diagonal, rtol=1e-9)


def test_zero_right_hand_side_gives_zero_at_once():
    x, info = solve(np.float32(spd()), np.zeros(N, np.float32))
    np.testing.assert_array_equal(x, np.zeros(N))
    assert (info.iterations, info.relative_residual, info.curvature, info.curvature_guard) == (0, 0, 0, False)


def test_negative_curvature_in_the_first_direction_leaves_zero():
    x, info = solve(-np.eye(N, dtype=np.float32), np.ones(N, np.float32))
    np.testing.assert_array_equal(x, np.zeros(N))
    assert info.curvature_guard
    assert info.curvature == 0
    assert info.relative_residual == 1


@pytest.mark.parametrize("matrix", [np.zeros((N, N)), np.diag([1.0, 1, 1, 1, 1, 1, 1, -20])])
def test_non_positive_curvature_is_guarded(matrix):
    x, info = solve(np.float32(matrix), np.ones(N, np.float32))
    assert info.curvature_guard
    assert np.all(np.isfinite(x))


@pytest.mark.usefixtures("x64")
def test_a_later_direction_of_negative_curvature_returns_the_last_good_iterate():
    matrix, b = np.diag([1.0, 2.0, 3.0, -1.0]), np.array([1.0, 1.0, 1.0, 0.3])
    x, info = solve(matrix, b, 50, 1e-10)
    assert info.curvature_guard
    assert info.iterations >= 2
    good, good_info = solve(matrix, b, info.iterations - 1, 0.0)
    assert not good_info.curvature_guard
    np.testing.assert_array_equal(x, good)
    np.testing.assert_allclose(info.relative_residual, np.linalg.norm(b - matrix @ x) / np.linalg.norm(b), rtol=1e-12)
    assert info.curvature == good_info.curvature > 0


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_product_that_is_not_finite_is_guarded_and_the_residual_is_that_of_the_iterate(value):
    matrix = np.eye(N, dtype=np.float32)
    matrix[2, 2] = value
    x, info = solve(matrix, np.ones(N, np.float32))
    np.testing.assert_array_equal(x, np.zeros(N))
    assert info.curvature_guard
    assert info.iterations == 1
    assert info.relative_residual == 1  # of x = 0


def test_a_nan_in_the_right_hand_side_never_reaches_the_solution():
    x, _ = solve(np.float32(spd()), np.full(N, np.nan, np.float32))
    np.testing.assert_array_equal(x, np.zeros(N))


@pytest.mark.usefixtures("x64")
def test_a_diagonal_preconditioner_reaches_the_tolerance_in_fewer_iterations():
    n = 40
    diagonal = np.geomspace(1, 1e6, n)
    matrix = np.diag(diagonal) + 0.1 * spd(n=n, condition=10)
    b = right_hand_side(n=n)
    settings = {"max_iterations": 500, "tolerance": 1e-8}
    plain, plain_info = conjugate_gradient(lambda v: matrix @ v, b, **settings)
    x, info = conjugate_gradient(lambda v: matrix @ v, b, preconditioner=lambda r: r / diagonal, **settings)
    expected = np.linalg.solve(matrix, b)
    for solution in (plain, x):
        np.testing.assert_allclose(matrix @ solution, b, atol=1e-7)
    np.testing.assert_allclose(info.curvature, expected @ matrix @ expected, rtol=1e-6)
    assert info.relative_residual <= 1e-8
    assert info.iterations < plain_info.iterations / 3


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("k", [1, 3, 5])
def test_preconditioned_iterates_are_those_of_scipy(k):
    matrix, b = spd(), right_hand_side()
    inverse = np.diag(1 / np.diag(matrix))
    expected, _ = scipy.sparse.linalg.cg(matrix, b, rtol=0, atol=0, maxiter=k, M=inverse)
    x, info = conjugate_gradient(
        lambda v: matrix @ v, b, max_iterations=k, tolerance=0.0, preconditioner=lambda r: inverse @ r
    )
    np.testing.assert_allclose(x, expected, rtol=1e-9)
    np.testing.assert_allclose(info.curvature, x @ matrix @ x, rtol=1e-9)


def test_a_mapped_solve_equals_each_alone_though_they_stop_at_different_iterations():
    matrix = jnp.diag(jnp.arange(1.0, N + 1))
    bs = jnp.stack([jnp.eye(N)[0], jnp.ones(N), jnp.zeros(N)])
    mapped_x, mapped_info = jax.vmap(lambda b: solve(matrix, b, 20, 1e-4))(bs)
    assert len(set(mapped_info.iterations.tolist())) == 3
    for i, b in enumerate(bs):
        x, info = solve(matrix, b, 20, 1e-4)
        np.testing.assert_allclose(mapped_x[i], x, rtol=1e-5, atol=1e-6)
        assert mapped_info.iterations[i] == info.iterations


def test_the_dtype_of_the_right_hand_side_is_kept_whatever_the_product_returns(x64):
    b = {"a": jnp.ones(3, jnp.float32), "b": jnp.ones(2, jnp.float64)}
    damping = jnp.float64(0.5)
    x, _ = conjugate_gradient(lambda v: jax.tree.map(lambda u: u + damping * u, v), b)
    assert jax.tree.map(lambda u: u.dtype, x) == {"a": jnp.float32, "b": jnp.float64}
    single = {"a": b["a"]}
    x, _ = conjugate_gradient(lambda v: jax.tree.map(lambda u: u + damping * u, v), single)
    np.testing.assert_allclose(x["a"], np.full(3, 1 / 1.5), rtol=1e-6)
    assert x["a"].dtype == jnp.float32
