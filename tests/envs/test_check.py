from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

import jtrpo
from jtrpo.envs.check import canonical
from tests import probes


def lying(**changes):
    """An environment whose class attributes or step results are not what they promise."""

    class Liar(probes.TruncatedOnly):
        observation_space = changes.pop("observation_space", probes.Probe.observation_space)

        def step(self, key, state, action):
            result = super().step(key, state, action)
            if "result" in changes:
                return changes["result"]
            return result._replace(**{name: change(getattr(result, name)) for name, change in changes.items()})

    return Liar(probes.DISCRETE)


PAIR = spaces.Dict({"a": spaces.Box(-1, 1, (2,), np.float32), "b": spaces.Discrete(3)})


@pytest.mark.parametrize(
    ("env", "error", "message"),
    [
        (
            lying(observation_space=spaces.Box(-1, 1, (5,), np.float32)),
            ValueError,
            r"reset has shape \(1,\).*says \(5,\)",
        ),
        (lying(observation_space=PAIR), ValueError, r"observation at reset must be a dict of \['a', 'b'\].*got"),
        (lying(final_observation=lambda x: x[0]), ValueError, r"final_observation has shape \(\).*says \(1,\)"),
        (lying(reward=lambda x: x[None]), ValueError, r"reward must be a scalar; got an array of shape \(1,\)"),
        (lying(terminated=lambda x: x[None]), ValueError, r"terminated must be a scalar"),
        (lying(truncated=lambda x: x.astype(float)), ValueError, r"truncated must be a bool; got float32.*astype"),
        (lying(metrics=lambda _: [1.0]), TypeError, r"metrics must be a dictionary of scalars; got list"),
        (
            lying(metrics=lambda _: {"x": jnp.zeros(2)}),
            ValueError,
            r"metrics\['x'\] must be a scalar; got shape \(2,\)",
        ),
        (lying(metrics=lambda _: {"x": "fast"}), ValueError, r"metrics\['x'\] must be a real number; got str"),
        (lying(metrics=lambda _: {"a b": 1.0}), ValueError, r"names without spaces, commas and quotes.*'a b'"),
        (lying(cost=lambda _: jnp.zeros((2, 2))), ValueError, r"cost must be a scalar or a vector.*\(2, 2\)"),
        (lying(result=(1, 2, 3)), TypeError, r"step must return a jtrpo.EnvStep; got tuple"),
    ],
)
def test_an_environment_that_does_not_keep_its_word_is_named(env, error, message):
    config = jtrpo.TrainConfig(env, num_envs=4, num_steps=4, hidden_sizes=(4,))
    trainer = jtrpo.make_trainer(config)
    with pytest.raises(error, match=message):
        jax.eval_shape(lambda key: trainer.step(trainer.init(key)), jax.random.key(0))


def test_dictionaries_and_tuples_are_looked_into():
    good = {"a": jnp.zeros((4, 2)), "b": jnp.zeros((4,), int)}
    checked = partial(canonical, name="observation", batch=1)
    assert checked(PAIR, good)["b"] is not None
    assert len(checked(spaces.Tuple([PAIR, probes.DISCRETE]), (good, jnp.zeros(4)))) == 2
    with pytest.raises(ValueError, match=r"observation\['a'\] has shape \(3,\)"):
        checked(PAIR, {**good, "a": jnp.zeros((4, 3))})
    with pytest.raises(ValueError, match=r"got \['a'\]"):
        checked(PAIR, {"a": good["a"]})
    with pytest.raises(ValueError, match=r"must be a tuple of \[0, 1\]"):
        checked(spaces.Tuple([PAIR, probes.DISCRETE]), good)
