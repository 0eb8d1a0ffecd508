"""`python -m manual_bp.verify`: check the package's own operations, or somebody's Function."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F

from manual_bp import functional
from manual_bp.ops.mse import REDUCTIONS, scale
from manual_bp.verify import KINDS, Finding, Report, check
from manual_bp.verify.inputs import parse_inputs
from manual_bp.verify.load import load

DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}

OURS = (
    ("jvp", "jvp-disagrees"),
    ("vmap", "vmap-wrong"),
)  # what each operation here has, and the kind if it is not so


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. 0: nothing found, 1: a finding, 2: wrong usage, 3: no finding, but not all
    was looked at.
    """
    parser = _parser()
    args = parser.parse_args(argv)
    if args.kinds:
        width = max(map(len, KINDS))
        print("\n".join(f"{kind:<{width}}  {meaning}" for kind, meaning in KINDS.items()))
        return 0
    try:
        reports = [_somebodys(args)] if args.function else _ours(args)
    except (ValueError, TypeError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    if args.json:
        parts = [json.loads(report.to_json()) for report in reports]
        print(json.dumps(parts[0] if args.function else parts, indent=2, ensure_ascii=False))
    else:
        print("\n\n".join(str(report) for report in reports))
    if any(report.findings for report in reports):
        return 1
    return 0 if all(report.ok for report in reports) else 3


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m manual_bp.verify",
        description="Check the gradient of a Function, a function or a module, and name the fault. "
        "Without an argument: linear, sigmoid, both in one, and every mean squared error of this "
        "package.",
        epilog="Example: python -m manual_bp.verify my_ops.py:MyLinear --inputs "
        '"randn(4,3) randn(5,3) randn(5)". '
        "Inputs are randn(…), rand(…), ones(…), zeros(…), randint(high, …), arange(n), numbers, "
        "None, True, False and "
        "words; randn!(…) requires a gradient, and then only such are checked. Exit status: 0 "
        "nothing found, 1 a "
        "finding, 2 wrong usage, 3 not everything could be looked at.",
    )
    parser.add_argument("function", nargs="?", metavar="MODULE_OR_FILE:NAME", help="what to check")
    parser.add_argument(
        "--inputs", metavar='"…"', help="the arguments of one call, separated by spaces"
    )
    parser.add_argument(
        "--reference", metavar="MODULE_OR_FILE:NAME", help="a callable that computes the same"
    )
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="float32",
        help="of floating inputs (default: %(default)s)",
    )
    parser.add_argument(
        "--compile", action="store_true", help="also under torch.compile(fullgraph=True)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of inputs and cotangents (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--kinds", action="store_true", help="list what a finding can be called, and exit"
    )
    return parser


def _somebodys(args: argparse.Namespace) -> Report:
    if ":" not in args.function:
        load(args.function)  # says what is missing, and the names there are
    if args.inputs is None:
        raise ValueError(
            f'{args.function}: no inputs given: add --inputs "randn(4,3) …", '
            "the arguments of one call"
        )
    inputs = parse_inputs(args.inputs, DTYPES[args.dtype], args.seed)
    function = load(args.function)
    if isinstance(function, type) and issubclass(function, torch.nn.Module):
        raise ValueError(f"{args.function} is a module class: name an instance of it")
    reference = load(args.reference) if args.reference else None
    return check(function, inputs, reference=reference, compile=args.compile, seed=args.seed)


def _ours(args: argparse.Namespace) -> list[Report]:
    for flag in ("inputs", "reference"):
        if getattr(args, flag) is not None:
            raise ValueError(f"--{flag} needs a MODULE_OR_FILE:NAME to go with it")

    def run(
        name: str, function: Callable[..., Any], inputs: str, reference: Callable[..., Any]
    ) -> Report:
        values = parse_inputs(inputs, DTYPES[args.dtype], args.seed)
        report = check(function, values, reference=reference, compile=args.compile, seed=args.seed)
        # a promise of this package: elsewhere an operation need not have them
        missing = [
            Finding(k, "forward", f"{t} is {report.checks.get(t)}")
            for t, k in OURS
            if not _made(report, t)
        ]
        return replace(report, name=name, findings=[*report.findings, *missing])

    reports = [
        run("linear", functional.linear, "randn(4,3) randn(5,3) randn(5)", F.linear),
        run("linear without bias", functional.linear, "randn(4,3) randn(5,3)", F.linear),
        run("sigmoid", functional.sigmoid, "randn(4,3)", torch.sigmoid),
        run(
            "linear_sigmoid",
            functional.linear_sigmoid,
            "randn(4,3) randn(5,3) randn(5)",
            _sigmoid_of_linear,
        ),
    ]
    for reduction in REDUCTIONS:
        inputs = f"randn(4,3) randn(4,3) {reduction}"
        reports.append(run(f"mse_loss {reduction}", functional.mse_loss, inputs, _spelled_out))
    return reports


def _made(report: Report, transform: str) -> bool:
    return bool(report.findings) or report.checks.get(transform) == "ok"


def _sigmoid_of_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return torch.sigmoid(F.linear(x, weight, bias))


def _spelled_out(a: torch.Tensor, y: torch.Tensor, reduction: str) -> torch.Tensor:
    """The cost in tensor operations, differentiated by autograd."""
    squared = (a - y) ** 2
    return squared if reduction == "none" else squared.sum() * scale(reduction, a.shape)


if __name__ == "__main__":
    sys.exit(main())
