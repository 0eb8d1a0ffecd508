"""`python -m tests.cuda --write manual_bp/direct/README.md`: measure on a GPU, and say so there.

Runs the benchmark, the matrix's CUDA rows and `pytest -m cuda`: about five minutes on one GPU.
Without `--write` the figures are printed.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch

from tests.correctness.readme import write

ROOT = Path(__file__).parents[2]
CONFIGURATIONS = ("784-30-10:10", "784-128-10:64", "784-512-512-10:1024")
CONFIGURATIONS += ("784-1024-1024-1024-10:4096",)
CONTENDERS = ("direct", "direct-norms", "direct-torch", "functions", "torch", "torch-fused")
CONTENDERS += ("compiled", "compiled-max", "cuda-graph", "jax", "products")
NOT_YET = "Not measured on a GPU yet."


def bench() -> dict[str, Any]:
    """The benchmark's JSON."""
    from manual_bp.bench.__main__ import main

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bench.json"
        flags = ["--device", "cuda", "--repeats", "5", "--json", str(file)]
        main([*flags, "--configurations", *CONFIGURATIONS, "--contenders", *CONTENDERS])
        found: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return found


def cells() -> list[list[str]]:
    """The matrix's CUDA rows: the name of each, and what each operation gave."""
    from tests.correctness import matrix

    head = ["", *(op.name for op in matrix.ROWS)]
    columns = [column for column in matrix.COLUMNS if column.needs_cuda]
    return [head, *([c.name, *(matrix.cell(op, c) for op in matrix.ROWS)] for c in columns)]


def tests() -> str:
    """The last line of `pytest -m cuda`, such as "80 passed in 40.0s"."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "cuda", "-n", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    return done.stdout.strip().splitlines()[-1].strip("= ")


def markdown(found: dict[str, Any], rows: list[list[str]], tested: str) -> str:
    """What stands between the markers of "cuda"."""
    versions = [
        f"{name} {found[name]}" for name in ("driver", "CUDA", "torch", "Triton", "float32")
    ]
    day = found["date"].split()[0]
    lines = [
        f"Measured {day} on {found['device']}: {', '.join(versions)}, commit {found['commit']}.",
        "",
        "| µs a step | " + " | ".join(table["configuration"] for table in found["tables"]) + " |",
        "|---|" + "---:|" * len(found["tables"]),
    ]
    for column in zip(*(table["results"] for table in found["tables"]), strict=True):
        steps = [table["steps"] for table in found["tables"]]
        figures = [
            f"{result['median_seconds'] / n * 1e6:.3g}" if result["median_seconds"] else "–"
            for result, n in zip(column, steps, strict=True)
        ]
        lines.append(f"| {column[0]['name']} | " + " | ".join(figures) + " |")
    lines += ["", f"`python -m pytest -m cuda`: {tested}.", ""]
    for i, row in enumerate(rows):
        lines.append("| " + " | ".join(row) + " |")
        if i == 0:
            lines.append("|---|" + "---|" * (len(row) - 1))
    return "\n".join(lines)


def understood(block: str) -> dict[str, str] | None:
    """Date, device and commit of a block; None where nothing was measured.

    Raises:
        ValueError: a block that `markdown` did not write.
    """
    if block == NOT_YET:
        return None
    head, *lines = block.splitlines()
    seen = re.fullmatch(
        r"Measured (?P<date>\d{4}-\d\d-\d\d) on (?P<device>[^:]+): .*, commit (?P<commit>\w{7,})\.",
        head,
    )
    rows = [line.split(" | ")[1:] for line in lines if line.startswith("| direct |")]
    if seen is None or len(rows) != 1 or "pytest -m cuda" not in block:
        raise ValueError(f"not a block of python -m tests.cuda: {head!r}")
    [float(figure.strip(" |")) for figure in rows[0]]
    return seen.groupdict()


def main() -> int:
    if not torch.cuda.is_available():
        print("python -m tests.cuda: no CUDA device: nothing was measured", file=sys.stderr)
        return 1
    warnings.simplefilter("ignore")
    write("cuda", markdown(bench(), cells(), tests()), sys.argv[1:])
    return 0


if __name__ == "__main__":
    sys.exit(main())
