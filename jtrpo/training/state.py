"""What a training is between two updates, and what each update reports."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from jtrpo.core.trpo import TRPOInfo
from jtrpo.training.critic import CriticInfo
from jtrpo.training.episodes import EpisodeSummary
from jtrpo.training.hyperparams import Hyperparams
from jtrpo.training.keys import keys_for
from jtrpo.training.mesh import divided, shardings
from jtrpo.training.normalization import RunningStatistics
from jtrpo.training.rollout import RolloutState, Trajectory
from jtrpo.training.samples import SampleInfo


class TrainState(NamedTuple):
    """Everything the next step needs; save it and training goes on as if it had never stopped.

    Attributes:
        policy_params: the policy network's parameters.
        critic_params: the critic network's parameters.
        critic_optimizer: Adam's moments; ``()`` where the critic is fitted by Gauss-Newton steps.
        env_state: the environments' states, last observations, episodes under way and the networks' memory of them.
        observation_statistics: running moments of the observations.
        return_statistics: running moments of the discounted return.
        discounted_return: discounted return so far in each environment, ``[num_envs]``.
        target_statistics: running moments of the value targets.
        hyperparams: the algorithm's numbers; replace them to change course in mid-training.
        key: random key.
        update: updates done.
        window: the collections before the newest that updates learn from; ``()`` without sample reuse.
        costs: a :class:`CostState`; ``()`` without ``constraint_method``.
    """

    policy_params: PyTree
    critic_params: PyTree
    critic_optimizer: optax.OptState
    env_state: RolloutState
    observation_statistics: RunningStatistics
    return_statistics: RunningStatistics
    discounted_return: Float[Array, " num_envs"]
    target_statistics: RunningStatistics
    hyperparams: Hyperparams
    key: PRNGKeyArray
    update: Int[Array, ""]
    window: PyTree = ()
    costs: Any = ()


class Metrics(NamedTuple):
    """What one update reports.

    Attributes:
        timesteps: environment steps taken so far.
        hyperparams: the numbers in force, schedules and annealing included.
        episode: the episodes that finished while this update's batch was collected.
        samples: how much the samples count.
        policy: the policy update.
        critic: the critic fit.
        cost: a :class:`CostInfo`; ``()`` without ``constraint_method``.
    """

    timesteps: Array
    hyperparams: Hyperparams
    episode: EpisodeSummary
    samples: SampleInfo
    policy: TRPOInfo
    critic: CriticInfo
    cost: Any = ()


class TrainResult(NamedTuple):
    """What a whole training returns.

    Attributes:
        state: the state after the last update.
        metrics: one entry per update along the leading axis.
    """

    state: TrainState
    metrics: Metrics


class EvaluatedResult(NamedTuple):
    """What a whole training returns that is evaluated on the way.

    Attributes:
        state: the state after the last update.
        metrics: one entry per update along the leading axis.
        best_state: the state with the highest evaluation return.
        best_return: that return.
        returns: mean return of each evaluation, ``[evaluations]``.
        episodes: the episodes of each evaluation, as in :class:`Metrics`, ``[evaluations]`` each.
    """

    state: TrainState
    metrics: Metrics
    best_state: TrainState
    best_return: Float[Array, ""]
    returns: Float[Array, " evaluations"]
    episodes: EpisodeSummary


def check_state(state: Any) -> None:
    """Raise unless ``state`` is of one training.

    Raises:
        TypeError: something else than a :class:`TrainState`.
        ValueError: the states of several trainings, or one that was donated.
    """
    if not isinstance(state, TrainState):
        raise TypeError(
            f"state must be a jtrpo.TrainState, as init gives it; got {type(state).__name__} (step returns a pair, state and "
            "metrics, and make_train's function a TrainResult, whose state it is)"
        )
    if jnp.ndim(state.update) != 0:
        raise ValueError(
            f"state must be of one training; got those of an axis of shape {jnp.shape(state.update)}: jax.vmap over it, or "
            "take one by jax.tree.map(lambda x: x[0], state)"
        )
    known = [x for x in jax.tree.leaves(state) if isinstance(x, jax.Array) and not isinstance(x, jax.core.Tracer)]
    if any(leaf.is_deleted() for leaf in known):
        raise ValueError("state was donated to a step; go on with what the step returned")


def step_keys(state: TrainState) -> list[PRNGKeyArray]:
    """Five keys: of the next state, of this one's collection, of its critic fit, of its branches and of its cost critics' fit."""
    return keys_for(state.key, "next", "collection", "critic fit", "branches", "cost critic fit")


def state_shardings(mesh: Mesh | None, state: TrainState) -> TrainState | None:
    """Where each array of a state (or of its shapes) lies on a mesh; ``None`` without a mesh."""
    return None if mesh is None else shardings(mesh, state, mesh_specs(mesh, bool(jax.tree.leaves(state.window)))[0])


def mesh_specs(mesh: Mesh, window: bool) -> tuple[Any, Any]:
    """How a state and a trajectory lie on a mesh: what belongs to environments is divided, all else is everywhere.

    Args:
        mesh: the mesh.
        window: whether the state has one, of earlier collections.
    """
    everywhere: Any = PartitionSpec()
    first, second, third = (divided(mesh, axis) for axis in range(3))
    trajectory: Any = Trajectory(*[second] * len(Trajectory._fields))._replace(memory=first)
    earlier: Any = Trajectory(*[third] * len(Trajectory._fields))._replace(memory=second) if window else ()
    state: Any = TrainState(*[everywhere] * len(TrainState._fields))
    return state._replace(env_state=first, discounted_return=first, window=earlier), trajectory
