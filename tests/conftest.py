import gc
import os
import shutil
import tempfile
from pathlib import Path

# Workers and the processes that tests start compile each program once between them, but the small ones, which take no longer
# to compile than to look for; none of it reaches the user's home.
OWNS_PROGRAMS = "JTRPO_TEST_PROGRAMS" not in os.environ
PROGRAMS = os.environ.setdefault("JTRPO_TEST_PROGRAMS", tempfile.mkdtemp() if OWNS_PROGRAMS else "")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", PROGRAMS)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
# Most of the tests' time is compilation of programs that run once. Without LLVM's optimisation, in one piece, without the
# emitters that send each of hundreds of kernels through a compiler of its own, and without the passes that look for what is
# constant in a loop, it takes a fifth of the processor time.
QUICK_COMPILATION = (
    "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1 "
    "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters "
    "--xla_cpu_opt_preset=CPU_OPT_PRESET_FAST_COMPILE "
    "--xla_disable_hlo_passes=simplify-while-loops,while-loop-invariant-code-motion"
)
os.environ.setdefault("XLA_FLAGS", QUICK_COMPILATION)

import hypothesis  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402

import jtrpo  # noqa: E402, F401  # before JAX's first computation
from jtrpo.tools import run as run_module  # noqa: E402

# What is imported stays, and traces leave little behind: the collector need not look through it all at every turn.
gc.freeze()
gc.set_threshold(50_000)

jax.config.update("jax_numpy_rank_promotion", "raise")
hypothesis.settings.register_profile("jtrpo", deadline=None, derandomize=True, database=None, max_examples=40)
hypothesis.settings.load_profile("jtrpo")


# The files that take longest come first, so that no worker is left alone with one of them.
LONGEST = (
    "test_process.py",
    "tools/test_distributed.py",
    "test_notebooks.py",
    "faults/test_kills.py",
    "training/test_mesh.py",
    "training/test_trainer.py",
    "inputs/test_calls.py",
    "training/test_host.py",
    "inputs/test_folder.py",
    "core/test_trpo.py",
    "training/test_memory.py",
    "training/test_acting_kl.py",
    "training/test_vine.py",
    "networks/test_spaces.py",
    "inputs/test_spaces_fuzz.py",
)


@pytest.hookimpl(tryfirst=True)  # before -m looks at the marks
def pytest_collection_modifyitems(config, items):
    for item in items:
        if "long" in item.keywords:
            item.add_marker("slow")
    if not config.getoption("--long"):
        config.hook.pytest_deselected(items=[item for item in items if "long" in item.keywords])
        items[:] = [item for item in items if "long" not in item.keywords]
    place = {Path(__file__).parent / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(LONGEST)))


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="also the tests marked long, and more kills, flips and draws")


def pytest_unconfigure():
    if OWNS_PROGRAMS:
        shutil.rmtree(PROGRAMS, ignore_errors=True)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session", autouse=True)
def _programs_are_shared():
    """What a run compiles is kept for the next run of the same settings: to trace it again takes longer than these runs."""
    compile_, kept = run_module._compile, {}

    def once(config, trainer, key, hyperparams, *, donate):
        numbers = tuple(map(jax.typeof, hyperparams))
        settings = (config, numbers, donate, run_module.EVALUATION_EPISODES, jax.config.jax_enable_x64)
        if settings not in kept:
            kept[settings] = compile_(config, trainer, key, hyperparams, donate=donate)
        return kept[settings]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "_compile", once)
        yield
