"""Constraints on costs: costs are valued as rewards are, and the policy's update keeps an episode's cost within a limit."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from jtrpo.core.batch import Batch, mean_weights, normalize_advantages, sum_over, weighted_sum
from jtrpo.training.cost_weight import weigh
from jtrpo.training.critic import init_critic_optimizer
from jtrpo.training.episodes import EpisodeSummary
from jtrpo.training.normalization import RunningStatistics, init_statistics, standard_deviation, update_statistics
from jtrpo.training.reuse import newest
from jtrpo.training.rollout import Trajectory

if TYPE_CHECKING:
    from jtrpo.training.config import TrainConfig
    from jtrpo.training.learner import Learner
    from jtrpo.training.state import TrainState

METHODS = ("cpo", "pcpo", "lagrangian", "pid_lagrangian")

RECENT = 20.0
"""Episodes before a collection's own that count for an episode's mean length: those of an early policy are forgotten."""


class CostState(NamedTuple):
    """What a training with ``constraint_method`` knows of its ``K`` costs.

    Attributes:
        critic_params: the cost critics' parameters, ``[K, ...]`` each.
        critic_optimizer: Adam's moments, likewise; ``()`` where critics are fitted by Gauss-Newton steps.
        target_statistics: running moments of the cost targets, ``[K]`` each.
        episodes: number of the episodes that ``length`` is a mean of, the last collection's and some before.
        length: mean number of steps of an episode.
        integral: of the relative excess, ``[K]``: of the costs' share in the Lagrangian, or of the margin kept from the limit.
        error: relative excess of an episode's cost in the update before, ``[K]``.
    """

    critic_params: PyTree
    critic_optimizer: PyTree
    target_statistics: RunningStatistics
    episodes: Float[Array, ""]
    length: Float[Array, ""]
    integral: Float[Array, " K"]
    error: Float[Array, " K"]


class CostInfo(NamedTuple):
    """What an update reports of its costs; a tuple of ``K`` numbers each where the environment gives a vector.

    Attributes:
        episode: estimate of an episode's undiscounted cost: mean cost of a step of this collection times a mean length.
        limit: what it may be.
        multiplier: weight of the cost against the reward: the Lagrange multiplier; of ``"cpo"`` and ``"pcpo"`` what the limit
            costs in objective, per unit of a step's cost, by their models; 0 where it does not bind.
        loss: of the cost critic's fit, in units of its targets' spread, squared.
        explained_variance: of the cost critic, before the fit.
        accepted: whether the fit was finite.
    """

    episode: Any
    limit: Any
    multiplier: Any
    loss: Any
    explained_variance: Any
    accepted: Any


class CostEstimate(NamedTuple):
    """What is known of the costs before the policy learns.

    Attributes:
        advantage: cost advantages, ``[B, K]``, in units of cost.
        target: the cost critics' targets, ``[K, B]``.
        explained_variance: of the cost critics, ``[K]``.
        step: mean cost of a step, ``[K]``.
        length: mean number of steps of an episode.
        multiplier: the Lagrange multiplier, ``[K]``.
        aim: cost of an episode that ``"cpo"`` and ``"pcpo"`` aim at, ``[K]``: the limit less a margin.
    """

    advantage: Float[Array, "B K"]
    target: Float[Array, "K B"]
    explained_variance: Float[Array, " K"]
    step: Float[Array, " K"]
    length: Float[Array, ""]
    multiplier: Float[Array, " K"]
    aim: Float[Array, " K"]


@dataclass(frozen=True, eq=False)
class Costs:
    """A cost is learned as a reward is: by a learner of the same settings whose rewards are the costs.

    Attributes:
        method: one of :data:`METHODS`.
        learner: that learner; its critic's targets are centred and scaled.
        max_episode_steps: the environment's limit, which stands for the length of an episode before any has ended.
    """

    method: str
    learner: Learner
    max_episode_steps: int | None

    def init(self, key: PRNGKeyArray, observation: PyTree, cost: Any) -> CostState:
        """What is known before the first update; ``cost`` is of the episodes under way, ``()`` where it is not kept."""
        number = cost.shape[1] if getattr(cost, "ndim", 1) == 2 else 1
        params = jax.vmap(lambda key: self.learner.agent.init_critic(key, observation))(jax.random.split(key, number))
        adam = self.learner.config.critic == "adam"
        nothing = jnp.zeros((number,))
        statistics = jax.vmap(init_statistics)(nothing)
        optimizer = jax.vmap(init_critic_optimizer)(params) if adam else ()
        return CostState(params, optimizer, statistics, jnp.zeros(()), jnp.zeros(()), nothing, nothing)

    def estimate(
        self, state: TrainState, trajectory: Trajectory, acting: TrainState, episodes: EpisodeSummary
    ) -> tuple[TrainState, CostEstimate]:
        """Value the costs of a collection, and find what an episode costs and what a cost weighs."""
        cost = as_vectors(trajectory.cost)

        def one(costs: CostState, cost: Float[Array, "T N"]) -> tuple[Array, Array, Array]:
            seen = trajectory._replace(reward=cost, cost=())
            _, batch, target, explained, _ = self.learner.estimate_advantages(as_rewards(state, costs), seen, acting)
            return batch.advantage, target, explained

        advantage, target, explained = jax.vmap(one, in_axes=(of_each(state.costs), 2))(state.costs, cost)
        step = self.mean_of_newest(cost, trajectory.valid)
        costs = self.measure_episodes(state, episodes)
        length = jnp.where(costs.episodes > 0, costs.length, self.steps_so_far(state))
        weight = weigh(
            self.method,
            costs.integral,
            costs.error,
            step * length,
            limit=state.hyperparams.cost_limit,
            gain=state.hyperparams.multiplier_gain,
            first=state.update == 0,
        )
        costs = costs._replace(integral=weight.integral, error=weight.error)
        return state._replace(costs=costs), CostEstimate(
            advantage.T, target, explained, step, length, weight.multiplier, weight.aim
        )

    def mean_of_newest(self, cost: Float[Array, "T N K"], valid: Bool[Array, "T N"]) -> Float[Array, " K"]:
        """Mean over the steps of the newest collection that count."""
        cost, valid = (newest(x, self.learner.config.reuse, 1) for x in (cost, valid))
        sums = (jnp.sum(jnp.where(valid[..., None], cost, 0.0), axis=(0, 1)), jnp.sum(valid, dtype=float))
        total, number = sum_over(sums, self.learner.axis_name)
        return total / jnp.maximum(number, 1.0)

    def measure_episodes(self, state: TrainState, episodes: EpisodeSummary) -> CostState:
        """An episode's mean length, with the episodes that finished."""
        costs, new = state.costs, episodes.finished.astype(float)
        kept = jnp.minimum(costs.episodes, RECENT)
        total = kept * costs.length + jnp.where(new > 0, new * episodes.length_mean, 0.0)
        number = kept + new
        return costs._replace(episodes=number, length=total / jnp.where(number > 0, number, 1.0))

    def steps_so_far(self, state: TrainState) -> Float[Array, ""]:
        """An episode's length while none has ended: what it is at most, or at least."""
        if self.max_episode_steps is not None:
            return jnp.asarray(self.max_episode_steps, float)
        return (state.update + 1).astype(float) * self.learner.config.num_steps

    def put_into(self, batch: Batch, state: TrainState, estimate: CostEstimate) -> Batch:
        """The batch that the policy learns from: with cost advantages, or with the Lagrangian's."""
        if self.method in ("lagrangian", "pid_lagrangian"):
            return self.penalized(state, batch, estimate)
        return batch._replace(cost_advantage=alone(estimate.advantage))

    def penalized(self, state: TrainState, batch: Batch, estimate: CostEstimate) -> Batch:
        """The Lagrangian's advantages, (A - sum_k multiplier_k A_k) / (1 + sum_k multiplier_k).

        A is normalised over the batch, and the cost advantages A_k are centred and in units of their targets' spread.
        """
        axis = self.learner.axis_name
        weight = mean_weights(batch.weight, batch.advantage.shape[0], axis)
        counted = None if batch.weight is None else batch.weight > 0
        learn = partial(update_statistics, valid=counted, axis_name=axis)
        targets = jax.vmap(learn)(state.costs.target_statistics, estimate.target)  # as the critics' fit will learn them
        cost = estimate.advantage / standard_deviation(targets)[None]
        cost -= sum_over(jax.vmap(weighted_sum, in_axes=(1, None))(cost, weight), axis)[None]
        reward = normalize_advantages(batch.advantage, weight, axis)
        penalty = jnp.sum(estimate.multiplier[None] * cost, axis=1)
        return batch._replace(advantage=(reward - penalty) / (1.0 + jnp.sum(estimate.multiplier)))

    def fit(
        self,
        state: TrainState,
        trajectory: Trajectory,
        estimate: CostEstimate,
        multiplier: Float[Array, ...],
        weight: Float[Array, " B"] | None,
        key: PRNGKeyArray,
    ) -> tuple[TrainState, CostInfo]:
        """Fit the cost critics, and report."""

        def one(costs: CostState, target: Float[Array, " B"], key: PRNGKeyArray) -> tuple[tuple, Array, Array]:
            before = as_rewards(state, costs)
            after, loss, fitted = self.learner.improve_critic(before, trajectory, target, weight, key)
            return (after.critic_params, after.critic_optimizer, after.target_statistics), loss, fitted

        each = (of_each(state.costs), 0, 0)
        keys = jax.random.split(key, estimate.target.shape[0])
        learned, loss, fitted = jax.vmap(one, in_axes=each)(state.costs, estimate.target, keys)
        names = ("critic_params", "critic_optimizer", "target_statistics")
        costs = state.costs._replace(**dict(zip(names, learned, strict=True)))
        episode = estimate.step * estimate.length
        limit = jnp.broadcast_to(state.hyperparams.cost_limit, episode.shape)
        multiplier = jnp.broadcast_to(multiplier, episode.shape)
        info = CostInfo(episode, limit, multiplier, loss, estimate.explained_variance, fitted)
        return state._replace(costs=costs), jax.tree.map(lambda x: x[0] if x.shape == (1,) else tuple(x), info)


