"""More devices: the same update, the messages that it needs, and the speed.

    python -m benchmarks.scaling --devices 1 2 4 8 --json scaling.json

Strong scaling divides the same environments among the devices, weak scaling gives each the same number. On a CPU the devices are
virtual and share its cores: there the figures of interest are the differences from one device and the messages, read from the
compiled program; the speed is worth something on real devices only.
"""

import argparse
import json
import math
import platform
import re
import statistics
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.flatten_util import ravel_pytree

import jtrpo
from jtrpo.training.state import state_shardings

UPDATES = 20
REPEATS = 5

_COLLECTIVE = re.compile(r"= (.*?) (all-\w+|collective-\w+|reduce-scatter)(?:-start)?\(")
_BYTES = {"f64": 8, "s64": 8, "f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2, "pred": 1}


def compile_step(config: jtrpo.TrainConfig) -> Any:
    """The trainer's step as a program for the configuration's mesh."""
    trainer = jtrpo.make_trainer(config)
    shapes = jax.eval_shape(trainer.init, jax.random.key(0))
    where = state_shardings(config.mesh, shapes)
    if where is not None:
        shapes = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, where)
    return jax.jit(trainer.step, donate_argnums=0).lower(shapes).compile()


def messages(program: str) -> dict[str, dict[str, Any]]:
    """Collectives of a compiled step by where they stand: how many, their bytes, and their kinds.

    ``product``: in the loop of conjugate gradients; ``try``: in that of the line search; ``critic``: in those of the critic;
    ``once``: outside of loops; ``elsewhere``: in any other loop, the collection's say.
    """
    found: dict[str, dict[str, Any]] = {}
    for line in program.splitlines():
        match = _COLLECTIVE.search(line)
        if match is None:
            continue
        name = re.search(r'op_name="([^"]*)"', line)
        path = name[1] if name is not None else ""
        if "/while/" not in path:
            where = "once"
        elif "fit_critic" in path or "fit_gauss_newton" in path:
            where = "critic"
        else:
            where = "product" if "conjugate_gradient" in path else "try" if "line_search" in path else "elsewhere"
        arrays = re.findall(r"(\w+)\[([\d,]*)\]", match[1])
        size = sum(_BYTES[kind] * math.prod(int(n) for n in shape.split(",") if n) for kind, shape in arrays)
        entry = found.setdefault(where, {"number": 0, "bytes": 0, "kinds": []})
        entry["number"] += 1
        entry["bytes"] += size
        entry["kinds"] = sorted({*entry["kinds"], match[2]})
    return found


def measure(env: str, num_envs: int, devices: int, **settings: Any) -> tuple[dict[str, Any], Any]:
    """One row, and the policy parameters after ``UPDATES`` updates."""
    mesh = None if devices == 1 else jax.sharding.Mesh(np.array(jax.devices()[:devices]), ("envs",))
    config = jtrpo.TrainConfig(env, num_envs=num_envs, mesh=mesh, **settings)
    init = jax.jit(jtrpo.make_trainer(config).init)
    began = time.perf_counter()
    step = compile_step(config)
    compiled = time.perf_counter() - began
    history, rates = [], []
    for repeat in range(REPEATS + 1):  # the first is not timed
        state = jax.block_until_ready(init(jax.random.key(0)))
        began = time.perf_counter()
        for _ in range(UPDATES):
            state, metrics = step(state)
            if repeat == 0:
                history.append(jax.device_get(metrics.policy))
        jax.block_until_ready(state)
        rates.append(UPDATES * config.batch_size / (time.perf_counter() - began))
    row = {
        "devices": devices,
        "num_envs": num_envs,
        "steps_per_second": statistics.median(rates[1:]),
        "compile_seconds": compiled,
        "max_kl_seen": float(max(info.kl for info in history)),
        "cg_iterations": [int(info.cg_iterations) for info in history],
        "tries": [int(info.backtracks + info.accepted) for info in history],
        "messages": messages(step.as_text()),
    }
    return row, jax.device_get(state.policy_params)


def difference(x: Any, y: Any) -> float:
    """|x - y| / |x| over all parameters."""
    x, y = ravel_pytree(x)[0], ravel_pytree(y)[0]
    return float(np.linalg.norm(x - y) / np.linalg.norm(x))


def table(study: dict[str, Any]) -> str:
    """Markdown of a study."""
    rows = [
        f"{study['env']}, {study['device']}, jax {study['jax']}",
        "",
        "| scaling | devices | environments | times as fast as one | parameters differ from one's by | Fisher products "
        "| messages in each | line search tries | in each | in each critic step | besides | bytes in a product | besides |",
        "|---" * 13 + "|",
    ]
    for kind in ("strong", "weak"):
        first = study[kind][0]
        for row in study[kind]:
            here = lambda where, row=row: row["messages"].get(where, {"number": 0, "bytes": 0})  # noqa: E731
            cells = [
                kind,
                row["devices"],
                row["num_envs"],
                f"{row['steps_per_second'] / first['steps_per_second']:.2f}",
                f"{row['difference']:.0e}" if kind == "strong" else "",
                f"{np.mean(row['cg_iterations']):.1f}",
                here("product")["number"],
                f"{np.mean(row['tries']):.1f}",
                here("try")["number"],
                here("critic")["number"],
                here("once")["number"],
                f"{here('product')['bytes']:,}",
                f"{here('once')['bytes']:,}",
            ]
            rows.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(rows) + "\n"


def main() -> None:
    """Measure, write JSON, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--num-envs", type=int, default=64)
    parser.add_argument("--num-steps", type=int, default=32)
    parser.add_argument("--hidden-sizes", type=int, nargs="+", default=[64, 64])
    parser.add_argument("--critic", default="adam", choices=["adam", "gauss_newton"])
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.devices[0] != 1:
        parser.error("--devices must begin with 1, which the others are compared with")
    jax.config.update("jax_num_cpu_devices", max(options.devices))  # read when JAX first computes, and by a CPU only
    if len(jax.devices()) < max(options.devices):
        parser.error(f"--devices must be at most the {len(jax.devices())} that there are")
    settings = {"num_steps": options.num_steps, "hidden_sizes": tuple(options.hidden_sizes), "critic": options.critic}
    if options.critic == "gauss_newton":
        settings["critic_epochs"] = 1
    device = f"{jax.devices()[0].device_kind}, {platform.machine()}"
    study: dict[str, Any] = {"env": options.env, "device": device, "jax": jax.__version__, "settings": settings}
    study |= {"strong": [], "weak": []}
    alone = None
    for devices in options.devices:
        row, params = measure(options.env, options.num_envs, devices, **settings)
        alone = params if alone is None else alone
        study["strong"].append({**row, "difference": difference(alone, params)})
        study["weak"].append(measure(options.env, options.num_envs * devices, devices, **settings)[0])
    if options.json is not None:
        options.json.write_text(json.dumps(study) + "\n")
    print(table(study), end="")


if __name__ == "__main__":
    main()
