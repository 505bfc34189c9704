import jax
import numpy as np

from jtrpo.training.keys import keys_for


def data(keys):
    return {tuple(np.asarray(jax.random.key_data(key))) for key in keys}


def test_no_key_is_that_of_another_purpose_or_of_any_split():
    key = jax.random.key(0)
    named = keys_for(key, "policy", "critic", "environments", "training", "evaluation")
    assert len(data(named)) == 5
    split = data(jax.random.split(key, 1000)) | data([key])
    assert len(split) == 1001
    assert not data(named) & split
    assert data(keys_for(key, "critic", "policy")) == data(named[:2])  # a name's key does not depend on the others
