"""Runs the epoch kernel in Triton's interpreter: `python -m tests.direct.epoch_on_cpu`.

Triton decides at its import whether it interprets, so test_epoch_kernel.py runs this in a process
of its own, which prints what it found as JSON.
"""

from __future__ import annotations

import json
import multiprocessing
from typing import Any

import torch
from torch import Tensor

import manual_bp as mbp
from manual_bp import direct
from manual_bp.direct import epoch_kernel
from manual_bp.direct.statistics import Statistics
from manual_bp.direct.task import LoopUnavailableError

# name: widths, batch, examples, output, options of the trainer
CASES: dict[str, tuple[list[int], int, int, str, dict[str, Any]]] = {
    "the recipe's": ([784, 30, 10], 10, 35, "sigmoid", {}),
    "momentum and decay": ([90, 20, 10], 10, 30, "sigmoid", {"momentum": 0.5, "weight_decay": 0.1}),
    "linear output": ([90, 20, 3], 4, 10, "linear", {"reduction": "half_per_example"}),
    "a batch of 64": ([90, 20, 17], 64, 100, "sigmoid", {"weight_decay": 0.1}),
}


def data(n: int, n_in: int, n_out: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2 * n, n_in), dtype=torch.uint8, generator=generator)
    pixels *= torch.rand(pixels.shape, generator=generator) < 0.2
    labels = torch.randint(0, n_out, (2 * n,), generator=generator)
    return pixels, labels, torch.randperm(2 * n, generator=generator)[:n]


def figures(statistics: Statistics[float]) -> list[float]:
    norms = [*statistics.grad_norm.values(), *statistics.delta_norm.values()]
    found = statistics.squared_error, statistics.correct, statistics.grad_norm_total
    return [*found, *norms]


def trained(name: str, backend: str) -> tuple[list[Tensor], list[float]]:
    """Parameters and velocities after the case's steps, and the figures."""
    sizes, batch, n, output, options = CASES[name]
    torch.manual_seed(0)
    model = mbp.MLP(sizes, output=output)
    trainer = direct.Trainer(model, lr=0.5, batch_size=batch, backend=backend, **options)
    pixels, labels, order = data(n, sizes[0], sizes[-1])
    rates = torch.linspace(1.0, 0.1, -(-n // batch))
    statistics = trainer.run(pixels, labels, order, rates)
    v = trainer.state_dict()["momentum"].values()
    return [*(p.detach() for p in model.parameters()), *v], figures(statistics)


def compare(name: str) -> dict[str, Any]:
    (got, seen), (want, expected) = trained(name, "epoch"), trained(name, "torch")
    return {
        "off": max(float((a - b).abs().max()) for a, b in zip(got, want, strict=True)),
        "figures": [seen, expected],
    }


def one_program(program: int, programs: int, arguments: list[Any], constants: Any) -> None:
    """This process is one of the kernel's programs: it interprets that one alone."""
    from triton.runtime.interpreter import interpreter_builder

    torch.set_num_threads(1)
    at, of = interpreter_builder.set_grid_idx, interpreter_builder.set_grid_dim
    interpreter_builder.set_grid_dim = lambda *_: of(programs, 1, 1)
    interpreter_builder.set_grid_idx = lambda *_: at(program, 0, 0)
    epoch_kernel.train[(1,)](*arguments, **constants)


class Processes:
    """Stands in for the kernel: a process for each of its programs, on memory they share."""

    def __init__(self) -> None:
        self.programs = 0

    def __getitem__(self, grid: tuple[int]) -> Any:
        (programs,) = grid
        self.programs = programs

        def launch(*arguments: Any, **constants: Any) -> None:
            shared = [a.clone().share_memory_() if isinstance(a, Tensor) else a for a in arguments]
            # A fork, whose child has the interpreter as it is here.
            context = multiprocessing.get_context("fork")
            children = [
                context.Process(target=one_program, args=(i, programs, shared, constants))
                for i in range(programs)
            ]
            try:
                for child in children:
                    child.start()
                for child in children:
                    child.join(600)
                assert [child.exitcode for child in children] == [0] * programs
            finally:
                for child in children:
                    child.kill()
            for mine, theirs in zip(arguments, shared, strict=True):
                if isinstance(mine, Tensor):
                    mine.copy_(theirs)

        return launch


def in_processes(name: str) -> dict[str, Any]:
    """As `compare`, with the hidden units shared among several programs, which wait for others."""
    kernel, processes = epoch_kernel.train, Processes()

    class Stand:  # the module's kernel in this process; the children's is the real one
        def __getitem__(self, grid: tuple[int]) -> Any:
            epoch_kernel.train = kernel
            return processes[grid]

    epoch_kernel.train = Stand()
    try:
        return compare(name) | {"programs": processes.programs}
    finally:
        epoch_kernel.train = kernel


def slices(name: str) -> dict[str, Any]:
    """In slices of two steps, and all at once."""
    sizes, batch, n, output, options = CASES[name]
    pixels, labels, order = data(n, sizes[0], sizes[-1])
    found = []
    for steps in (2, 1000):
        epoch_kernel.SLICE_STEPS = steps
        torch.manual_seed(0)
        model = mbp.MLP(sizes, output=output)
        trainer = direct.Trainer(model, lr=0.5, batch_size=batch, backend="epoch", **options)
        told: list[int] = []
        trainer.launch(pixels, labels, order, progress=told.append)
        found.append((told, list(model.parameters())))
    (few, a), (_, b) = found
    return {"told": few, "equal": all(torch.equal(p, q) for p, q in zip(a, b, strict=True))}


def refusals() -> list[str]:
    """What is said of models and batches that the kernel is not for."""
    said = []
    for sizes, batch, options in (
        ([8, 4, 3, 2], 4, {}),
        ([8, 600, 2], 4, {}),
        ([8, 4, 2], 65, {}),
        ([8, 4, 2], 4, {"dtype": torch.float64}),
    ):
        try:
            direct.Trainer(mbp.MLP(sizes, **options), lr=1.0, batch_size=batch, backend="epoch")
        except LoopUnavailableError as error:
            said.append(str(error))
    return said


if __name__ == "__main__":
    torch.set_num_threads(1)
    several = in_processes("momentum and decay")
    epoch_kernel.PROGRAMS = 1  # the interpreter runs programs one after another: none may wait
    print(
        json.dumps(
            {
                "cases": {name: compare(name) for name in CASES},
                "several": several,
                "slices": slices("linear output"),
                "refusals": refusals(),
            }
        )
    )
