"""What a run shows at the terminal: one aligned row an epoch, and a bar while an epoch lasts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

HEADER = "epoch  cost train   validation   accuracy train   validation   gradient norm   seconds"


def line(row: dict[str, Any]) -> str:
    """A row of metrics.jsonl under HEADER."""
    return (
        f"{row['epoch']:>5}  {row['cost/train']:>10.5f}   {row['cost/validation']:>10.5f}"
        f"   {100 * row['accuracy/train']:>12.2f} %   {100 * row['accuracy/validation']:>8.2f} %"
        f"   {row['grad_norm/total']:>13.4g}   {row['time/epoch_seconds']:>7.2f}"
    )


@contextmanager
def progress(title: str, steps: int, *, shown: bool) -> Iterator[Callable[[int], object]]:
    """A function that takes the number of steps done; it moves a bar on a terminal, and does nothing elsewhere."""
    if not (shown and sys.stderr is not None and sys.stderr.isatty()):
        yield lambda _: None
        return
    from tqdm import tqdm

    with tqdm(total=steps, desc=title, unit="step", leave=False, disable=None) as bar:
        yield bar.update
