"""A process of its own with several virtual CPU devices, which JAX must be told of before it starts."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def environment(devices):
    """Variables of a process that sees so many CPU devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    return {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags.strip(), "PYTHONPATH": str(ROOT)}


def run_on(devices, code, *, timeout=300):
    """Output of ``code`` in a process with so many CPU devices."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(devices),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout
