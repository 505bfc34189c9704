"""A process of its own with several virtual CPU devices, which JAX must be told of before it starts."""

import math
import os
import re
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]


def environment(devices):
    """Variables of a process that sees so many CPU devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    return {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags.strip(), "PYTHONPATH": str(ROOT)}


def communicating(line):
    """Which devices an HLO instruction lets talk to one another, as a set of frozensets, in any of HLO's three notations."""
    if listed := re.search(r"replica_groups=\{(\{[\d,{}]*\})\}", line):
        return {frozenset(map(int, group.split(","))) for group in re.findall(r"\{([\d,]+)\}", listed[1])}
    if iota := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?(?=[, ]|$)", line):
        shape, dims = ([int(n) for n in part.split(",")] for part in iota.groups()[:2])
        order = [int(n) for n in iota[3].split(",")] if iota[3] else range(len(dims))
        return set(map(frozenset, np.arange(math.prod(dims)).reshape(dims).transpose(order).reshape(shape).tolist()))
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\] ?\{('\w+'(?:,'\w+')*)\}(?=[, ]|$)", line):
        axes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
        over = re.findall(r"'(\w+)'", mesh[2])
        sizes = [int(size) for size in axes.values()]
        place = [list(axes).index(name) for name in over]
        ids = np.moveaxis(np.arange(math.prod(sizes)).reshape(sizes), place, range(len(place)))
        return set(map(frozenset, ids.reshape(math.prod(ids.shape[: len(place)]), -1).T.tolist()))
    raise ValueError(f"a notation of replica groups that this does not know: {line}")
