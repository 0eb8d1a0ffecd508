"""What a run shows at the terminal: what it is, one aligned row an epoch, and a bar while an epoch
lasts.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from manual_bp.training.initialisation import EQUAL_WARNING

if TYPE_CHECKING:
    from manual_bp.training.run import Run

HEADER = "epoch  cost train   validation   accuracy train   validation   gradient norm   seconds"


def introduction(run: Run) -> list[str]:
    """What a run is about to do, on what data, and where."""
    options, dataset = run.options, run.dataset
    train, validation, test = (
        len(part) for part in (dataset.train, dataset.validation, dataset.test)
    )
    layers = "hand-derived" if options.impl == "manual" else "torch.nn"
    epochs = f"{run.epochs} epoch{'s' * (run.epochs != 1)}"
    batch = "the full batch" if run.steps == 1 else f"batches of {run.batch_size}"
    processes = f", {run.world.size} processes" if run.world.size > 1 else ""
    lines = [
        f"data     {dataset.source} ({train:,} training, {validation:,} validation, {test:,} test "
        f"images)",
        f"network  {'-'.join(map(str, run.sizes))}, {layers} layers, {options.output} output, cost "
        f"{options.cost}, "
        f"{run.engine_name} engine",
        f"descent  {epochs}, {batch}, η = {run.lr:g} {options.lr_schedule}",
        f"device   {run.device} ({run.device_why}), threads: {torch.get_num_threads()}{processes}",
    ]
    if dataset.notice:
        lines.insert(0, f"NOTICE   {dataset.notice}")
    if options.init == "equal":
        lines.append(f"warning  {EQUAL_WARNING}")
    return lines


def line(row: dict[str, Any]) -> str:
    """A row of metrics.jsonl under HEADER."""
    return (
        f"{row['epoch']:>5}  {row['cost/train']:>10.5f}   {row['cost/validation']:>10.5f}"
        f"   {100 * row['accuracy/train']:>12.2f} %   {100 * row['accuracy/validation']:>8.2f} %"
        f"   {row['grad_norm/total']:>13.4g}   {row['time/epoch_seconds']:>7.2f}"
    )


@contextmanager
def progress(title: str, steps: int, *, shown: bool) -> Iterator[Callable[[int], object]]:
    """A function that takes the number of steps done; it moves a bar on a terminal, and does
    nothing elsewhere.
    """
    if not (shown and sys.stderr is not None and sys.stderr.isatty()):
        yield lambda _: None
        return
    from tqdm import tqdm

    with tqdm(total=steps, desc=title, unit="step", leave=False, disable=None) as bar:
        yield bar.update
