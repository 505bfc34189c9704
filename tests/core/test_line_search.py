import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtrpo import Evaluation, UpdateStatus, improves_within, line_search


def evaluation(objective, kl):
    objective, kl = jnp.asarray(objective, jnp.float32), jnp.asarray(kl, jnp.float32)
    return Evaluation(objective, kl, 2 * kl, 0 * kl)


START = evaluation(0.0, 0.0)
OLD = {"x": jnp.float32(1.0)}
STEP = {"x": jnp.float32(1.0)}


def search(objective, kl, *, max_kl=1.0, params=OLD, step=STEP, start=START, **settings):
    """Search along t in params + t step, for functions of t."""

    def evaluate(candidate):
        t = candidate["x"] - params["x"]
        return evaluation(objective(t), kl(t))

    return line_search(evaluate, params, step, start, accept=improves_within(max_kl), **settings)


def better(t):
    return t


def test_the_full_step_is_taken_where_it_is_acceptable():
    params, info = search(better, lambda t: 0.5 * t)
    assert params["x"] == 2
    assert (info.status, info.backtracks, info.fraction) == (UpdateStatus.ACCEPTED, 0, 1)
    assert info.evaluation == (1, 0.5, 1, 0, {})


@pytest.mark.parametrize("k", [1, 2, 5, 9])
def test_the_first_candidate_inside_the_trust_region_is_taken(k):
    params, info = search(better, lambda t: t, max_kl=0.5**k, backtrack_factor=0.5)
    assert params["x"] == 1 + 0.5**k  # KL equal to max_kl is inside
    assert (info.status, info.backtracks, info.fraction) == (UpdateStatus.ACCEPTED, k, 0.5**k)
    assert info.evaluation.kl == 0.5**k
    assert info.evaluation.objective == 0.5**k


def test_a_kl_just_above_the_bound_is_refused():
    limit = np.nextafter(np.float32(1), np.float32(0))
    params, info = search(better, lambda t: t, max_kl=limit, backtrack_factor=0.5)
    assert params["x"] == 1.5
    assert info.backtracks == 1


def test_the_first_candidate_that_improves_is_taken():
    params, info = search(lambda t: t * (0.3 - t), lambda t: 0 * t, backtrack_factor=0.5)
    assert params["x"] == 1.25
    assert info.backtracks == 2


def test_improvement_is_measured_from_the_start_and_must_be_strict():
    params, info = search(lambda t: 0 * t + 3, lambda t: 0 * t, start=evaluation(3.0, 0.0))
    assert params["x"] == 1
    assert info.status == UpdateStatus.NO_IMPROVEMENT
    params, info = search(lambda t: 0 * t + 3, lambda t: 0 * t, start=evaluation(2.9, 0.0))
    assert params["x"] == 2
    assert info.status == UpdateStatus.ACCEPTED


@pytest.mark.parametrize("max_backtracks", [1, 3, 7])
def test_at_most_max_backtracks_candidates_are_tried(max_backtracks):
    params, info = search(lambda t: -t, lambda t: 0 * t, max_backtracks=max_backtracks)
    assert params["x"] == 1
    assert info.backtracks == max_backtracks
    # The candidate that would come next is acceptable, and must not be seen.
    threshold = 0.5**max_backtracks
    _, info = search(
        lambda t: jnp.where(t <= threshold, 1.0, -1.0),
        lambda t: 0 * t,
        max_backtracks=max_backtracks,
        backtrack_factor=0.5,
    )
    assert info.status == UpdateStatus.NO_IMPROVEMENT
    _, info = search(
        lambda t: jnp.where(t <= threshold, 1.0, -1.0),
        lambda t: 0 * t,
        max_backtracks=max_backtracks + 1,
        backtrack_factor=0.5,
    )
    assert info.status == UpdateStatus.ACCEPTED


def nan_above(limit):
    return lambda t: jnp.where(t > limit, jnp.nan, t)


@pytest.mark.parametrize(
    ("objective", "kl", "status"),
    [
        (nan_above(0), lambda t: 0 * t, UpdateStatus.NON_FINITE_CANDIDATE),
        (lambda t: t / 0.0, lambda t: 0 * t, UpdateStatus.NON_FINITE_CANDIDATE),
        (better, nan_above(0), UpdateStatus.NON_FINITE_CANDIDATE),
        (better, lambda t: t / 0.0, UpdateStatus.NON_FINITE_CANDIDATE),
        (better, lambda t: 0 * t + 9, UpdateStatus.KL_EXCEEDED),
        (lambda t: -t, lambda t: 0 * t, UpdateStatus.NO_IMPROVEMENT),
        # the reason of the candidate that came closest:
        (nan_above(0.5), lambda t: 0 * t + 9, UpdateStatus.KL_EXCEEDED),
        (lambda t: -t, lambda t: 5 * t, UpdateStatus.NO_IMPROVEMENT),
    ],
)
def test_a_refusal_returns_the_old_parameters_and_says_why(objective, kl, status):
    params, info = search(objective, kl)
    assert params["x"] == 1
    assert info.status == status
    assert info.fraction == 0
    assert info.backtracks == 10
    assert info.evaluation == START


def test_a_candidate_that_is_not_finite_is_passed_over():
    params, info = search(nan_above(0.6), lambda t: 0 * t, backtrack_factor=0.5)
    assert params["x"] == 1.5
    assert info.status == UpdateStatus.ACCEPTED


def test_an_initial_status_is_the_reason_why_nothing_is_tried():
    params, info = search(better, lambda t: 0 * t, initial_status=UpdateStatus.BAD_CURVATURE)
    assert params["x"] == 1
    assert (info.backtracks, info.fraction) == (0, 0)
    assert info.status == UpdateStatus.BAD_CURVATURE
    assert info.evaluation == START


def test_refused_parameters_come_back_bit_for_bit():
    bits = np.array([0x80000000, 0x00000001, 0x3DCCCCCD, 0x7F7FFFFF], np.uint32)  # -0, the smallest, 0.1, the largest
    params = {"a": jnp.asarray(bits.view(np.float32)), "x": jnp.float32(0.1)}
    step = {"a": jnp.array([1.0, 1.0, jnp.inf, jnp.nan]), "x": jnp.float32(1.0)}
    returned, _ = search(lambda t: -t, lambda t: 0 * t, params=params, step=step)
    np.testing.assert_array_equal(np.asarray(returned["a"]).view(np.uint32), bits)


def test_settings_may_be_traced_and_mapped():
    limits, factors, counts = jnp.array([1.0, 0.3, 0.001]), jnp.array([0.5, 0.5, 0.8]), jnp.array([10, 10, 2])

    def run(max_kl, factor, count):
        return search(better, lambda t: t, max_kl=max_kl, backtrack_factor=factor, max_backtracks=count)

    params, info = jax.jit(jax.vmap(run))(limits, factors, counts)
    np.testing.assert_allclose(params["x"], [2, 1.25, 1])
    np.testing.assert_array_equal(info.status, [UpdateStatus.ACCEPTED, UpdateStatus.ACCEPTED, UpdateStatus.KL_EXCEEDED])
    np.testing.assert_array_equal(info.backtracks, [0, 2, 2])


def test_every_status_has_its_own_explanation():
    explanations = {status.explanation for status in UpdateStatus}
    assert len(explanations) == len(UpdateStatus) == 10
    assert all(text.endswith(".") for text in explanations)
