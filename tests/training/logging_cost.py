"""What logging costs: epochs of a run as train.py makes them, against epochs that only train,
validate and save.

`python -m tests.training.logging_cost` prints a line an engine. Both kinds of epoch take turns, on
networks that start from the same weights; medians of the epochs.
"""

from __future__ import annotations

import contextlib
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from manual_bp import direct
from manual_bp.training import data, machine, network
from manual_bp.training.evaluation import evaluate
from manual_bp.training.options import parse
from manual_bp.training.report import Report
from manual_bp.training.run import Run
from manual_bp.training.run_folder import RunFolder
from manual_bp.training.trouble import Watch
from manual_bp.training.world import World

EPOCHS = 30
FLAGS = [
    "--dataset",
    "mnist",
    "--hidden",
    "128",
    "--batch-size",
    "64",
    "--lr",
    "1",
    "--epochs",
    str(EPOCHS),
]


def bare_steps(run: Run, model: nn.Sequential) -> Callable[[], None]:
    """An epoch's shuffle and steps, and nothing beside them: no cost, no norm is looked at."""
    part = run.parts.train
    if run.engine_name == "direct":
        trainer = direct.Trainer(
            model, reduction=run.options.cost, lr=run.lr, batch_size=run.batch_size
        )

        def direct_steps() -> None:
            order = torch.randperm(len(part))
            trainer.run(part.images, part.labels, order, pixel_scale=data.PIXEL_SCALE, norms=False)

        return direct_steps
    optimizer = torch.optim.SGD(model.parameters(), lr=run.lr)
    cost = network.criterion(run.options.impl, run.options.cost)
    targets = torch.eye(data.CLASSES)

    def autograd_steps() -> None:
        for rows in torch.randperm(len(part)).split(run.batch_size):
            x = part.images[rows].to(torch.float32) * data.PIXEL_SCALE
            y = targets[part.labels[rows]]
            optimizer.zero_grad(set_to_none=True)
            cost(model(x), y).backward()
            optimizer.step()

    return autograd_steps


def measure(engine: str, folder: Path) -> str:
    options, given = parse([*FLAGS, "--engine", engine, "--logdir", str(folder)])
    run = Run(options, given, torch.device("cpu"), "as asked", World())
    bare = network.build(options, run.dataset.side**2, torch.device("cpu"))
    steps = bare_steps(run, bare)
    elsewhere = RunFolder(folder / "bare")
    elsewhere.path.mkdir()
    seconds: dict[str, list[float]] = {"logged": [], "bare": [], "steps": []}

    def bare_epoch(epoch: int) -> None:
        start = time.perf_counter()
        steps()
        seconds["steps"].append(time.perf_counter() - start)
        evaluate(bare, run.parts.validation, options.cost, run.dtype)
        elsewhere.write_checkpoint(
            run.checkpoint(epoch, {"model": bare.state_dict(), "engine": {}})
        )
        seconds["bare"].append(time.perf_counter() - start)

    with (
        machine.configured(run.threads, deterministic=False),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        run.folder = RunFolder.create(
            folder, "logged", "", run.config(), run.checkpoint(0, run.state())
        )
        report = Report(run.folder, run.config(), options, run.model, run.parts, EPOCHS, 1)
        watch = Watch(options, run.lr, run.steps, run.dataset.train.labels)
        for epoch in range(1, EPOCHS + 1):
            bare_epoch(epoch)
            start = time.perf_counter()
            run.one_epoch(epoch, watch, report)
            seconds["logged"].append(time.perf_counter() - start)
        report.close()
    logged, without, alone = (
        1e3 * statistics.median(seconds[name]) for name in ("logged", "bare", "steps")
    )
    share = (
        statistics.median(b / a for a, b in zip(seconds["bare"], seconds["logged"], strict=True))
        - 1
    )
    return (
        f"{engine:<9} epoch {logged:6.1f} ms with all logging, {without:6.1f} ms without, steps "
        f"{alone:.1f} ms: "
        f"{100 * share:.1f} % more ({100 * (logged - without) / alone:.1f} % of the steps)"
    )


def main() -> None:
    print(f"784-128-10, batch 64, {EPOCHS} epochs, histograms off; torch {torch.__version__}")
    for engine in sys.argv[1:] or ("direct", "autograd"):
        with tempfile.TemporaryDirectory() as folder:
            print(measure(engine, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
