import pytest

import jtrpo
from jtrpo.training.tuned import TUNED, shipped


@pytest.mark.parametrize("name", [*TUNED, "FourRooms-misc"])
def test_what_ships_can_be_built_and_replaced(name):
    version = "Velocity-v1" if name.startswith("Safety") else "-v5"
    env = name if "-" in name else f"gymnasium:{name}{version}"
    if env != name:
        pytest.importorskip("mujoco")
    config, hyperparams = jtrpo.tuned(env)
    static, numbers = TUNED.get(name, ({}, {}))
    assert config == jtrpo.TrainConfig(env, **static)
    assert hyperparams == jtrpo.Hyperparams(**numbers)
    config, hyperparams = jtrpo.tuned(env, total_timesteps=7, max_kl=0.5)
    assert (config.total_timesteps, hyperparams.max_kl) == (7, 0.5)


def test_a_robot_has_one_entry_whoever_steps_it():
    assert shipped("envpool:Hopper-v5") == shipped("gymnasium:Hopper-v4") == TUNED["Hopper"]
    assert shipped("gymnasium:Hopper-v3") == shipped("Hopper-v5") == shipped(object()) == ({}, {})


def test_a_name_that_is_no_setting_is_refused():
    with pytest.raises(TypeError, match="max_k"):
        jtrpo.tuned("CartPole-v1", max_k=0.1)