def check_constrained(config: TrainConfig) -> None:
    """Raise where a setting does not go with ``constraint_method``.

    Raises:
        ValueError: a memory, vine sampling, shorter episodes, raw advantages with a Lagrangian, or, where the update is not
            TRPO's own, a setting that only that has.
    """
    method = config.constraint_method
    if config.max_episode_steps is not None:
        raise ValueError(
            f"constraint_method={method!r} limits the cost of a whole episode, which max_episode_steps="
            f"{config.max_episode_steps:,} does not let it see; leave that out"
        )
    if config.has_memory or config.sampling == "vine":
        what = "sampling='vine'" if config.sampling == "vine" else "a memory"
        raise ValueError(f"constraint_method={method!r} does not go with {what}: the costs' critics have neither")
    if method in ("lagrangian", "pid_lagrangian") and not config.normalize_advantages:
        raise ValueError(
            f"constraint_method={method!r} weighs costs against normalised advantages; leave normalize_advantages=False out"
        )
    if method in ("cpo", "pcpo"):
        for name, only in (("constraint", "kl"), ("preconditioner", None), ("objective", None)):
            if getattr(config, name) != only:
                raise ValueError(
                    f"constraint_method={method!r} has an update of its own, with {name}={only!r} alone; got "
                    f"{getattr(config, name)!r}: use 'lagrangian', or leave it out"
                )


