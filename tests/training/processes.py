"""Several processes of one run, on this machine, each with its share of fake devices."""

import os
import socket
import subprocess
import sys


def free_address():
    """Where processes of this machine may find each other."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"


def environment(devices):
    """That of a process with so many fake devices."""
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "XLA_FLAGS": "--xla_cpu_enable_concurrency_optimized_scheduler=false",  # as ``train`` sets it
    }


def run(count, devices, arguments, timeout=300):
    """Runs ``count`` processes of ``devices`` devices each to their end, which must be a good one.

    arguments(number, address): what Python is started with.
    """
    address, env = free_address(), environment(devices)
    processes = [
        subprocess.Popen(
            [sys.executable, *map(str, arguments(number, address))], env=env, stderr=subprocess.PIPE, text=True
        )
        for number in range(count)
    ]
    try:
        errors = [process.communicate(timeout=timeout)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * count, errors
