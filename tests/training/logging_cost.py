"""What logging costs: whole epochs of a run against epochs that train, validate and save alone.

`python -m tests.training.logging_cost` prints a line an engine. The two kinds of epoch take turns,
on networks that start from the same weights. The figures are medians over the epochs.
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

from manual_bp import backprop, direct
from manual_bp.training import data, machine, network
from manual_bp.training.dashboard import Dashboard
from manual_bp.training.measures import evaluate
from manual_bp.training.options import parse
from manual_bp.training.plan import settle
from manual_bp.training.run import Run
from manual_bp.training.run_folder import RunFolder
from manual_bp.training.trouble import Watch
from manual_bp.training.world import World

EPOCHS = 30
FLAGS = f"--dataset mnist --hidden 128 --batch-size 64 --lr 1 --epochs {EPOCHS}".split()


def bare_steps(run: Run, model: nn.Sequential) -> Callable[[], None]:
    """An epoch's shuffle and steps alone: no cost and no norm is measured."""
    part = run.parts.train
    plan = run.plan
    if plan.engine == "direct":
        trainer = direct.Trainer(model, reduction=plan.cost, lr=plan.lr, batch_size=plan.batch_size)

        def direct_steps() -> None:
            order = torch.randperm(len(part))
            trainer.run(part.images, part.labels, order, pixel_scale=data.PIXEL_SCALE, norms=False)

        return direct_steps
    optimizer = torch.optim.SGD(model.parameters(), lr=plan.lr)
    cost = network.criterion(plan.impl, plan.cost)
    targets = torch.eye(10)

    def autograd_steps() -> None:
        for rows in torch.randperm(len(part)).split(plan.batch_size):
            x = part.images[rows].to(torch.float32) * data.PIXEL_SCALE
            y = targets[part.labels[rows]]
            optimizer.zero_grad(set_to_none=True)
            cost(model(x), y).backward()
            optimizer.step()

    return autograd_steps


def measure(engine: str, folder: Path) -> str:
    options, _ = parse([*FLAGS, "--engine", engine])
    mnist, cpu = data.load("mnist"), torch.device("cpu")
    run = Run(settle(options, mnist, cpu, World(), None), mnist, World(), None)
    bare = network.build(run.plan, cpu)
    steps = bare_steps(run, bare)
    elsewhere = RunFolder(folder / "bare")
    elsewhere.path.mkdir()
    seconds: dict[str, list[float]] = {"logged": [], "bare": [], "steps": []}

    def bare_epoch(epoch: int) -> None:
        start = time.perf_counter()
        steps()
        seconds["steps"].append(time.perf_counter() - start)
        evaluate(bare, run.parts.validation, run.plan.cost, run.dtype)
        elsewhere.write_checkpoint(
            run.checkpoint(epoch, {"model": bare.state_dict(), "engine": {}})
        )
        seconds["bare"].append(time.perf_counter() - start)

    with (
        machine.configured(run.plan.threads, deterministic=False),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        run.folder = RunFolder.create(
            folder, "logged", "", run.config(), run.checkpoint(0, run.state())
        )
        dashboard = Dashboard(run.folder, run.plan, run.model, run.parts, 1)
        watch = Watch(run.plan, backprop.read(run.model), run.dataset.train)
        for epoch in range(1, EPOCHS + 1):
            bare_epoch(epoch)
            start = time.perf_counter()
            run.one_epoch(epoch, watch, dashboard)
            seconds["logged"].append(time.perf_counter() - start)
        dashboard.close()
    logged, without, alone = (1e3 * statistics.median(times) for times in seconds.values())
    ratios = [b / a for a, b in zip(seconds["bare"], seconds["logged"], strict=True)]
    return (
        f"{engine:<9} epoch {logged:6.1f} ms with all logging, {without:6.1f} ms without, steps "
        f"{alone:.1f} ms: {100 * (statistics.median(ratios) - 1):.1f} % more "
        f"({100 * (logged - without) / alone:.1f} % of the steps)"
    )


def main() -> None:
    print(f"784-128-10, batch 64, {EPOCHS} epochs, histograms off; torch {torch.__version__}")
    for engine in sys.argv[1:] or ("direct", "autograd"):
        with tempfile.TemporaryDirectory() as folder:
            print(measure(engine, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
