"""Static settings of a training: whatever changes shapes or code paths."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import jax
from gymnasium import spaces

from jtrpo.core.advantage import gae
from jtrpo.core.batch import Batch
from jtrpo.core.check import check_choice, check_count, check_number, check_static, shown, to_python
from jtrpo.core.objective import Objective
from jtrpo.envs.gymnasium import HostEnvironment
from jtrpo.envs.limited import Limited
from jtrpo.envs.metrics import check_metrics
from jtrpo.envs.protocol import Environment, time_limit
from jtrpo.envs.reset_pool import check_reset_pool
from jtrpo.envs.resolve import can_wait, resolve
from jtrpo.networks.heads import BOX_DISTRIBUTIONS
from jtrpo.networks.network import Network
from jtrpo.networks.recurrent import CELLS
from jtrpo.networks.torso import ACTION_MASK, ACTIVATIONS
from jtrpo.training.constrained import METHODS, check_constrained
from jtrpo.training.critic import check_minibatches
from jtrpo.training.custom import check_own_functions
from jtrpo.training.host.check import check_host
from jtrpo.training.mesh import check_mesh
from jtrpo.training.schedule import Schedule, check_schedules
from jtrpo.training.spaces import check_hidden_sizes, check_parts, check_spaces
from jtrpo.training.vine import check_vine

CHOICES: dict[str, tuple[str | None, ...]] = {
    "activation": tuple(ACTIVATIONS),
    "memory": (None, *CELLS),
    "box_distribution": BOX_DISTRIBUTIONS,
    "constraint": ("kl", "kl_max", "none"),
    "preconditioner": (None, "diagonal"),
    "critic": ("adam", "gauss_newton"),
    "sampling": ("single_path", "vine"),
    "vine_choice": ("uniform", "value_error"),
    "constraint_method": (None, *METHODS),
}
"""Settings that take one of a few names."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Static settings of a training run: everything that changes shapes or code paths.

    The headings are those of ``jtrpo train --help``, which takes them from here.

    Attributes: Environment and budget
        env: a gymnax id, a pair (gymnax environment, its parameters, or a function ``key -> parameters`` that draws new ones
            for each episode), an id of a suite that has an adapter, such as ``"jumanji:Snake-v1"`` (``jtrpo envs`` lists
            them), or an object that meets :class:`jtrpo.Environment`. For :func:`jtrpo.make_host_trainer`: ``"gymnasium:"``,
            ``"envpool:"`` or ``"atari:"`` and an id of theirs, a ``gymnasium.vector.VectorEnv``, or a pair of them, to train on
            and to evaluate on.
        total_timesteps: environment steps to take, over all environments; rounded up to whole updates.
        num_envs: environments stepped side by side, on all devices and in all processes together.
        num_steps: steps of each environment per update; the batch is ``num_envs * num_steps``.
        reset_pool: fresh starts, made for each collection, from which the episodes that begin in it draw at random; 0: each has
            one of its own. For environments whose reset is expensive, such as Brax's and Craftax's.
        max_episode_steps: cut the training's episodes after so many steps, as by a time limit, and begin new ones: a policy that
            has learned to go on for long otherwise meets few starts, and forgets the rare ones. Evaluation plays whole episodes.
            ``None``: the environment's own limit.
        env_metrics: names of numbers of the environment to report in ``Metrics.episode.metrics``: of the ``info`` of gymnax and
            Gymnasium, of the ``metrics`` of Brax. Without them an environment of your own reports all of its
            ``EnvStep.metrics``, and others none.
        env_cost: name of the cost in Gymnasium's ``info``. An environment in JAX gives it in ``EnvStep.cost``.

    Attributes: Network
        hidden_sizes: width of each hidden layer of the policy and of the critic.
        activation: ``"tanh"``, ``"relu"``, ``"elu"``, ``"gelu"`` or ``"silu"``.
        flatten_images: images go to the hidden layers pixel by pixel instead of through convolutions: many times as fast on a
            CPU, and enough for pictures as small as MinAtar's.
        memory: recurrent layer after the hidden ones, of the last one's width: ``None``, ``"gru"`` or ``"lstm"``. Beside a
            network of your own it is that of the built-in one.
        shared_torso: the critic reads the policy's features (and does not shape them) instead of having its own.
        policy_network: a policy of your own, a :class:`jtrpo.Network`, in place of the built-in one. Over a Box it gives a
            distribution of the kind that ``box_distribution`` names, in the same units.
        critic_network: a critic of your own, likewise.
        policy_observation: names of the parts of a dictionary observation that the policy sees; ``None``: those that the
            environment says (:class:`jtrpo.Environment`), or all.
        critic_observation: names of the parts that the critic sees; ``None``: all.
        chunk_size: samples that the networks see at a time where they learn, see :func:`jtrpo.chunked`: less memory for large
            networks and batches, at a forward pass more for each derivative; ``None``: the whole batch.

    Attributes: Policy over a Box
        box_distribution: policy over a Box: ``"gaussian"``, ``"state_dependent_gaussian"`` (log_std depends on the state),
            ``"tanh_gaussian"`` (squashed into the bounds), ``"beta"`` (within the bounds, both parameters depend on the state) or
            ``"gsde"`` (state-dependent exploration).
        initial_log_std: log standard deviation at the start, of ``"beta"`` at most -0.74; bounded actions are in units of half
            their range.
        gsde_interval: steps for which ``"gsde"`` holds its noise matrix.

    Attributes: Sampling
        sampling: ``"single_path"``, or ``"vine"``: the policy learns from branches of the trajectories instead of from the
            trajectories, see :mod:`jtrpo.training.vine`. Their steps count in the budget.
        vine_states: states of each collection from which ``"vine"`` branches.
        vine_branches: actions that ``"vine"`` tries in each state: samples of the policy, or every action of a Discrete space
            without a mask that has no more than so many.
        vine_length: steps of each branch; the critic's value follows.
        vine_choice: ``"uniform"`` over the collection, or ``"value_error"``: more often where the critic was wrong.
        reuse: collections that each update learns from: the newest and the ``reuse - 1`` before it, with truncated importance
            weights and V-trace. More learning from the same steps, at ``reuse`` times the cost of an update.

    Attributes: Advantages and scales
        normalize_observations: feed the networks (observation - mean) / std by running statistics (images excepted), which move
            the policy that acts by no more than about a tenth of ``max_kl`` an update.
        scale_rewards: divide rewards by the running standard deviation of the discounted return, this collection's included.
        normalize_values: fit the critic to targets centred and scaled by their running statistics.
        advantage_estimator: a function in place of :func:`jtrpo.gae`, with its arguments and results. With ``reuse`` above 1 it
            also gets ``ratio=``, as ``gae`` does.
        normalize_advantages: centre and scale the advantages of each batch.

    Attributes: Policy update
        objective: a function ``(distribution, batch) -> [B]`` whose mean the policy raises, in place of
            :func:`jtrpo.likelihood_ratio`; ``None``: that, or that of ``sampling``.
        on_batch: a function ``(batch, state) -> batch`` of the :class:`jtrpo.Batch` that the policy is about to learn from and
            of the :class:`jtrpo.TrainState`; on a mesh, of each device's share. ``None``: none.
        constraint: what ``max_kl`` bounds: ``"kl"``, the mean over states, ``"kl_max"``, the largest, or ``"none"``: natural
            policy gradient steps without a line search.
        cg_iterations: most Fisher-vector products per update, and most products per step of the ``"gauss_newton"`` critic.
        max_backtracks: most line-search candidates per update.
        fisher_fraction: share of the batch on which Fisher products are taken, in (0, 1].
        preconditioner: preconditioner of the conjugate gradients: ``None`` or ``"diagonal"``, the Fisher matrix's estimated
            diagonal.

    Attributes: Critic
        critic: ``"adam"``, or ``"gauss_newton"``: second-order steps in a trust region on the values.
        critic_epochs: passes over the batch in each critic fit: of Adam, or Gauss-Newton steps; ``None``: 10 of Adam, 2 steps.
        critic_minibatches: Adam steps per pass; must divide the batch, or with a memory the environments.
        critic_fraction: share of the batch on which the ``"gauss_newton"`` critic's products are taken, in (0, 1].

    Attributes: Costs
        constraint_method: how the cost of an episode is kept within ``cost_limit``: ``"cpo"``, ``"pcpo"`` (constrained policy
            optimisation, and by projection), ``"lagrangian"`` or ``"pid_lagrangian"`` (a multiplier's weight on the cost);
            ``None``: costs are recorded and not learned from.

    Attributes: Schedule
        anneal: numbers that fall linearly over the run, towards zero: any of ``"max_kl"``, ``"cg_damping"``,
            ``"entropy_coefficient"``, ``"critic_learning_rate"`` and ``"critic_max_change"``.
        schedules: for any of the :class:`Hyperparams`, by name, a function from the number of updates done to its value, such
            as ``optax.linear_schedule(0.01, 0.0, 100)``; it takes the place of the number.

    Attributes: Devices
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
    reset_pool: int = 0
    max_episode_steps: int | None = None
    env_metrics: tuple[str, ...] = ()
    env_cost: str | None = None

    hidden_sizes: tuple[int, ...] = (64, 64)
    activation: str = "tanh"
    flatten_images: bool = False
    memory: str | None = None
    shared_torso: bool = False
    policy_network: Network | None = dataclasses.field(default=None, metadata={"cli": False})
    critic_network: Network | None = dataclasses.field(default=None, metadata={"cli": False})
    policy_observation: tuple[str, ...] | None = None
    critic_observation: tuple[str, ...] | None = None
    chunk_size: int | None = None

    box_distribution: str = "gaussian"
    initial_log_std: float = 0.0
    gsde_interval: int = 4

    sampling: str = "single_path"
    vine_states: int = 64
    vine_branches: int = 8
    vine_length: int = 16
    vine_choice: str = "uniform"
    reuse: int = 1

    normalize_observations: bool = True
    scale_rewards: bool = True
    normalize_values: bool = False
    advantage_estimator: Callable[..., Any] = dataclasses.field(default=gae, metadata={"cli": False})
    normalize_advantages: bool = True

    objective: Objective | None = dataclasses.field(default=None, metadata={"cli": False})
    on_batch: Callable[[Batch, Any], Batch] | None = dataclasses.field(default=None, metadata={"cli": False})
    constraint: str = "kl"
    cg_iterations: int = 10
    max_backtracks: int = 10
    fisher_fraction: float = 0.25
    preconditioner: str | None = None

    critic: str = "adam"
    critic_epochs: int | None = None
    critic_minibatches: int = 4
    critic_fraction: float = 0.25

    constraint_method: str | None = None

    anneal: tuple[str, ...] = ()
    schedules: Mapping[str, Schedule] = dataclasses.field(default_factory=dict, hash=False, metadata={"cli": False})

    mesh: jax.sharding.Mesh | None = dataclasses.field(default=None, metadata={"cli": False})

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, to_python(getattr(self, field.name)))
        for name in (
            "total_timesteps", "num_envs", "num_steps", "reuse", "cg_iterations", "max_backtracks", "critic_minibatches",
            "gsde_interval", "vine_states", "vine_length",
        ):  # fmt: skip
            check_count(name, getattr(self, name), at_least=1)
        check_count("vine_branches", self.vine_branches, at_least=2)
        for name in ("max_episode_steps", "chunk_size", "critic_epochs"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name), at_least=1)
        for name in (
            "flatten_images", "shared_torso", "normalize_observations", "scale_rewards", "normalize_advantages",
            "normalize_values",
        ):  # fmt: skip
            check_static(name, getattr(self, name), bool)
        for name, choices in CHOICES.items():
            check_choice(name, getattr(self, name), choices)
        for name, bounds in (
            ("initial_log_std", {}),
            ("fisher_fraction", {"above": 0.0, "at_most": 1.0}),
            ("critic_fraction", {"above": 0.0, "at_most": 1.0}),
        ):
            check_number(name, getattr(self, name), scalar=True, **bounds)
            object.__setattr__(self, name, float(getattr(self, name)))
        check_metrics(self.env_metrics, self.env_cost)
        check_count("reset_pool", self.reset_pool, at_least=0)
        if self.reset_pool:
            check_reset_pool(self.environment)
        check_hidden_sizes(self.hidden_sizes, self.memory, self.shared_torso, self.box_distribution)
        check_own_functions(self)
        check_schedules(self.anneal, self.schedules, self.num_updates)
        devices = check_mesh(self.mesh, self.num_envs, self.sampling)
        if self.critic == "adam":
            check_minibatches(self.critic_minibatches, self.num_envs, self.num_steps, self.has_memory, devices)
        # Making an environment of gymnax starts JAX, and jax.distributed.initialize must come before: one that cannot fail waits.
        parts = self.policy_observation is not None or self.critic_observation is not None
        if not can_wait(self.env) or self.squash or self.sampling == "vine" or parts:
            check_spaces(self.environment.observation_space, self.environment.action_space, self.squash)
            seen = (self.seen_by_policy, self.critic_observation)
            check_parts(self.environment.observation_space, *seen, self.shared_torso)
            check_host(self.environment, self.num_envs, self.mesh, self.sampling, self.max_episode_steps)
        if self.sampling == "vine":
            check_vine(self)
        if self.constraint_method is not None:
            check_constrained(self)

    def __getstate__(self) -> dict[str, Any]:
        """For ``pickle`` and ``copy``: the settings alone, since what ``env`` stands for may hold functions; it is found anew."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @cached_property
    def environment(self) -> Environment | HostEnvironment:
        """What ``env`` stands for."""
        return resolve(self.env)

    @cached_property
    def training_environment(self) -> Any:
        """What is learned in: ``environment``, in JAX with ``max_episode_steps`` where that is less than its own limit."""
        limit = self.time_limit
        if limit is None or limit != self.max_episode_steps or isinstance(self.environment, HostEnvironment):
            return self.environment
        return Limited(self.environment, limit)

    @cached_property
    def time_limit(self) -> int | None:
        """Most steps of an episode of training: ``max_episode_steps``, or the environment's own limit where that is less."""
        limits = (self.max_episode_steps, time_limit(getattr(self.environment, "max_episode_steps", None)))
        return min((limit for limit in limits if limit is not None), default=None)

    @property
    def seen_by_policy(self) -> tuple[str, ...] | None:
        """``policy_observation``, or what it stands for."""
        own = getattr(self.environment, "policy_observation", None)
        return own if self.policy_observation is None else self.policy_observation

    @property
    def squash(self) -> bool:
        """Whether a policy's actions over a Box are to be squashed by tanh before they are stretched to its bounds."""
        return self.box_distribution in ("tanh_gaussian", "beta")

    @property
    def noise_interval(self) -> int:
        """Steps for which a policy holds the key that samples its actions; more than one only with ``"gsde"``."""
        return self.gsde_interval if self.box_distribution == "gsde" else 1

    @property
    def has_memory(self) -> bool:
        """Whether the policy or the critic carries something from step to step."""
        own = [self.policy_network, self.critic_network]
        built_in = self.memory is not None and None in own
        return built_in or any(each is not None and each.empty_memory is not None for each in own)

    @property
    def fit_epochs(self) -> int:
        """``critic_epochs``, or what it stands for."""
        return self.critic_epochs or (10 if self.critic == "adam" else 2)

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


def check_config(config: Any) -> None:
    """Raise ``TypeError`` unless ``config`` is a :class:`TrainConfig`."""
    if not isinstance(config, TrainConfig):
        raise TypeError(
            f"config must be a jtrpo.TrainConfig, such as TrainConfig('CartPole-v1'); got {shown(config)} (jtrpo.tuned returns a "
            "pair, config and hyperparams)"
        )
