"""Interleaved repeats: each round runs every contender once, so a slow moment meets them all."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from threadpoolctl import threadpool_limits  # scikit-learn brings it

from manual_bp.bench.array_peers import JAX, NumPy, ScikitLearn
from manual_bp.bench.configuration import EXAMPLES, Configuration
from manual_bp.bench.problem import Problem, tolerance
from manual_bp.bench.torch_peers import (
    Contender,
    Direct,
    DirectNorms,
    DirectTorch,
    Functions,
    FunctionsCompiled,
    MatrixProducts,
    Skipped,
    TorchCompiled,
    TorchCompiledMax,
    TorchEager,
    TorchFused,
    TorchGraph,
)

CONTENDERS: dict[str, type[Contender]] = {
    "direct": Direct,
    "direct-norms": DirectNorms,
    "direct-torch": DirectTorch,
    "functions": Functions,
    "functions-compiled": FunctionsCompiled,
    "torch": TorchEager,
    "torch-fused": TorchFused,
    "compiled": TorchCompiled,
    "compiled-max": TorchCompiledMax,
    "cuda-graph": TorchGraph,
    "numpy": NumPy,
    "jax": JAX,
    "sklearn": ScikitLearn,
    "products": MatrixProducts,
}


@dataclass
class Result:
    """One contender on one configuration. `seconds` holds one entry a round, for all the steps."""

    contender: str
    name: str
    seconds: list[float] = field(default_factory=list)
    first_seconds: float = 0.0  # construction and first run, compiling included
    cost: float | None = None  # after the last step
    peak_memory: int | None = None  # bytes on top of data and weights
    note: str = ""

    @property
    def median(self) -> float | None:
        return statistics.median(self.seconds) if self.seconds and not self.note else None

    @property
    def spread(self) -> float | None:
        """Half the distance between the quartiles, relative to the median."""
        if self.median is None or len(self.seconds) < 2:
            return None
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return (high - low) / 2 / self.median


@dataclass
class Table:
    """All results on one configuration."""

    configuration: Configuration
    steps: int
    threads: int
    expected_cost: float
    results: list[Result]

    def median(self, contender: str) -> float | None:
        return next(
            (result.median for result in self.results if result.contender == contender), None
        )

    def ratio(self, contender: str, reference: str) -> float | None:
        """The median over the rounds of `contender`'s time over `reference`'s in the same round.

        A machine may be slow for seconds: both times of a round come from the same seconds, and
        medians of separate times may not.
        """
        timed = {
            result.contender: result.seconds for result in self.results if result.median is not None
        }
        if contender not in timed or reference not in timed:
            return None
        return statistics.median(
            a / b for a, b in zip(timed[contender], timed[reference], strict=True)
        )

    def per_epoch(self, seconds: float) -> float:
        """`seconds` for all steps, scaled to 60,000 examples."""
        return seconds * EXAMPLES / (self.steps * self.configuration.batch)

    @property
    def flops_per_second(self) -> float | None:
        """The rate of the matrix products alone."""
        seconds = self.median("products")
        return None if seconds is None else self.configuration.flops * self.steps / seconds


@contextmanager
def threads(count: int, device: torch.device) -> Iterator[None]:
    """Hold every contender to `count` threads.

    PyTorch and BLAS libraries take the number; CPU affinity holds the others. On a GPU nothing is
    held to a core: autograd, compilers and drivers have threads beside the one that launches.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    holds = device.type == "cpu" and hasattr(os, "sched_getaffinity")
    affinity = os.sched_getaffinity(0) if holds else None
    if affinity is not None:
        os.sched_setaffinity(0, sorted(affinity)[:count])
    try:
        with threadpool_limits(count):
            yield
    finally:
        torch.set_num_threads(before)
        if affinity is not None:
            os.sched_setaffinity(0, affinity)


def compare(
    problem: Problem,
    names: list[str],
    repeats: int,
    thread_count: int,
    progress: Callable[[str], None],
) -> Table:
    """Run every contender once unmeasured, check its cost, then measure `repeats` rounds."""
    results, ready = [], []
    expected = expected_cost(problem)
    with threads(thread_count, problem.device):
        for name in names:
            kind = CONTENDERS[name]
            result = Result(name, kind.name)
            results.append(result)
            progress(f"{problem.configuration}: {kind.name}")
            begin = time.perf_counter()
            try:
                contender = kind(problem)
                contender.load()
                contender.run()
            except Skipped as skipped:
                result.note = str(skipped)
                continue
            except Exception as error:  # costs this contender its row, and no other
                reason = (str(error).splitlines() or [""])[0]
                result.note = f"failed: {type(error).__name__}: {reason}"
                continue
            result.first_seconds = time.perf_counter() - begin
            if kind.trains:
                result.cost = problem.cost(contender.parameters())
                if not abs(result.cost - expected) <= tolerance() * expected:
                    result.note = (
                        f"not counted: reaches cost {result.cost:.6g} instead of {expected:.6g}"
                    )
                    continue
            ready.append((contender, result))
        for repeat in range(repeats):
            progress(f"{problem.configuration}: round {repeat + 1} of {repeats}")
            # another order each round: no contender always runs after the same one
            turn = repeat % max(1, len(ready))
            for contender, result in ready[turn:] + ready[:turn]:
                contender.load()
                begin = time.perf_counter()
                contender.run()
                result.seconds.append(time.perf_counter() - begin)
    return Table(problem.configuration, problem.steps, thread_count, expected, results)


def expected_cost(problem: Problem) -> float:
    """The cost after the same steps of the textbook algorithm in float64."""
    parameters = [(w.double(), b.double()) for w, b in problem.weights]
    images, one_hot = problem.images, problem.one_hot.double()
    linear, last = problem.configuration.linear, len(parameters) - 1
    for indices in problem.order.split(problem.configuration.batch):
        leaves = [tensor.requires_grad_() for pair in parameters for tensor in pair]
        a = images[indices].double() * (1 / 255)
        for i, (weight, bias) in enumerate(parameters):
            a = a @ weight.t() + bias
            a = a if linear and i == last else torch.sigmoid(a)
        gradients = torch.autograd.grad((a - one_hot[indices]).square().mean(), leaves)
        with torch.no_grad():
            stepped = [
                leaf - problem.lr * gradient
                for leaf, gradient in zip(leaves, gradients, strict=True)
            ]
        parameters = list(zip(stepped[::2], stepped[1::2], strict=True))
    return problem.cost(
        [(w.detach().cpu().numpy(), b.detach().cpu().numpy()) for w, b in parameters]
    )
