"""`python -m manual_bp.verify`: check somebody's Function, or the package's own operations."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from manual_bp import console
from manual_bp.escape import escaped
from manual_bp.verify import KINDS, Finding, Report
from manual_bp.verify.guard import Tell, guarded
from manual_bp.verify.report import colour_wanted

DTYPES = ("float64", "float32", "bfloat16", "float16")


def main(argv: Sequence[str] | None = None, prog: str = "python -m manual_bp.verify") -> int:
    """Run the command. Returns the exit status.

    0: nothing found, 1: a finding, 2: wrong usage, 3: no finding, but some checks could not run.
    """
    parser = _parser(prog)
    args = parser.parse_args(argv)
    if args.kinds:
        width = max(map(len, KINDS))
        print("\n".join(f"{kind:<{width}}  {meaning}" for kind, meaning in KINDS.items()))
        return 0
    if args.watch is not None:
        return _watched(parser, args)
    for flag in ("inputs", "reference"):
        if args.function is None and getattr(args, flag) is not None:
            print(f"{prog}: --{flag} needs a MODULE_OR_FILE:NAME to go with it", file=sys.stderr)
            return 2
    # the package's own operations crash nowhere; somebody's may
    if args.function:
        return guarded(partial(_checked, parser, args), partial(_crashed, args.json), prog)
    return _checked(parser, args, lambda report, probe: None)


def _checked(parser: argparse.ArgumentParser, args: argparse.Namespace, tell: Tell) -> int:
    status = 2
    with contextlib.suppress(BrokenPipeError), console.kept(alone=args.json) as out:
        try:
            reports = [_somebodys(args, tell)] if args.function else _ours(args)
        except (ValueError, TypeError) as error:
            print(f"{parser.prog}: {escaped(error)}", file=sys.stderr)
            return status
        # known before anything is printed: under `| head` nobody reads on
        findings, ok = any(report.findings for report in reports), all(r.ok for r in reports)
        status = 1 if findings else 0 if ok else 3
        if args.json:
            parts = [json.loads(report.to_json()) for report in reports]
            text = json.dumps(parts[0] if args.function else parts, indent=2, ensure_ascii=False)
        else:
            colour = colour_wanted(out)
            text = "\n\n".join(report.render(colour=colour) for report in reports)
        print(text, file=out, flush=True)
    return status


def _crashed(as_json: bool, report: str, how: str) -> int:
    """Print the `report` so far, with the end of the process as its first finding."""
    finding = Finding("crash", "the whole process", f"it {how}")
    if as_json:
        told = json.loads(report) if report else {}
        findings = [asdict(finding), *told.get("findings", [])]
        print(json.dumps({**told, "ok": False, "findings": findings}, indent=2))
    else:
        lines = [report] if report else []
        detail = escaped(finding.detail)
        print("\n".join([*lines, "", f"  {finding.kind}  {finding.tensor}", f"    {detail}"]))
    return 1


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Check the gradient of a Function, a function or a module, and name the fault. "
        "Without an argument: linear, sigmoid and every mean squared error of this package.",
        epilog="Example: python -m manual_bp.verify my_ops.py:MyLinear --inputs "
        '"randn(4,3) randn(5,3) randn(5)". '
        "Inputs are randn(…), rand(…), ones(…), zeros(…), randint(high, …), arange(n), bool(…), "
        "tensor(0, 1.5, -2), psd(n) (positive definite), probabilities(…), sorted(…), unit(…) "
        "(rows of length 1), rand(5)*6-3 (scaled and shifted), [lists], (tuples), numbers, None, "
        "True, False and "
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
        "--seed", type=_seed, default=0, help="of inputs and cotangents (default: %(default)s)"
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="a gradient that may be meant, such as a straight-through one, is a finding",
    )
    parser.add_argument(
        "--skip", metavar="PROBE,…", default="", help="probes to leave out, such as jvp,vmap"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--watch",
        nargs=argparse.REMAINDER,
        metavar="script.py args…",
        help="run a program (or -m MODULE), then check every Function that ran in it, on what it "
        "was given; the last option",
    )
    parser.add_argument(
        "--kinds", action="store_true", help="list what a finding can be called, and exit"
    )
    return parser


def _seed(text: str) -> int:
    if not text.isdecimal() or len(text) > 19 or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 2**63 - 1")
    return int(text)


def _watched(parser: argparse.ArgumentParser, args: argparse.Namespace) -> int:
    program = args.watch
    if not program or args.function or (program[0] != "-m" and not Path(program[0]).is_file()):
        seen = " ".join(program) or "nothing"
        print(
            f"{parser.prog}: --watch {seen}: expected script.py args… or -m MODULE args…, "
            "and no MODULE_OR_FILE:NAME before it",
            file=sys.stderr,
        )
        return 2
    options = {"seed": args.seed, "strict": args.strict, "skip": _skipped(args)}

    def work(tell: Tell) -> int:
        # Only here: it is imported only when used.
        from manual_bp.verify.program import run_and_check

        tell("", "the program")
        return run_and_check(program, json=args.json, **options)

    return guarded(work, partial(_crashed, args.json), parser.prog)


def _somebodys(args: argparse.Namespace, tell: Tell) -> Report:
    # torch takes a second to import: --help and wrong usage do without it
    import torch

    from manual_bp.verify import check
    from manual_bp.verify.inputs import parse_inputs
    from manual_bp.verify.load import load

    if ":" not in args.function:
        load(args.function)  # says what is missing, and the names there are
    if args.inputs is None:
        raise ValueError(
            f'{args.function}: no inputs given: add --inputs "randn(4,3) …", '
            "the arguments of one call"
        )
    inputs = parse_inputs(args.inputs, getattr(torch, args.dtype), args.seed)
    tell("", f"the import of {args.function}")
    function = load(args.function)
    if isinstance(function, type) and issubclass(function, torch.nn.Module):
        raise ValueError(f"{args.function} is a module class: name an instance of it")
    reference = load(args.reference) if args.reference else None
    return check(
        function,
        inputs,
        reference=reference,
        compile=args.compile,
        seed=args.seed,
        strict=args.strict,
        skip=_skipped(args),
        tell=lambda report, probe: tell(report.to_json() if args.json else str(report), probe),
    )


def _skipped(args: argparse.Namespace) -> list[str]:
    return [name for name in args.skip.split(",") if name]


def _ours(args: argparse.Namespace) -> list[Report]:
    import torch

    # Only here: the checker knows nothing of the package's own operations.
    from manual_bp.own_operations import PROMISED, operations
    from manual_bp.verify import check
    from manual_bp.verify.inputs import parse_inputs

    reports = []
    for own in operations():
        values = parse_inputs(own.inputs, getattr(torch, args.dtype), args.seed)
        report = check(
            own.function, values, reference=own.reference, compile=args.compile, seed=args.seed
        )
        missing = [
            Finding(kind, "forward", f"{transform} is {report.checks.get(transform)}")
            for transform, kind in PROMISED.items()
            if not report.findings and report.checks.get(transform) != "ok"
        ]
        reports.append(replace(report, name=own.name, findings=[*report.findings, *missing]))
    return reports


if __name__ == "__main__":
    sys.exit(console.run(main, "python -m manual_bp.verify"))
