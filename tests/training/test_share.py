from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import jtrpo
from jtrpo.core.composite import MultiCategorical, Product
from jtrpo.core.gsde import StateDependentNoise
from jtrpo.envs.gymnasium import from_vector
from jtrpo.training.host.check import check_host
from jtrpo.training.host.share import Share, share_of
from tests.probes import counting

SEEN = jnp.linspace(-1.0, 1.0, 12).reshape(6, 2)  # as many numbers as a share has environments

POLICIES = {
    "one array": lambda seen: jtrpo.Categorical(seen),
    "a spread for all": lambda seen: jtrpo.DiagGaussian(seen, jnp.array([0.0, 1.0])),
    "a matrix for all": lambda seen: StateDependentNoise(seen, seen, jnp.ones((2, 2))),
    "parts": lambda seen: Product({"a": MultiCategorical((seen, seen)), "b": jtrpo.DiagGaussian(seen, jnp.zeros(()))}),
}


@pytest.mark.parametrize("impl", [None, "unsafe_rbg"])
@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_the_actions_of_the_shares_are_those_of_the_whole(policy, impl):
    key = jax.random.key(3, impl=impl)
    whole = policy(SEEN).sample(key)
    for index in range(3):
        share = Share(None, 3, index)
        rows = share.rows(2)
        own = share.sample(policy(SEEN[rows]), key, policy, SEEN[rows])
        jax.tree.map(lambda x, y, rows=rows: np.testing.assert_array_equal(x, y[rows]), own, whole)


def mesh_of(*processes):
    devices = np.array([SimpleNamespace(process_index=process) for process in processes])
    return SimpleNamespace(axis_names=("envs",), devices=devices)


def test_a_share_is_the_block_of_a_process_among_the_devices():
    found = share_of(mesh_of(1, 1, 0, 0))
    assert (found.count, found.index) == (2, 1)
    assert share_of(mesh_of(0, 0)).count == share_of(None).count == 1
    for processes, message in [
        ((0, 1, 0, 1), r"side by side.*\[0, 1, 0, 1\]"),
        ((0, 0, 1), "equally many"),
        ((1, 2), r"must have devices of this process, 0; got those of \[1, 2\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            share_of(mesh_of(*processes))


def test_a_vector_of_ones_own_is_the_share_of_its_process():
    environment = from_vector(counting((2, 3), AutoresetMode.SAME_STEP))
    check_host(environment, 4, mesh_of(0, 1), "single_path")
    with pytest.raises(ValueError, match="environment, 2 in each of 2 processes, 4 in all; got 2"):
        check_host(environment, 2, mesh_of(0, 1), "single_path")
