"""Protection from a deadlock of old CPU runtimes.

jaxlib before 0.11 can hang forever (0 % CPU) on a CPU with few cores in large programs such as a vmapped training with an
evaluation at its end. Its concurrency-optimised scheduler is what hangs; without it such programs run at the same speed.
The option is read when JAX first computes, so importing jtrpo before that is enough, whoever writes the jit.
"""

import os
import warnings

import jaxlib
from jax._src import xla_bridge

_OPTION = "--xla_cpu_enable_concurrency_optimized_scheduler"


def protect() -> None:
    """Switch the scheduler off where it can hang, unless the user has set the option either way."""
    affected = tuple(int(part) for part in jaxlib.__version__.split(".")[:2]) < (0, 11)
    flags = os.environ.get("XLA_FLAGS", "")
    if not affected or _OPTION in flags:
        return
    if xla_bridge.backends_are_initialized():
        warnings.warn(
            f"jtrpo was imported after JAX's first computation, too late to set {_OPTION}=false: with jaxlib "
            f"{jaxlib.__version__} a vmapped training can hang on a CPU. Import jtrpo first, set XLA_FLAGS, or upgrade jaxlib.",
            stacklevel=3,
        )
        return
    os.environ["XLA_FLAGS"] = f"{flags} {_OPTION}=false".strip()
