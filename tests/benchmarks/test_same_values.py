import numpy as np
import pytest

from benchmarks.peers import same_values

pytestmark = pytest.mark.long


SIZES = [each if each == "Pendulum-v1" else pytest.param(each, marks=pytest.mark.long) for each in same_values.SIZES]


@pytest.fixture(scope="module", params=SIZES)
def answers(request):
    """jtrpo in the peer's place, normalising as the peer does: by the standard deviation over n - 1."""
    asked = same_values.question(request.param)
    names = np.array([name for name in asked if same_values.is_policy(name) and "vector" not in name])
    flat = lambda tree: np.concatenate([np.ravel(tree[name]) for name in names])  # noqa: E731
    theirs, normalized = (
        {name: flat(x) if isinstance(x, dict) else x for name, x in same_values.measure(asked, normalize).items()}
        for normalize in (False, True)
    )
    normalized["train/policy_objective"] = normalized["train/policy_objective"] * np.sqrt(
        1 - 1 / asked["advantage"].size
    )
    return request.param, asked, {**theirs, "names": names}, normalized


def wrong(rows):
    return [row.value for row in rows if not row.difference <= row.tolerance]


def test_equal_answers_agree_and_the_two_directions_of_the_kl_do_not(answers):
    rows = same_values.compare(*answers)
    assert wrong(rows) == []
    (shown,) = [row for row in rows if "beside" in row.value]
    assert shown.difference > 1e-3


@pytest.mark.parametrize("name", ["fisher product", "train/kl_divergence_loss", "train/explained_variance"])
def test_a_value_that_differs_is_named(answers, name):
    env, asked, theirs, normalized = answers
    rows = same_values.compare(env, asked, {**theirs, name: theirs[name] * 1.02}, normalized)
    assert name in wrong(rows)
