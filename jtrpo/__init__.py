"""Trust Region Policy Optimization in JAX."""

from jtrpo._cpu_deadlock import protect as _protect

_protect()

from jtrpo.core.advantage import gae  # noqa: E402
from jtrpo.core.batch import Batch  # noqa: E402
from jtrpo.core.beta import Beta  # noqa: E402
from jtrpo.core.chunked import chunked  # noqa: E402
from jtrpo.core.composite import Bernoulli, MultiCategorical, Product  # noqa: E402
from jtrpo.core.conjugate_gradient import CGInfo, conjugate_gradient  # noqa: E402
from jtrpo.core.cost import CostCase, CPOInfo  # noqa: E402
from jtrpo.core.cpo import cpo_update  # noqa: E402
from jtrpo.core.distributions import Categorical, DiagGaussian, Distribution  # noqa: E402
from jtrpo.core.fisher import fisher_vector_product  # noqa: E402
from jtrpo.core.gsde import StateDependentNoise  # noqa: E402
from jtrpo.core.line_search import Evaluation, UpdateStatus, improves_within, line_search  # noqa: E402
from jtrpo.core.local import LocalPolicy, linearize  # noqa: E402
from jtrpo.core.natural_gradient import full_step, natural_gradient  # noqa: E402
from jtrpo.core.natural_policy_gradient import natural_policy_gradient_update  # noqa: E402
from jtrpo.core.objective import likelihood_ratio, mean_kl, surrogate, with_entropy  # noqa: E402
from jtrpo.core.pcpo import pcpo_update  # noqa: E402
from jtrpo.core.squashed import TanhGaussian  # noqa: E402
from jtrpo.core.trpo import TRPOInfo, trpo_update  # noqa: E402
from jtrpo.envs.protocol import Environment, EnvStep  # noqa: E402
from jtrpo.networks.network import Network  # noqa: E402
from jtrpo.tools.export import export_policy  # noqa: E402
from jtrpo.tools.policy import load_policy  # noqa: E402
from jtrpo.training.agent import Agent, make_agent  # noqa: E402
from jtrpo.training.config import TrainConfig  # noqa: E402
from jtrpo.training.host.trainer import HostTrainer, make_host_trainer  # noqa: E402
from jtrpo.training.hyperparams import Hyperparams  # noqa: E402
from jtrpo.training.state import EvaluatedResult, Metrics, TrainResult, TrainState  # noqa: E402
from jtrpo.training.trainer import Trainer, make_train, make_trainer  # noqa: E402
from jtrpo.training.tuned import tuned  # noqa: E402

__version__ = "0.1.0"

__all__ = [
    "Agent",
    "Batch",
    "Bernoulli",
    "Beta",
    "CGInfo",
    "CPOInfo",
    "Categorical",
    "CostCase",
    "DiagGaussian",
    "Distribution",
    "EnvStep",
    "Environment",
    "EvaluatedResult",
    "Evaluation",
    "HostTrainer",
    "Hyperparams",
    "LocalPolicy",
    "Metrics",
    "MultiCategorical",
    "Network",
    "Product",
    "StateDependentNoise",
    "TRPOInfo",
    "TanhGaussian",
    "TrainConfig",
    "TrainResult",
    "TrainState",
    "Trainer",
    "UpdateStatus",
    "chunked",
    "conjugate_gradient",
    "cpo_update",
    "export_policy",
    "fisher_vector_product",
    "full_step",
    "gae",
    "improves_within",
    "likelihood_ratio",
    "line_search",
    "linearize",
    "load_policy",
    "make_agent",
    "make_host_trainer",
    "make_train",
    "make_trainer",
    "mean_kl",
    "natural_gradient",
    "natural_policy_gradient_update",
    "pcpo_update",
    "surrogate",
    "trpo_update",
    "tuned",
    "with_entropy",
]
