import pytest

import jtrpo
from jtrpo.training.tuned import TUNED


@pytest.mark.parametrize("env", [*TUNED, "FourRooms-misc"])
def test_what_ships_can_be_built_and_replaced(env):
    config, hyperparams = jtrpo.tuned(env)
    static, numbers = TUNED.get(env, ({}, {}))
    assert config == jtrpo.TrainConfig(env, **static)
    assert hyperparams == jtrpo.Hyperparams(**numbers)
    config, hyperparams = jtrpo.tuned(env, total_timesteps=7, max_kl=0.5)
    assert (config.total_timesteps, hyperparams.max_kl) == (7, 0.5)


def test_a_name_that_is_no_setting_is_refused():
    with pytest.raises(TypeError, match="max_k"):
        jtrpo.tuned("CartPole-v1", max_k=0.1)
