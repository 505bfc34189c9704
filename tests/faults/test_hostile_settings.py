"""Whatever is typed, a setting is taken or refused by its name; nothing else ever comes out."""

import dataclasses
import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import example, given, settings

import jtrpo
from jtrpo.tools import cli, options
from jtrpo.tools.commands import train
from jtrpo.training.config import TrainConfig
from jtrpo.training.hyperparams import Hyperparams

FIELDS = [field.name for field in dataclasses.fields(TrainConfig)]
HOSTILE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["tanh", "64", "1e3", "nan", "CartPole-v1", "max_kl", b"x", 1j, math, object, np.float32("nan")]),
    st.lists(st.integers(-1, 2), max_size=3),
    st.tuples(st.sampled_from(["max_kl", "gamma", 3, None])),
    st.dictionaries(
        st.sampled_from(["max_kl", "x", 1]), st.one_of(st.floats(), st.just(lambda update: update)), max_size=2
    ),
    st.sampled_from([np.array([1, 2]), np.array(2), np.int64(2), np.array(["a"]), np.float64(0.5)]),
)


@settings(max_examples=400)
@given(st.sampled_from(FIELDS), HOSTILE)
@example("hidden_sizes", [4, "x"])
@example("total_timesteps", 1e6)
@example("env", None)
def test_a_field_of_the_configuration_is_taken_or_refused_by_its_name(name, value):
    try:
        config = TrainConfig(**{"env": "CartPole-v1", **{name: value}})
    except (TypeError, ValueError) as error:
        assert name in str(error) or (name in ("num_envs", "num_steps") and "critic_minibatches" in str(error)), error
    else:
        assert config.num_updates >= 1
        hash(config)


@settings(max_examples=300)
@given(st.sampled_from(Hyperparams._fields), HOSTILE)
def test_a_hyper_parameter_is_taken_or_refused_by_its_name(name, value):
    try:
        checked = Hyperparams(**{name: value}).check()
    except (TypeError, ValueError) as error:
        assert name in str(error), error
    else:
        assert np.isfinite(np.asarray(getattr(checked, name), float)).all()


OPTIONS = [name for name, *_ in (*options.CONFIG_FIELDS, *options.HYPERPARAM_FIELDS)] + [
    "seed",
    "checkpoint_every",
    "keep",
]


@settings(max_examples=40)
@given(
    st.sampled_from(OPTIONS), st.sampled_from(["", "x", "-1", "0", "nan", "inf", "1e400", "2", "None", "()", "--", "ä"])
)
def test_an_option_is_taken_or_refused_with_a_message_and_exit_code_2(name, text):
    class Reached(Exception):
        pass

    def stop(*_, **__):
        raise Reached

    import contextlib
    import io

    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(train, "run_training", stop)
        patch.setattr(cli, "_keep_compiled_programs", lambda: None)
        patch.setattr(train, "Checkpoints", stop)
        with pytest.raises((SystemExit, Reached)) as caught:
            cli.main(["train", "CartPole-v1", f"--{name.replace('_', '-')}", text])
    if caught.type is SystemExit:
        said = out.getvalue() + err.getvalue()
        assert caught.value.code == 2
        assert name in said.replace("-", "_") or text in said or "critic_minibatches" in said, said
        assert "Traceback" not in said


def test_the_largest_and_smallest_settings_that_are_taken_make_a_configuration():
    config = jtrpo.TrainConfig("CartPole-v1", total_timesteps=10**15, num_envs=1, num_steps=1, critic_minibatches=1)
    assert config.num_updates == 10**15
