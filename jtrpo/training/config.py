"""Settings: what is static (shapes, code paths) and what is a number that may be traced."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, reduce
from operator import and_
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jaxtyping import Array, Float, Int

from jtrpo.core.check import Within, check_choice, check_count, check_number, check_static, plain, shown
from jtrpo.envs.actions import stretched
from jtrpo.envs.check import check_space
from jtrpo.envs.gymnasium import HostEnvironment
from jtrpo.envs.protocol import Environment, time_limit
from jtrpo.envs.resolve import can_wait, resolve
from jtrpo.networks.heads import BOX_DISTRIBUTIONS, check_action_space
from jtrpo.networks.recurrent import CELLS
from jtrpo.networks.torso import ACTION_MASK, ACTIVATIONS, check_observation_space
from jtrpo.training.mesh import SEEDS, environment_axes

Number = float | Float[Array, "..."]

Schedule = Callable[[Int[Array, ""]], Float[Array, ""]]
"""From the number of updates done to a value, as optax makes them."""


class _HyperparamFields(NamedTuple):
    max_kl: Number = 0.005
    gamma: Number = 0.99
    gae_lambda: Number = 0.95
    cg_damping: Number = 0.1
    cg_tolerance: Number = 1e-5
    backtrack_factor: Number = 0.8
    entropy_coefficient: Number = 0.0
    critic_learning_rate: Number = 1e-3
    critic_max_change: Number = 0.3


_RANGES: dict[str, dict[str, Any]] = {
    "max_kl": {"above": 0},
    "gamma": {"at_least": 0, "at_most": 1},
    "gae_lambda": {"at_least": 0, "at_most": 1},
    "cg_damping": {"at_least": 0},
    "cg_tolerance": {"at_least": 0},
    "backtrack_factor": {"above": 0, "below": 1},
    "entropy_coefficient": {},
    "critic_learning_rate": {"at_least": 0},
    "critic_max_change": {"above": 0},
}


ANNEALED = ("max_kl", "cg_damping", "entropy_coefficient", "critic_learning_rate", "critic_max_change")
"""Hyper-parameters that may be annealed: those for which less and less makes sense."""


class Hyperparams(_HyperparamFields):
    """Numbers of the algorithm. Each may be traced, or an array to ``vmap`` over.

    Python's numbers become NumPy's, which JAX compiles as it does the arrays of a state: a new value compiles nothing anew. An
    update that meets a traced number out of its range learns nothing, with the status ``OUT_OF_RANGE``.

    Attributes:
        max_kl: trust region delta: bound on the mean KL(old || new) of an update, in nats; above 0.
        gamma: discount per step, in [0, 1].
        gae_lambda: lambda of generalised advantage estimation, in [0, 1].
        cg_damping: added to the Fisher matrix's diagonal; at least 0.
        cg_tolerance: relative residual at which conjugate gradients stop early; at least 0.
        backtrack_factor: ratio of successive line-search candidates, in (0, 1).
        entropy_coefficient: weight of the entropy bonus, per nat, in units of the normalised advantage.
        critic_learning_rate: learning rate of the ``"adam"`` critic; at least 0.
        critic_max_change: trust region of the ``"gauss_newton"`` critic: bound on mean((V_new - V)^2) / (2 mean((V -
            target)^2)); above 0.

    Raises:
        TypeError: a value that is not a number.
        ValueError: a value that is not finite or out of range.

    Examples:
        >>> print(jtrpo.Hyperparams(max_kl=0.01)._replace(gamma=0.9).gamma)
        0.9
        >>> jtrpo.Hyperparams(max_kl=-1.0)
        Traceback (most recent call last):
        ValueError: max_kl must be a finite number above 0; got -1.0
    """

    __slots__ = ()

    def __new__(cls, *args: Any, **kwargs: Any) -> "Hyperparams":  # noqa: D102
        self = super().__new__(cls, *args, **kwargs)
        if self._is_axes():
            return self
        # JAX rebuilds this tuple around tracers, placeholders or whatever a `tree.map` makes, all fields by position; people
        # name what they set. Only numbers that a user types are checked here, the rest in `check`.
        given = kwargs if len(args) == len(cls._fields) else dict(zip(cls._fields, args, strict=False)) | kwargs
        _check_typed(given)
        return super()._make(map(_compiled_alike, self))

    def _replace(self, **kwargs: Any) -> "Hyperparams":
        new = super()._replace(**kwargs)
        if new._is_axes():
            return new
        _check_typed(kwargs)
        return type(self)(*new)

    def _is_axes(self) -> bool:
        """Whether this says along which axes to map over other hyper-parameters, as ``in_axes`` of ``jax.vmap``."""
        return all(value is None or type(value) is int for value in self)

    def __repr__(self) -> str:
        return f"Hyperparams({', '.join(f'{name}={value}' for name, value in self._asdict().items())})"

    def check(self) -> "Hyperparams":
        """Return self after checking that each is one number, and in its range where it is known, device arrays included."""
        self.in_range()
        return self

    def in_range(self) -> Within:
        """Whether all that is traced is in its range, after :meth:`check` of the rest."""
        return reduce(and_, (check_number(name, getattr(self, name), scalar=True, **_RANGES[name]) for name in _RANGES))


def check_hyperparams(hyperparams: Any) -> Hyperparams:
    """Return the numbers of a training after :meth:`Hyperparams.check`.

    Raises:
        TypeError: anything else.
        ValueError: a value out of range, or several.
    """
    if not isinstance(hyperparams, Hyperparams):
        raise TypeError(
            f"hyperparams must be jtrpo.Hyperparams, such as Hyperparams(max_kl=0.01); got {shown(hyperparams)}"
        )
    return hyperparams.check()


def _check_typed(values: dict[str, Any]) -> None:
    for name, value in values.items():
        if name in _RANGES and isinstance(value, bool | int | float | str | np.generic):
            check_number(name, value, **_RANGES[name])


def _compiled_alike(value: Any) -> Any:
    """A number in the one form for which JAX compiles: strongly typed, of the default floating-point type."""
    if isinstance(value, int | float | np.number) and not isinstance(value, bool):
        return np.float64(value)
    if isinstance(value, np.ndarray) and value.dtype.kind in "iuf":
        return value.astype(np.float64)
    if isinstance(value, jax.Array) and not isinstance(value, jax.core.Tracer):
        integer = jnp.issubdtype(value.dtype, np.integer)
        return jax.lax.convert_element_type(value, jnp.zeros((), float).dtype) if integer or value.weak_type else value
    return value


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Static settings of a training run: everything that changes shapes or code paths.

    Attributes:
        env: a gymnax id, a pair (gymnax environment, its parameters), or an object that meets :class:`jtrpo.Environment`. For
            :func:`jtrpo.make_host_trainer`: ``"gymnasium:"`` and an id of Gymnasium, a ``gymnasium.vector.VectorEnv``, or a
            pair of them, to train on and to evaluate on.
        total_timesteps: environment steps to take, over all environments; rounded up to whole updates.
        num_envs: environments stepped side by side.
        num_steps: steps of each environment per update; the batch is ``num_envs * num_steps``.
        reuse: collections that each update learns from: the newest and the ``reuse - 1`` before it, with truncated importance
            weights and V-trace. More learning from the same steps, at ``reuse`` times the cost of an update.
        sampling: ``"single_path"``, or ``"vine"``: the policy learns from branches of the trajectories instead of from the
            trajectories, see :mod:`jtrpo.training.vine`. Their steps count in the budget.
        vine_states: states of each collection from which ``"vine"`` branches.
        vine_branches: actions that it tries in each of them: samples of the policy, or every action of a Discrete space of no
            more than so many and without a mask.
        vine_length: steps of each branch; the critic's value follows.
        vine_choice: ``"uniform"`` over the collection, or ``"value_error"``: more often where the critic was wrong.
        hidden_sizes: width of each hidden layer of the policy and of the critic.
        activation: ``"tanh"``, ``"relu"``, ``"elu"``, ``"gelu"`` or ``"silu"``.
        memory: recurrent layer after the hidden ones, of the last one's width: ``None``, ``"gru"`` or ``"lstm"``.
        shared_torso: the critic reads the policy's features (and does not shape them) instead of having its own.
        box_distribution: policy over a Box: ``"gaussian"``, ``"state_dependent_gaussian"`` (log_std depends on the state),
            ``"tanh_gaussian"`` (squashed into the bounds) or ``"gsde"`` (state-dependent exploration).
        initial_log_std: of the Gaussian at the start; bounded actions are in units of half their range.
        gsde_interval: steps for which ``"gsde"`` holds its noise matrix.
        normalize_observations: feed the networks (observation - mean) / std by running statistics (images excepted), which move
            the policy that acts by no more than about a tenth of ``max_kl`` an update.
        scale_rewards: divide rewards by the running standard deviation of the discounted return, this collection's included.
        normalize_advantages: centre and scale the advantages of each batch.
        normalize_values: fit the critic to targets centred and scaled by their running statistics.
        cg_iterations: most Fisher-vector products per update.
        max_backtracks: most line-search candidates per update.
        fisher_fraction: share of the batch on which Fisher products are taken, in (0, 1].
        critic_fraction: share of the batch on which the ``"gauss_newton"`` critic's products are taken, in (0, 1].
        constraint: what ``max_kl`` bounds: ``"kl"``, the mean over states, ``"kl_max"``, the largest, or ``"none"``: natural
            policy gradient steps without a line search.
        preconditioner: of the conjugate gradients: ``None`` or ``"diagonal"``, the Fisher matrix's estimated diagonal.
        anneal: numbers that fall linearly over the run, towards zero: any of ``"max_kl"``, ``"cg_damping"``,
            ``"entropy_coefficient"``, ``"critic_learning_rate"`` and ``"critic_max_change"``.
        schedules: for any of the :class:`Hyperparams`, by name, a function from the number of updates done to its value, such
            as ``optax.linear_schedule(0.01, 0.0, 100)``; it takes the place of the number.
        critic: ``"adam"``, or ``"gauss_newton"``: second-order steps in a trust region on the values.
        critic_epochs: passes over the batch in each critic fit: of Adam, or Gauss-Newton steps (one or two are plenty).
        critic_minibatches: Adam steps per pass; must divide the batch, or with a memory the environments.
        mesh: devices to train on, a ``jax.sharding.Mesh``: the environments are divided among them, the update is that of the
            whole batch. An axis named ``"seeds"`` is left to seeds, see :mod:`jtrpo.training.mesh`. ``None``: one device.

    Raises:
        TypeError: a value of the wrong type.
        ValueError: a value out of range, or an unknown environment id.

    Examples:
        >>> config = jtrpo.TrainConfig("CartPole-v1", total_timesteps=100_000, num_envs=64, num_steps=32)
        >>> config.batch_size, config.num_updates, config.actual_timesteps
        (2048, 49, 100352)
    """

    env: Any
    total_timesteps: int = 100_000
    num_envs: int = 64
    num_steps: int = 32
    reuse: int = 1
    sampling: str = "single_path"
    vine_states: int = 64
    vine_branches: int = 8
    vine_length: int = 16
    vine_choice: str = "uniform"
    hidden_sizes: tuple[int, ...] = (64, 64)
    activation: str = "tanh"
    memory: str | None = None
    shared_torso: bool = False
    box_distribution: str = "gaussian"
    initial_log_std: float = 0.0
    gsde_interval: int = 4
    normalize_observations: bool = True
    scale_rewards: bool = True
    normalize_advantages: bool = True
    normalize_values: bool = False
    cg_iterations: int = 10
    max_backtracks: int = 10
    fisher_fraction: float = 1.0
    critic_fraction: float = 1.0
    constraint: str = "kl"
    preconditioner: str | None = None
    anneal: tuple[str, ...] = ()
    schedules: Mapping[str, Schedule] = dataclasses.field(default_factory=dict, hash=False, metadata={"cli": False})
    critic: str = "adam"
    critic_epochs: int = 10
    critic_minibatches: int = 4
    mesh: jax.sharding.Mesh | None = dataclasses.field(default=None, metadata={"cli": False})

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, plain(getattr(self, field.name)))
        for name in (
            "total_timesteps", "num_envs", "num_steps", "reuse", "cg_iterations", "max_backtracks", "critic_epochs",
            "critic_minibatches", "gsde_interval", "vine_states", "vine_length",
        ):  # fmt: skip
            check_count(name, getattr(self, name), at_least=1)
        check_count("vine_branches", self.vine_branches, at_least=2)
        for name in (
            "shared_torso", "normalize_observations", "scale_rewards", "normalize_advantages", "normalize_values"
        ):  # fmt: skip
            check_static(name, getattr(self, name), bool)
        if not isinstance(self.hidden_sizes, tuple):
            raise TypeError(f"hidden_sizes must be a tuple of widths such as (64, 64); got {self.hidden_sizes!r}")
        for size in self.hidden_sizes:
            check_count("hidden_sizes", size, at_least=1)
        check_choice("activation", self.activation, ACTIVATIONS)
        check_choice("memory", self.memory, (None, *CELLS))
        if (self.memory is not None or self.shared_torso) and not self.hidden_sizes:
            raise ValueError("hidden_sizes must name at least one layer for a memory or a shared torso; got ()")
        check_choice("box_distribution", self.box_distribution, BOX_DISTRIBUTIONS)
        check_choice("constraint", self.constraint, ("kl", "kl_max", "none"))
        check_choice("preconditioner", self.preconditioner, (None, "diagonal"))
        check_choice("critic", self.critic, ("adam", "gauss_newton"))
        check_choice("sampling", self.sampling, ("single_path", "vine"))
        check_choice("vine_choice", self.vine_choice, ("uniform", "value_error"))
        self._check_numbers_that_change()
        for name, bounds in (
            ("initial_log_std", {}),
            ("fisher_fraction", {"above": 0.0, "at_most": 1.0}),
            ("critic_fraction", {"above": 0.0, "at_most": 1.0}),
        ):
            check_number(name, getattr(self, name), scalar=True, **bounds)
            object.__setattr__(self, name, float(getattr(self, name)))
        if self.box_distribution == "gsde" and not self.hidden_sizes:
            raise ValueError("hidden_sizes must name at least one layer for box_distribution='gsde'; got ()")
        if self.critic == "adam" and self.memory is not None and self.num_envs % self.critic_minibatches:
            raise ValueError(
                f"critic_minibatches must divide num_envs = {self.num_envs} with memory={self.memory!r}, since sequences stay "
                f"whole; got {self.critic_minibatches}"
            )
        if self.critic == "adam" and self.trunk_size % self.critic_minibatches:
            raise ValueError(
                f"critic_minibatches must divide the batch num_envs * num_steps = {self.num_envs} * {self.num_steps} = "
                f"{self.trunk_size}; got {self.critic_minibatches}"
            )
        if self.mesh is not None:
            self._check_mesh(self.mesh)
        # An environment of gymnax starts JAX, before which jax.distributed.initialize must come: where it cannot fail, it waits.
        if not can_wait(self.env) or self.squash or self.sampling == "vine":
            self._check_environment()

    def _check_environment(self) -> None:
        check_space(self.environment.observation_space, "observation_space")
        check_space(self.environment.action_space, "action_space")
        check_observation_space(self.environment.observation_space)
        check_action_space(self.environment.action_space, self.environment.observation_space)
        for box in _boxes(self.environment.action_space):
            if self.squash and not stretched(box).all():
                raise ValueError(
                    f"box_distribution='tanh_gaussian' squashes actions into bounds, which the action space {box} lacks; give "
                    "'gaussian' or 'gsde'"
                )
        given = self.environment.num_envs if isinstance(self.environment, HostEnvironment) else None
        if given is not None and given != self.num_envs:
            raise ValueError(f"num_envs must be that of the vector environment, {given}; got {self.num_envs}")
        if isinstance(self.environment, HostEnvironment) and self.mesh is not None:
            raise ValueError(
                f"{self.environment} is stepped in Python, which no mesh can share; use an environment in JAX"
            )
        if self.sampling == "vine":
            self._check_vine()

    def _check_numbers_that_change(self) -> None:
        if not isinstance(self.anneal, tuple):
            raise TypeError(f"anneal must be a tuple of names such as ('max_kl',); got {self.anneal!r}")
        for name in self.anneal:
            check_choice("anneal", name, ANNEALED)
        if not isinstance(self.schedules, Mapping):
            raise TypeError(f"schedules must map names of hyper-parameters to functions; got {self.schedules!r}")
        for name, schedule in self.schedules.items():
            check_choice("schedules", name, Hyperparams._fields)
            if not callable(schedule):
                raise TypeError(f"schedules[{name!r}] must be a function of the update's number; got {schedule!r}")
            for update in (0, self.num_updates - 1):  # the ends; what lies between is the schedule's own affair
                check_number(
                    f"schedules[{name!r}]({update})",
                    schedule(np.int32(update)),  # type: ignore[arg-type]  # NumPy's, which does not start JAX
                    **_RANGES[name],
                )
        changing = (*self.anneal, *self.schedules)
        for name in changing:
            if changing.count(name) > 1:
                raise ValueError(f"{name} is named more than once among anneal and schedules; choose one")

    def _check_mesh(self, mesh: jax.sharding.Mesh) -> None:
        if not isinstance(mesh, jax.sharding.Mesh):
            raise TypeError(f"mesh must be a jax.sharding.Mesh, such as jax.make_mesh((2,), ('envs',)); got {mesh!r}")
        axes = environment_axes(mesh)
        if mesh.size == 0 or not axes:
            raise ValueError(
                f"mesh needs devices along at least one axis beside {SEEDS!r}; got {dict(mesh.shape)}: an axis 'envs', say"
            )
        if self.sampling == "vine":
            raise ValueError(
                "sampling='vine' draws its states from the whole collection, on one device; leave mesh out"
            )
        devices = math.prod(mesh.shape[axis] for axis in axes)
        if self.num_envs % devices:
            below = self.num_envs // devices * devices
            near = f"{below} or {below + devices}" if below else f"{devices}"
            raise ValueError(
                f"num_envs must be divisible by the mesh's {devices} devices along {', '.join(axes)}; got {self.num_envs}: "
                f"{near} would do"
            )
        local = self.num_envs // devices
        pieces = local if self.memory is not None else local * self.num_steps
        if self.critic == "adam" and pieces % self.critic_minibatches:
            what = "sequences" if self.memory is not None else "samples"
            raise ValueError(
                f"critic_minibatches must divide each device's share of the batch, {pieces} {what} on each of {devices} devices; "
                f"got {self.critic_minibatches}"
            )

    def _check_vine(self) -> None:
        if isinstance(self.environment, HostEnvironment):
            raise ValueError(
                f"sampling='vine' goes back to states, which {self.environment} cannot be set to; use an environment in JAX"
            )
        if self.reuse != 1 or self.preconditioner is not None:
            raise ValueError(
                "sampling='vine' learns from the newest branches only and without a preconditioner: it needs reuse=1 and "
                f"preconditioner=None; got reuse={self.reuse} and preconditioner={self.preconditioner!r}"
            )
        trunk = f"num_envs * num_steps = {self.num_envs} * {self.num_steps} = {self.trunk_size:,}"
        if self.vine_states > self.trunk_size:
            raise ValueError(
                f"vine_states must be at most the states of a collection, {trunk}; got {self.vine_states:,}: lower it, or "
                "collect more"
            )
        limit = time_limit(getattr(self.environment, "max_episode_steps", None))
        if limit is not None and self.vine_length > limit:
            raise ValueError(
                f"vine_length must be at most the environment's limit of {limit:,} steps an episode; got {self.vine_length:,}"
            )
        if self.batch_size > self.total_timesteps:
            branches = f"{self.vine_states:,} * {self.branches} * {self.vine_length:,} = {self.branch_steps:,}"
            raise ValueError(
                f"one update with sampling='vine' takes {trunk} steps and vine_states * branches * vine_length = {branches} "
                f"more, {self.batch_size:,} in all, and total_timesteps is {self.total_timesteps:,}; lower one of the factors or "
                "raise total_timesteps"
            )

    def __getstate__(self) -> dict[str, Any]:
        """For ``pickle`` and ``copy``: the settings alone, since what ``env`` stands for may hold functions; it is found anew."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @cached_property
    def environment(self) -> Environment | HostEnvironment:
        """What ``env`` stands for."""
        return resolve(self.env)

    @property
    def squash(self) -> bool:
        """Whether a policy's actions over a Box are to be squashed by tanh before they are stretched to its bounds."""
        return self.box_distribution == "tanh_gaussian"

    @property
    def trunk_size(self) -> int:
        """Steps of one collection, ``num_envs * num_steps``."""
        return self.num_envs * self.num_steps

    @property
    def tries_all_actions(self) -> bool:
        """Whether ``"vine"`` branches with every action of the space once."""
        action, observation = self.environment.action_space, self.environment.observation_space
        masked = isinstance(observation, spaces.Dict) and ACTION_MASK in observation.spaces
        return isinstance(action, spaces.Discrete) and not masked and int(action.n) <= self.vine_branches

    @property
    def branches(self) -> int:
        """Actions that ``"vine"`` tries in each state."""
        space = self.environment.action_space
        return int(space.n) if isinstance(space, spaces.Discrete) and self.tries_all_actions else self.vine_branches

    @property
    def branch_steps(self) -> int:
        """Environment steps that the branches of one update take; none without ``"vine"``."""
        return self.vine_states * self.branches * self.vine_length if self.sampling == "vine" else 0

    @property
    def batch_size(self) -> int:
        """Environment steps per update, the branches' included."""
        return self.trunk_size + self.branch_steps

    @property
    def num_updates(self) -> int:
        """Updates that cover ``total_timesteps``."""
        return -(-self.total_timesteps // self.batch_size)

    @property
    def actual_timesteps(self) -> int:
        """Environment steps really taken: ``total_timesteps`` rounded up to whole updates."""
        return self.num_updates * self.batch_size


def _boxes(space: spaces.Space) -> Iterator[spaces.Box]:
    if isinstance(space, spaces.Dict | spaces.Tuple):
        for child in space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces:
            yield from _boxes(child)
    elif isinstance(space, spaces.Box):
        yield space


def check_config(config: Any) -> None:
    """Raise ``TypeError`` unless ``config`` is a :class:`TrainConfig`."""
    if not isinstance(config, TrainConfig):
        raise TypeError(
            f"config must be a jtrpo.TrainConfig, such as TrainConfig('CartPole-v1'); got {shown(config)} (jtrpo.tuned returns a "
            "pair, config and hyperparams)"
        )


def as_arrays(hyperparams: Hyperparams) -> Hyperparams:
    """Hyper-parameters as strongly typed floating-point arrays, so that a state has the same types before and after a step."""
    return jax.tree.map(lambda x: jax.numpy.asarray(x, float), hyperparams)
