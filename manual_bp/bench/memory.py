"""Peak memory of a contender's steps, without its data, weights and code, in its own process."""

from __future__ import annotations

import ctypes
import gc
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import torch

from manual_bp.bench import problem as problems
from manual_bp.bench.configuration import Configuration
from manual_bp.bench.problem import Problem
from manual_bp.bench.torch_peers import Contender

STEPS = 3


def of(problem: Problem, contender: str, threads: int) -> int | None:
    """Peak memory in bytes, or None if this system cannot tell."""
    on_cuda = problem.device.type == "cuda"
    if on_cuda and contender in ("jax", "cuda-graph"):
        return None  # an allocator of its own, or memory that is taken while recording
    if not on_cuda and not Path("/proc/self/clear_refs").exists():
        return None
    command = [
        sys.executable,
        "-m",
        "manual_bp.bench.memory",
        str(problem.configuration),
        contender,
        str(threads),
        str(problem.device),
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return (
        int(result.stdout.split()[-1]) if result.returncode == 0 and result.stdout.strip() else None
    )


def _ready(problem: Problem, contender: str) -> Contender:
    """A contender with data, weights and compiled code: its steps add activations and gradients."""
    from manual_bp.bench.measure import CONTENDERS

    ready = CONTENDERS[contender](problem)
    if ready.compiles:
        ready.run()
    ready.load()
    return ready


def _on_cuda(problem: Problem, contender: str) -> int:
    ready = _ready(problem, contender)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    ready.run()
    return torch.cuda.max_memory_allocated() - before


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":")) * 1024


def _main(
    configuration: Configuration, contender: str, thread_count: int, device: torch.device
) -> int:
    """Peak memory of the steps in bytes, after a small run has brought in code and threads."""
    from manual_bp.bench.measure import threads

    images, labels, _ = problems.load_data()
    small = replace(configuration, batch=2)
    with threads(thread_count, device):
        _ready(problems.make(small, (images, labels), STEPS, device), contender).run()
        problem = problems.make(configuration, (images, labels), STEPS, device)
        if device.type == "cuda":
            return _on_cuda(problem, contender)
        ready = _ready(problem, contender)
        gc.collect()
        if sys.platform == "linux":
            # memory that is free but still held would hide the memory that the steps need
            ctypes.CDLL(None).malloc_trim(0)
        before = _status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # forget the highest so far
        ready.run()
    return _status("VmHWM") - before


if __name__ == "__main__":
    text, name, count, where = sys.argv[1:]
    print(_main(Configuration.parse(text), name, int(count), torch.device(where)))
