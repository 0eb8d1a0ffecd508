"""What each operation keeps for its backward, in bytes, measured through saved_tensors_hooks.

`python -m tests.correctness.memory` prints the table;
`--write tests/correctness/README.md` puts it between the markers there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tests.correctness.operations import (
    LINEAR,
    LINEAR_NO_BIAS,
    MSE,
    NETWORK,
    SIGMOID,
    Operation,
)
from tests.correctness.readme import write

M, N_IN, HIDDEN, N_OUT = 64, 784, 128, 10
FLOAT = 4  # bytes
X, W1, A1, W2, A2 = M * N_IN, HIDDEN * N_IN, M * HIDDEN, N_OUT * HIDDEN, M * N_OUT  # elements


@dataclass(frozen=True)
class Case:
    """One row: an operation, which of its inputs need a gradient, and the bytes declared for it."""

    name: str
    op: Operation
    shapes: tuple[tuple[int, ...], ...]
    needed: tuple[bool, ...]
    declared: int
    keeps: str
    arrange: Callable[[Tensor], Tensor] = lambda t: t  # how the first input lies in memory

    def measured(self, function: Callable[..., Tensor]) -> int:
        """Bytes of all distinct storages that `function` saves, each counted once."""
        inputs = [torch.rand(shape) for shape in self.shapes]
        inputs[0] = self.arrange(inputs[0])
        inputs = [t.detach().requires_grad_(n) for t, n in zip(inputs, self.needed, strict=True)]
        saved: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            saved[storage.data_ptr()] = max(
                saved.get(storage.data_ptr(), 0), tensor.numel() * tensor.element_size()
            )
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            value = function(*inputs)
        del value
        return sum(saved.values())


def _transposed(tensor: Tensor) -> Tensor:
    return tensor.mT.contiguous().mT


_LINEAR = ((M, N_IN), (HIDDEN, N_IN), (HIDDEN,))
_COST = ((M, N_OUT), (M, N_OUT))
_NETWORK = ((M, N_IN), (HIDDEN, N_IN), (HIDDEN,), (N_OUT, HIDDEN), (N_OUT,), (M, N_OUT))

CASES = (
    Case("linear", LINEAR, _LINEAR, (True, True, True), FLOAT * (X + W1), "x and W"),
    Case("linear, no bias", LINEAR_NO_BIAS, _LINEAR[:2], (True, True), FLOAT * (X + W1), "x and W"),
    Case("linear, x needs no gradient", LINEAR, _LINEAR, (False, True, True), FLOAT * X, "x"),
    Case("linear, W frozen", LINEAR, _LINEAR, (True, False, True), FLOAT * W1, "W"),
    Case("linear, W and b frozen", LINEAR, _LINEAR, (True, False, False), FLOAT * W1, "W"),
    Case("linear, b alone trained", LINEAR, _LINEAR, (False, False, True), 0, "nothing"),
    Case("linear, nothing trained", LINEAR, _LINEAR, (False, False, False), 0, "nothing"),
    Case(
        "linear, 3-D x that is not contiguous",
        LINEAR,
        ((8, 8, N_IN), *_LINEAR[1:]),
        (True, True, True),
        FLOAT * (X + W1),
        "x and W",
        _transposed,
    ),
    Case("sigmoid", SIGMOID, ((M, HIDDEN),), (True,), FLOAT * A1, "a"),
    Case("sigmoid, z needs no gradient", SIGMOID, ((M, HIDDEN),), (False,), 0, "nothing"),
    *(Case(op.name, op, _COST, (True, False), FLOAT * 2 * A2, "a and y") for op in MSE.values()),
    Case("mse mean, y trained", MSE["mean"], _COST, (False, True), FLOAT * 2 * A2, "a and y"),
    Case("mse mean, nothing trained", MSE["mean"], _COST, (False, False), 0, "nothing"),
    Case(
        "network",
        NETWORK,
        _NETWORK,
        (False, True, True, True, True, False),
        FLOAT * (X + A1 + W2 + 2 * A2),
        "x, a1, W2, a2, y",
    ),
    Case(
        "network, first layer frozen",
        NETWORK,
        _NETWORK,
        (False, False, False, True, True, False),
        FLOAT * (A1 + 2 * A2),
        "a1, a2, y",
    ),
)


def table() -> str:
    """The cases as a Markdown table."""
    lines = [
        f"m = {M}, {N_IN}-{HIDDEN}-{N_OUT}, float32; each storage counted once.",
        "",
        "| operation | keeps | bytes | torch.nn's bytes |",
        "|---|---|---:|---:|",
    ]
    for case in CASES:
        lines.append(
            f"| {case.name} | {case.keeps} | {case.measured(case.op.ours):,} | "
            f"{case.measured(case.op.twin):,} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    write("memory", table(), sys.argv[1:])
