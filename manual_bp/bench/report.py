"""The comparison as a table in the terminal, as JSON, and as a picture."""

from __future__ import annotations

import json
import math
import platform
import subprocess
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from manual_bp.bench.measure import Result, Table


def machine(device: torch.device) -> str:
    """The machine that gave the figures, in words."""
    found = environment(device)
    return ", ".join(
        f"{name} {value}".removeprefix("device ")
        for name, value in found.items()
        if value is not None and name not in ("date", "commit")
    )


def environment(device: torch.device) -> dict[str, str | None]:
    """What the figures depend on, beside the code; and when, and which code."""
    on_cuda = device.type == "cuda"
    precision = torch.get_float32_matmul_precision()
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "device": torch.cuda.get_device_name(device) if on_cuda else f"{platform.machine()} CPU",
        "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
        if on_cuda
        else None,
        "CUDA": torch.version.cuda if on_cuda else None,
        "torch": torch.__version__,
        "Triton": version("triton") if on_cuda and find_spec("triton") else None,
        "float32": precision,
        "commit": _output("git", "rev-parse", "--short", "HEAD"),
    }


def _output(*command: str) -> str | None:
    """The first line that a command prints about this project's folder, or None."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
            cwd=Path(__file__).parent,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(done.stdout.splitlines()), None)


def text(table: Table) -> str:
    """One row a contender.

    "speedup" compares the contender with torch.nn eager; "direct is" compares direct with the
    contender.
    """
    reference = "direct" if table.median("direct") is not None else "direct-torch"
    header = (
        f"{table.configuration}   {table.steps} steps in {_rounds(table)} rounds, {table.threads} "
        f"thread{'s' * (table.threads > 1)}"
    )
    rate = table.flops_per_second
    if rate is not None:
        header += f", matrix products at {rate / 1e9:.0f} GFLOP/s"
    lines = [
        header,
        f"  {'':<22} {'s/epoch':>9} {'spread':>7} {'µs/step':>9} {'speedup':>9} {'direct is':>10} "
        f"{'× products':>11} "
        f"{'first run':>10} {'memory':>9}",
    ]
    for result in table.results:
        if result.median is None:
            lines.append(f"  {result.name:<22} {result.note}")
            continue
        lines.append(
            f"  {result.name:<22} {_figure(table.per_epoch(result.median)):>9} "
            f"{_percent(result.spread):>7} "
            f"{_figure(result.median / table.steps * 1e6):>9} "
            f"{_times(table.ratio('torch', result.contender)):>9} "
            f"{_times(table.ratio(result.contender, reference)):>10} "
            f"{_times(table.ratio(result.contender, 'products')):>11} "
            f"{result.first_seconds:8.2f} s {_megabytes(result):>9}"
        )
    return "\n".join(lines)


def as_json(tables: list[Table], data: str, device: torch.device) -> dict[str, Any]:
    """Everything measured, one entry a configuration."""
    return {
        "machine": machine(device),
        **environment(device),
        "data": data,
        "tables": [
            {
                "configuration": str(table.configuration),
                "steps": table.steps,
                "threads": table.threads,
                "expected_cost": table.expected_cost,
                "flops_per_step": table.configuration.flops,
                "products_flops_per_second": table.flops_per_second,
                "results": [
                    asdict(result)
                    | {
                        "median_seconds": result.median,
                        "spread": result.spread,
                        "time_over": {
                            reference: table.ratio(result.contender, reference)
                            for reference in ("direct", "direct-torch", "torch", "products")
                        },
                        "seconds_per_epoch": None
                        if result.median is None
                        else table.per_epoch(result.median),
                    }
                    for result in table.results
                ],
            }
            for table in tables
        ],
    }


def write_json(path: Path, tables: list[Table], data: str, device: torch.device) -> None:
    path.write_text(json.dumps(as_json(tables, data, device), indent=2) + "\n")


def write_picture(path: Path, tables: list[Table], device: torch.device) -> None:
    """Seconds an epoch, one panel a configuration."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6 * len(tables), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for i, table in enumerate(tables):
        axes = figure.add_subplot(1, len(tables), i + 1)
        measured = [result for result in table.results if result.median is not None]
        seconds = [table.per_epoch(result.median or 0.0) for result in measured]
        colours = [
            "#1f5fa8" if result.contender.startswith("direct") else "#9aa5b1" for result in measured
        ]
        bars = axes.barh([result.name for result in measured], seconds, color=colours)
        axes.bar_label(bars, fmt="%.3g", padding=3, fontsize=8)
        axes.invert_yaxis()
        axes.margins(x=0.18)
        axes.set_title(
            f"{table.configuration}, {table.threads} thread{'s' * (table.threads > 1)}", fontsize=10
        )
        axes.set_xlabel("seconds per 60,000 examples")
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(machine(device), fontsize=9)
    figure.savefig(path, dpi=150)


def _rounds(table: Table) -> int:
    return max((len(result.seconds) for result in table.results), default=0)


def _figure(value: float) -> str:
    """Three significant digits."""
    digits = 2 - math.floor(math.log10(value)) if value > 0 else 0
    return f"{value:.{max(0, digits)}f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"±{value:.0%}"


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f} ×"


def _megabytes(result: Result) -> str:
    return "" if result.peak_memory is None else f"{result.peak_memory / 1e6:.1f} MB"