def check_cost_shape(config: TrainConfig, shape: tuple[int, ...] | None) -> None:
    """Raise where the environment gives no cost, or more of them than the method takes.

    Args:
        config: static settings.
        shape: of a step's cost; ``None``: there is none.

    Raises:
        ValueError: it does.
    """
    if config.constraint_method is None:
        return
    if shape is None:
        raise ValueError(
            f"constraint_method={config.constraint_method!r} needs a cost, and {config.env!r} gives none: return "
            "EnvStep.cost, or name a number of Gymnasium's info with env_cost"
        )
    if config.constraint_method == "cpo" and shape not in ((), (1,)):
        raise ValueError(f"constraint_method='cpo' takes one cost; got {shape[0]}: use 'pcpo' or 'lagrangian'")


def as_rewards(state: TrainState, costs: CostState) -> TrainState:
    """The state of a learner whose rewards are one of the costs; ``costs`` is of that one."""
    numbers = state.hyperparams
    return state._replace(
        critic_params=costs.critic_params,
        critic_optimizer=costs.critic_optimizer,
        target_statistics=costs.target_statistics,
        hyperparams=numbers._replace(gamma=numbers.cost_gamma),
        costs=(),
    )


def of_each(costs: CostState) -> Any:
    """Which parts of a :class:`CostState` belong to one cost, for ``in_axes``."""
    each: Any = CostState(*(0, 0, 0, None, None, 0, 0))  # type: ignore[arg-type]
    return each if jax.tree.leaves(costs.critic_optimizer) else each._replace(critic_optimizer=None)


def alone(x: Float[Array, "... K"]) -> Float[Array, ...]:
    """Without the last axis where there is one cost."""
    return jnp.squeeze(x, -1) if x.shape[-1] == 1 else x


def as_vectors(cost: Float[Array, "T N ..."]) -> Float[Array, "T N K"]:
    """Costs with an axis of their own, which a single one lacks."""
    return cost[..., None] if cost.ndim == 2 else cost
