"""`python -m manual_bp.bench`: time our training beside what a user would pick instead."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from manual_bp import console
from manual_bp.bench.configuration import NAMES, Configuration
from manual_bp.extras import missing

if TYPE_CHECKING:
    from manual_bp.bench.measure import Table

CONFIGURATIONS = (
    "784-30-10:10",
    "784-300-10:16",
    "784-128-10:64",
    "784-512-512-10:1024",
    "784-1024-1024-1024-10:4096",
    "784-128-10:64:dense",
    "784-30-10:10:linear",
)
PICTURE_FORMATS = ("png", "svg", "pdf", "jpg")


def main(argv: Sequence[str] | None = None, prog: str = "python -m manual_bp.bench") -> int:
    """Measure, print, write. Returns the exit status: 1 if a contender reached another cost."""
    args = _parser(prog).parse_args(argv)
    needs = ["numpy", "threadpoolctl", *["matplotlib"] * bool(args.picture)]
    if lacking := missing(*needs, extra="bench"):
        print(f"{prog}: error: {lacking}", file=sys.stderr)
        return 1

    # torch takes a second to import: --help and wrong usage do without it
    import torch

    from manual_bp.bench import memory, problem, report
    from manual_bp.bench.measure import compare

    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print(
            "manual_bp.bench: --device cuda, but there is no CUDA device here; use --device cpu",
            file=sys.stderr,
        )
        return 1
    if device.index:  # streams, graphs and figures of memory are those of the current device
        torch.cuda.set_device(device)
    # a first run compiles, whatever ran here before
    os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"
    torch.set_float32_matmul_precision(args.float32)
    images, labels, source = problem.load_data()
    print(f"{report.machine(device)}; {source}; every cost checked against float64")
    tables: list[Table] = []
    for configuration in args.configurations:
        threads = args.threads or configuration.default_threads(device.type)
        steps = args.steps or configuration.default_steps(device.type)
        task = problem.make(configuration, (images, labels), steps, device)
        table = compare(task, args.contenders, args.repeats, threads, _progress)
        for result in table.results if args.memory else []:
            _progress(f"{configuration}: memory of {result.name}")
            if result.median is not None:
                result.peak_memory = memory.of(task, result.contender, threads)
        _progress("")
        print("\n" + report.text(table))
        tables.append(table)
        if args.json:  # after each table: a later one may fail
            report.write_json(args.json, tables, source, device)
    if args.picture:
        report.write_picture(args.picture, tables, device)
    wrong = [
        r.name for table in tables for r in table.results if r.cost is not None and r.median is None
    ]
    return 1 if wrong else 0


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    parser.add_argument(
        "--configurations",
        nargs="+",
        type=_configuration,
        default=[Configuration.parse(text) for text in CONFIGURATIONS],
        metavar="SIZES:BATCH",
        help="such as 784-128-10:64, with :linear for a linear output, "
        ":dense for inputs without zeros "
        f"(default: {' '.join(CONFIGURATIONS)})",
    )
    parser.add_argument(
        "--contenders",
        nargs="+",
        choices=NAMES,
        default=list(NAMES),
        metavar="NAME",
        help="of %(choices)s (default: all)",
    )
    parser.add_argument(
        "--repeats",
        type=_positive,
        default=15,
        help="rounds of one run of every contender (default: %(default)s)",
    )
    parser.add_argument(
        "--steps",
        type=_positive,
        help="steps a run (default: about 20 GFLOP, at most 1,000; on CUDA 5 TFLOP, 40 to 10,000)",
    )
    parser.add_argument(
        "--threads",
        type=_positive,
        help="for every contender (default: 1 on a CPU in batches below 32, else all cores)",
    )
    parser.add_argument(
        "--device", type=_device, default="cpu", help="cpu or cuda (default: %(default)s)"
    )
    parser.add_argument(
        "--float32",
        choices=("highest", "high"),
        default="highest",
        help="precision of float32 products, for all alike; high is TF32 on CUDA (default: "
        "%(default)s)",
    )
    parser.add_argument(
        "--memory",
        action="store_true",
        help="measure peak memory too, each contender in a process of its own",
    )
    parser.add_argument("--json", type=_file, metavar="FILE", help="write everything measured")
    parser.add_argument(
        "--picture",
        type=_picture,
        metavar="FILE",
        help="draw the medians; the format is that of the name",
    )
    return parser


def _configuration(text: str) -> Configuration:
    try:
        return Configuration.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _device(text: str) -> str:
    if not re.fullmatch(r"cpu|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"{text!r}: cpu, cuda or cuda:N is needed")
    return text


def _file(text: str) -> Path:
    """Where a result can be written: checked before anything is measured."""
    path = Path(text)
    if not path.parent.is_dir() or path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r}: a file in a folder that exists is needed")
    return path


def _picture(text: str) -> Path:
    path = _file(text)
    if path.suffix.lower().lstrip(".") not in PICTURE_FORMATS:
        raise argparse.ArgumentTypeError(
            f"{text!r}: a name that ends in one of {', '.join(PICTURE_FORMATS)} is needed"
        )
    return path


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number of at least 1 is needed")
    return int(text)


def _progress(message: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{message}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(console.run(main, "python -m manual_bp.bench"))
