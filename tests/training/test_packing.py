import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jtrpo.training.packing import Packing


@pytest.mark.parametrize("batch", [0, 1])
def test_every_number_comes_back_to_the_bit_and_as_few_arrays_as_there_are_widths(batch):
    nan = np.array([0x7FC00001, 0x80000000, 0x00000001], np.uint32).view(np.float32)  # NaN's payload, -0, a subnormal
    tree = {
        "a": np.stack([nan, nan]),
        "b": (np.array([True, False]), np.array([-5, 2**31 - 1], np.int32)),
        "c": np.zeros((2, 0), np.float32),
        "d": np.arange(12, dtype=np.int8).reshape(2, 3, 2),
        "e": np.array([1.5, -2.0], ml_dtypes.bfloat16),
    }
    packing = Packing(tree, batch)
    packed = jax.jit(packing.pack)(tree)
    assert [x.dtype for x in packed] == [np.uint32, np.uint8, ml_dtypes.bfloat16]
    assert packed[0].shape == ((2, 4) if batch else (8,))
    for again in (packing.unpack([np.asarray(x) for x in packed]), jax.jit(packing.unpack)(packed)):
        for one, other in zip(jax.tree.leaves(tree), jax.tree.leaves(again), strict=True):
            assert (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, np.asarray(other).tobytes())


def test_scalars_lie_side_by_side():
    tree = (jnp.float32(0.5), jnp.int32(-1), jnp.bool_(True))
    packing = Packing(tree)
    packed = jax.device_get(jax.jit(packing.pack)(tree))
    assert [x.shape for x in packed] == [(2,), (1,)]
    again = packing.unpack(packed)
    assert [(x.shape, x.dtype, x.item()) for x in again] == [((), x.dtype, x.item()) for x in tree]


def test_further_leading_axes_stay_and_what_is_no_number_passes():
    like = {"key": jax.random.split(jax.random.key(0), 2), "x": jnp.zeros((2, 3)), "y": jnp.zeros(2, bool)}
    packing = Packing(like, 1)
    packed = jax.jit(packing.pack)(like)
    assert (jax.random.key_data(packing.unpack(packed)["key"]) == jax.random.key_data(like["key"])).all()
    rows = [np.stack([np.asarray(x)] * 5) for x in packed[:2]]
    again = packing.unpack([*rows, packed[2]])
    assert (again["x"].shape, again["y"].shape, again["y"].dtype) == ((5, 2, 3), (5, 2), bool)
