"""The composability matrix: each operation against each way PyTorch transforms or runs it.

`python -m tests.correctness.matrix` runs all cells and prints the table;
`--write tests/correctness/README.md` puts it between the markers there. A cell is PASS, or
the error that is expected of it: one of `HOLES`, each with its reason.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch

from tests import test_gradients as gradients
from tests import test_transforms as transforms
from tests.correctness import checks_compile as compiled
from tests.correctness import checks_execution as execution
from tests.correctness import checks_shapes as shapes
from tests.correctness.operations import OPERATIONS, Operation
from tests.correctness.readme import write

ROWS = OPERATIONS
VERSION = torch.__version__.split("+")[0]


@dataclass(frozen=True)
class Column:
    """One way to use an operation, and the check that raises where it fails."""

    name: str
    check: Callable[[Operation], None]
    needs_cuda: bool = False

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Hole:
    """An expected failure: the error's class, a part of its message, the reason, what is shown."""

    error: str
    says: str
    reason: str
    shown: str


def _nest(name: str) -> Callable[[Operation], None]:
    return lambda op: transforms.check_nest(op, transforms.NESTS[name])


COLUMNS = (
    Column("backward, and the poisoned backward shows", execution.backward),
    Column("create_graph, double backward", gradients.test_second_derivatives_equal_the_twin),
    Column("gradcheck, every flag", gradients.test_gradcheck_with_every_flag),
    Column("gradgradcheck, both orders", lambda op: gradients.test_gradgradcheck(op, False)),
    Column(
        "gradgradcheck, non-contiguous cotangents",
        lambda op: gradients.test_gradgradcheck(op, True),
    ),
    Column("func.grad, vjp", transforms.check_grad_and_vjp),
    Column("func.jvp, every subset of tangents", transforms.check_jvp_subsets),
    Column("func.vmap, of and under grad and jvp", transforms.test_vmap_over_the_batched_arguments),
    Column("func.vmap nested", transforms.test_vmap_nested),
    Column("func.vmap nested, one input unmapped", transforms.check_vmap_nested_with_one_unmapped),
    Column("func.jacrev", transforms.check_jacrev),
    Column("func.jacfwd", transforms.check_jacfwd),
    Column("func.hessian", _nest("hessian")),
    Column("jacrev of jacrev", _nest("jacrev of jacrev")),
    Column("jacrev of jacfwd", _nest("jacrev of jacfwd")),
    Column("jacfwd of jacfwd", _nest("jacfwd of jacfwd")),
    Column("jacfwd three times", _nest("jacfwd three times")),
    Column("per-sample gradients", transforms.check_per_sample_gradients),
    Column("functional_call", execution.functional_call),
    Column("compile fullgraph, one graph, forward and backward", compiled.forward_and_backward),
    Column("compile with dynamic shapes, one graph", compiled.dynamic_shapes),
    Column("compile under autocast bfloat16", compiled.autocast),
    Column("compile by inductor, forward and backward", compiled.inductor),
    Column("compile by inductor, double backward", compiled.double_backward),
    Column("compile of func.grad", compiled.func_grad),
    Column("compile of vmap of grad", compiled.func_vmap_grad),
    Column("compile of vmap, then backward", compiled.func_vmap_then_backward),
    Column("compile of func.jvp", compiled.func_jvp),
    Column("compile of func.hessian", compiled.func_hessian),
    Column("autocast bfloat16", execution.autocast_bfloat16),
    Column("autocast float16", execution.autocast_float16),
    Column("autocast float16 with GradScaler", execution.grad_scaler),
    Column("checkpoint, reentrant", execution.checkpoint_reentrant),
    Column("checkpoint, non-reentrant", execution.checkpoint_non_reentrant),
    Column("saved_tensors_hooks", execution.saved_tensors_hooks),
    Column("save_on_cpu", execution.save_on_cpu),
    Column("fx.symbolic_trace", execution.symbolic_trace),
    Column("make_fx of func.grad, fake tensors", execution.make_fx_fake),
    Column("torch.export of a trained module", execution.export),
    Column("ONNX export of a trained module", execution.onnx),
    Column("DistributedDataParallel, gloo, 2 processes", execution.distributed_data_parallel),
    Column("deepcopy", execution.deepcopy),
    Column("pickle", execution.pickled),
    Column("state_dict to torch.nn and back", execution.state_dict),
    Column("no examples (0, n)", shapes.empty),
    Column("no columns (m, 0)", shapes.n_in_0),
    Column("1-D", shapes.leading()),
    Column("4-D", shapes.leading(2, 3, 2)),
    Column("non-contiguous inputs", gradients.test_strides_of_the_inputs_do_not_matter),
    Column("stride-0 inputs", gradients.test_expanded_inputs_of_stride_0),
    Column("stride-0 and transposed cotangents", shapes.cotangents),
    Column("channels of size 1", shapes.size_1_channels),
    Column("meta tensors", gradients.test_meta_tensors_carry_shapes_through_both_passes),
    Column("CUDA, forward and backward", execution.cuda, needs_cuda=True),
    Column("CUDA autocast bfloat16", execution.cuda_autocast_bfloat16, needs_cuda=True),
    Column("CUDA autocast float16", execution.cuda_autocast_float16, needs_cuda=True),
    Column("CUDA autocast float16 with GradScaler", execution.cuda_grad_scaler, needs_cuda=True),
)

