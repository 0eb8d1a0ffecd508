"""What a run shows at the terminal: what it is, an aligned row an epoch, and a bar within one."""

from __future__ import annotations

import string
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from manual_bp.training.dataset import Dataset
from manual_bp.training.network import EQUAL_WARNING
from manual_bp.training.plan import Plan

HEADER = "epoch  cost train   validation   accuracy train   validation   gradient norm   seconds"
_LINE = (
    "{epoch:>5}  {cost/train:>10.5f}   {cost/validation:>10.5f}   {accuracy/train:>12.2f} %"
    "   {accuracy/validation:>8.2f} %   {grad_norm/total:>13.4g}   {time/epoch_seconds:>7.2f}"
)
# What a line shows of a row. `parse` gives (text, name, format, conversion) of each field.
FIGURES = tuple(tag for _, tag, _, _ in string.Formatter().parse(_LINE) if tag is not None)


def introduction(
    plan: Plan, dataset: Dataset, device_why: str, planned: Plan | None = None, done: int = 0
) -> list[str]:
    """What a run is about to do, on what data, and where.

    A resumed run had the plan `planned`, of which it has `done` epochs behind it.
    """
    train, validation, test = (
        len(part) for part in (dataset.train, dataset.validation, dataset.test)
    )
    through = {
        ("manual", "autograd"): "hand-derived Functions through autograd",
        ("manual", "direct"): "the same algorithm in place, by the direct engine",
        ("builtin", "autograd"): "torch.nn's own layers",
    }[plan.impl, plan.engine]
    epochs = f"{plan.epochs} epoch{'s' * (plan.epochs != 1)}"
    batch = "the full batch" if plan.steps == 1 else f"batches of {plan.batch_size}"
    processes = f", {plan.processes} processes" if plan.processes > 1 else ""
    if plan.threads_asked is not None:
        why = "as asked"
    else:
        why = "more would not pay" if plan.threads == 1 else "the steps are large"
    threads = f"threads: {plan.threads} ({why})"
    lines = [
        f"data     {dataset.source} ({train:,} training, {validation:,} validation, {test:,} test "
        f"images)",
        f"network  {plan.network}, {plan.output} output, cost {plan.cost}",
        f"engine   {plan.engine}: {through}",
        f"descent  {epochs}, {batch}, η = {plan.lr:g} {plan.lr_schedule}",
        f"device   {plan.device} ({device_why}), {threads}{processes}",
    ]
    if planned is not None and 0 < done < plan.epochs:
        (before,), (after,) = (p.rates(done * p.steps, 1) for p in (planned, plan))
        if before != after:
            lines.append(
                f"warning  --epochs {plan.epochs} stretches the cosine that was planned for "
                f"{planned.epochs}: η goes on at {after:.3g}, where {before:.3g} was planned"
            )
    if dataset.notice:
        lines.insert(0, f"NOTICE   {dataset.notice}")
    if plan.init == "equal":
        lines.append(f"warning  {EQUAL_WARNING}")
    return lines


def line(row: dict[str, Any]) -> str:
    """A row of metrics.jsonl under HEADER."""
    percent = {tag: 100 * row[tag] for tag in FIGURES if tag.startswith("accuracy/")}
    return _LINE.format_map(row | percent)


@contextmanager
def progress(title: str, steps: int, *, shown: bool) -> Iterator[Callable[[int], object]]:
    """A function that takes the number of steps done. It moves a bar where there is a terminal."""
    if not (shown and sys.stderr is not None and sys.stderr.isatty()):
        yield lambda _: None
        return
    from tqdm import tqdm

    with tqdm(total=steps, desc=title, unit="step", leave=False, disable=None) as bar:
        yield bar.update
