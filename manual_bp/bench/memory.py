"""Peak memory of one contender's training, on top of its data and weights: measured in a process of its own."""

from __future__ import annotations

import ctypes
import gc
import subprocess
import sys
from pathlib import Path

import torch

from manual_bp.bench.problem import Configuration, Problem

STEPS = 3


def of(problem: Problem, contender: str) -> int | None:
    """Bytes, or None where this system cannot tell."""
    if problem.device.type == "cuda":
        return _on_cuda(problem, contender)
    if not Path("/proc/self/clear_refs").exists():
        return None
    command = [sys.executable, "-m", "manual_bp.bench.memory", str(problem.configuration), contender]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return int(result.stdout.split()[-1]) if result.returncode == 0 and result.stdout.strip() else None


def _on_cuda(problem: Problem, contender: str) -> int:
    from manual_bp.bench.measure import CONTENDERS

    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    CONTENDERS[contender](problem).run()
    weights = sum(t.numel() * t.element_size() for pair in problem.weights for t in pair)
    return torch.cuda.max_memory_allocated() - before - weights


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":")) * 1024


def _main(configuration: Configuration, contender: str) -> int:
    """A small run first brings in code and threads; what the steps then take on top is the answer."""
    from manual_bp.bench import problem as problems
    from manual_bp.bench.measure import CONTENDERS

    images, labels, _ = problems.load_data()
    data = (images, labels)
    kind = CONTENDERS[contender]
    small = Configuration(configuration.sizes, 2, configuration.linear)
    kind(problems.make(small, data, STEPS, torch.device("cpu"))).run()
    problem = problems.make(configuration, data, STEPS, torch.device("cpu"))
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)  # memory that is free but still held would hide what the steps need
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest so far
    kind(problem).run()
    weights = sum(t.numel() * t.element_size() for pair in problem.weights for t in pair)
    return _status("VmHWM") - before - weights


if __name__ == "__main__":
    print(_main(Configuration.parse(sys.argv[1]), sys.argv[2]))