_NO_DOUBLE = Hole(
    "RuntimeError",
    "requires create_graph=False",
    "torch.compile gives no second derivative: its backward graph cannot be differentiated, "
    "for torch's own operations either.",
    "RuntimeError",
)
_NO_VMAP = Hole(
    "InternalTorchDynamoError",
    "You tried to vmap over ApplyTemplate",
    "torch.compile replaces a Function inside vmap by a template of its own that has no vmap rule.",
    "InternalTorchDynamoError",
)
_INLINED = Hole(
    "BuiltinDerivativeError",
    "the poisoned derivative does not show",
    "torch.compile inlines the Function's forward here and differentiates that: the numbers are "
    "right, but the built-in rule made them, not ours.",
    "built-in rule",
)
_OLD_HESSIAN = Hole(
    "UserError",
    "Could not extract specialized integer",
    "torch.compile could not trace torch.func.jacfwd before torch 2.13.",
    "UserError",
)
_OLD_PART = Hole(
    "BuiltinDerivativeError",
    "the poisoned derivative shows in part",
    "Before torch 2.15 torch.compile of func.grad inlines the forward of some of the Functions and "
    "not of others: the numbers are right, but the built-in rule made some of them, not ours.",
    "built-in rule in part",
)
_LINEAR_ROWS = ("linear", "linear, no bias", "network")
HOLES: dict[str, Callable[[Operation], Hole]] = {
    "compile by inductor, double backward": lambda op: _NO_DOUBLE,
    "compile of vmap of grad": lambda op: _NO_VMAP,
    "compile of vmap, then backward": lambda op: _NO_VMAP if op.name in _LINEAR_ROWS else _INLINED,
    "compile of func.jvp": lambda op: _INLINED,
    "compile of func.hessian": lambda op: _NO_VMAP,
}
# On 2.15 the first of these is mended, and the others fail in another place.
_TORCH = torch.torch_version.TorchVersion(torch.__version__)
if _TORCH < (2, 15):
    HOLES["compile of func.grad"] = lambda op: _OLD_PART if op.name == "network" else _INLINED
    HOLES["compile of vmap of grad"] = lambda op: _NO_VMAP if op.name == "network" else _INLINED
    HOLES["compile of func.hessian"] = lambda op: _NO_VMAP if op.name == "network" else _INLINED
if _TORCH < (2, 13):
    HOLES["compile of func.hessian"] = lambda op: _INLINED if op.name == "sigmoid" else _OLD_HESSIAN


def hole(op: Operation, column: Column) -> Hole | None:
    """The expected failure of a cell, or None where it has to pass."""
    return HOLES[column.name](op) if column.name in HOLES else None


def unexplained(op: Operation, column: Column) -> Exception | None:
    """Run one cell; None where it goes as expected, else what is wrong."""
    expected = hole(op, column)
    try:
        column.check(op)
    except Exception as error:
        known = (
            expected is not None
            and type(error).__name__ == expected.error
            and expected.says in str(error)
        )
        return None if known else error
    return None if expected is None else AssertionError("passes: take its entry out of HOLES")


def runnable(column: Column) -> bool:
    return not column.needs_cuda or torch.cuda.is_available()


Cell = Callable[[Operation, Column], str]


def expected_cell(op: Operation, column: Column) -> str:
    """What the table says if all goes as expected: PASS, or the error with its footnote."""
    if not runnable(column):
        return "no GPU"
    expected = hole(op, column)
    return "PASS" if expected is None else f"{expected.shown} [{_footnotes().index(expected) + 1}]"


def cell(op: Operation, column: Column) -> str:
    """What the table says once the cell has run."""
    error = unexplained(op, column) if runnable(column) else None
    if error is None:
        return expected_cell(op, column)
    return f"UNEXPLAINED {type(error).__name__}: {str(error).splitlines()[0]}"


def _footnotes() -> list[Hole]:
    return list(
        dict.fromkeys(
            HOLES[column.name](op) for column in COLUMNS if column.name in HOLES for op in ROWS
        )
    )


def _count(every: list[str]) -> str:
    passed, no_gpu = every.count("PASS"), every.count("no GPU")
    wrong = sum(text.startswith("UNEXPLAINED") for text in every)
    expected = len(every) - passed - no_gpu - wrong
    counts = (
        f"{passed} PASS, {expected} expected failures, {wrong} unexplained, {no_gpu} need a GPU"
    )
    return f"{len(every)} cells: {counts}."


def table(cell: Cell = cell) -> str:
    """The matrix as Markdown, transposed: one line a column, so that it can be read."""
    rows = {column.name: [cell(op, column) for op in ROWS] for column in COLUMNS}
    return "\n".join(
        [
            f"torch {VERSION}, {'with' if torch.cuda.is_available() else 'without'} a CUDA device.",
            _count([text for row in rows.values() for text in row]),
            "",
            "| | " + " | ".join(op.name for op in ROWS) + " |",
            "|---|" + "---|" * len(ROWS),
            *(f"| {name} | " + " | ".join(row) + " |" for name, row in rows.items()),
            "",
            *(f"[{i}] {hole.reason}  " for i, hole in enumerate(_footnotes(), 1)),
        ]
    )


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    write("matrix", table(), sys.argv[1:])
