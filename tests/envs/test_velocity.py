"""Robots with a cost on their speed."""

import numpy as np
import pytest

import jtrpo
from jtrpo.envs.host_vector import HostVector
from jtrpo.envs.velocity import ALONG, ANY_WAY, COSTS, SpeedCost, velocity_task


def test_a_name_stands_for_a_robot_and_its_threshold():
    assert velocity_task("SafetyWalker2dVelocity-v1") == ("Walker2d-v4", SpeedCost(ALONG, 2.3415))
    assert [velocity_task(name) for name in ("Walker2d-v4", "SafetyDoggoVelocity-v1", "SafetyAntVelocity-v0")] == [
        None
    ] * 3
    assert set(COSTS) == {"Ant", "HalfCheetah", "Hopper", "Humanoid", "Swimmer", "Walker2d"}


def test_a_speed_above_the_threshold_costs_one():
    forwards = np.array([-2.0, 0.5, 1.0, 1.5])
    assert SpeedCost(ALONG, 1.0)(forwards).tolist() == [0, 0, 0, 1]
    assert SpeedCost(ANY_WAY, 1.0)(forwards, np.array([0.0, 0.9, 0.1, 0.0])).tolist() == [1, 1, 1, 1]


def test_settings_ship_for_a_velocity_task_or_are_those_of_its_robot():
    shipped = jtrpo.training.tuned.shipped
    assert shipped("envpool:SafetyHopperVelocity-v1")[0] == {**shipped("envpool:Hopper-v4")[0], "num_envs": 16}
    assert shipped("envpool:SafetySwimmerVelocity-v1") == shipped("envpool:Swimmer-v4") != ({}, {})
    assert shipped("envpool:SafetyDoggoVelocity-v1") == ({}, {})


@pytest.mark.parametrize("suite", ["gymnasium", "envpool"])
def test_a_task_is_made_without_a_warning(suite):
    pytest.importorskip("mujoco")
    pytest.importorskip("envpool")
    environment = jtrpo.TrainConfig(f"{suite}:SafetyHopperVelocity-v1").environment
    environment.make(2, 0).reset()  # pytest makes an error of every warning


def test_the_cost_of_a_step_is_that_of_its_velocity():
    pytest.importorskip("envpool")
    environment = jtrpo.TrainConfig("envpool:SafetySwimmerVelocity-v1").environment
    vector = HostVector(environment.make(4, 0), ("x_velocity",), environment.cost)
    vector.check_names(0)
    vector.reset(0)
    rng = np.random.default_rng(0)
    steps = [vector.step(rng.uniform(-1, 1, (4, 2))) for _ in range(50)]
    velocity, cost = (
        np.stack([x(step) for step in steps]) for x in (lambda s: s.metrics["x_velocity"], lambda s: s.cost)
    )
    np.testing.assert_array_equal(cost, velocity > COSTS["Swimmer"].threshold)
    assert 0 < cost.mean() < 1
