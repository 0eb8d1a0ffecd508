"""A whole run: load the data, build the network, train epoch by epoch, log, save, and test once at
the end.
"""

from __future__ import annotations

import math
import platform
import shlex
import time
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from manual_bp.direct.statistics import wide
from manual_bp.direct.transfer import to_device, to_host
from manual_bp.training import (
    checkpoint,
    data,
    engines,
    live_check,
    machine,
    network,
    probe,
    terminal,
)
from manual_bp.training.augment import augment
from manual_bp.training.engine import EpochStatistics
from manual_bp.training.errors import UserError
from manual_bp.training.evaluation import evaluate
from manual_bp.training.options import Options
from manual_bp.training.recipe import learning_rate, recipe
from manual_bp.training.report import Report
from manual_bp.training.run_folder import RunFolder
from manual_bp.training.trouble import Watch
from manual_bp.training.world import World


@dataclass(frozen=True)
class Result:
    """What `main` returns."""

    folder: Path | None  # None after --dry-run
    metrics: list[dict[str, Any]]  # one row an epoch, and the last with the test result
    test_cost: float
    test_accuracy: float  # a share, 0 to 1
    model: nn.Sequential


class Run:
    """One run of the command line, new or resumed."""

    def __init__(
        self,
        options: Options,
        given: set[str],
        device: torch.device,
        device_why: str,
        processes: World,
    ) -> None:
        self.world = processes
        self.device, self.device_why = device, device_why
        self.folder: RunFolder | None = None
        self.rows: list[dict[str, Any]] = []
        self.first_epoch = 1
        state = None
        if options.resume is not None:
            path = checkpoint.find(options.resume, Path(options.logdir))
            state = checkpoint.read(path)
            options = checkpoint.resumed_options(options, given, state, path)
            self.folder = RunFolder(path.parent)
        self.dataset = self._load(options)
        defaults = recipe(self.dataset.name)
        examples = len(self.dataset.train)
        asked = defaults.batch_size if options.batch_size is None else options.batch_size
        # With several processes a batch is what all of them take together, whoever continues the
        # run.
        self.batch_size = (
            examples if asked == "full" else min(int(asked) * self.world.size, examples)
        )
        if state is not None:
            self.batch_size = state["batch_size"]
        self.options = options
        self.epochs = defaults.epochs if options.epochs is None else options.epochs
        lr: float | None = options.lr if state is None else state["lr"]
        if lr is None:
            width = [self.dataset.side**2, *options.hidden][-1]
            lr = learning_rate(
                defaults, options.cost, width, options.output, self.batch_size, options.momentum
            )
        self.lr = lr
        self.steps = math.ceil(examples / self.batch_size)
        self.sizes = [self.dataset.side**2, *options.hidden, data.CLASSES]
        self.threads = machine.choose_threads(options.threads, self.batch_size, self.sizes)
        self.dtype: torch.dtype = getattr(torch, options.dtype)
        if self.device.type == "mps" and options.dtype == "float64":
            raise UserError(
                "--dtype float64 on mps: Apple's GPU has no float64; use float32, or --device cpu"
            )
        self.model = network.build(options, self.dataset.side**2, self.device)
        self.parts = self.dataset.to(self.device)
        self.engine_name = engines.choose(options)
        self.engine = engines.build(
            self.engine_name, self.model, options, self.batch_size, self.world
        )
        self.shuffle = torch.Generator().manual_seed(options.seed)
        if state is not None:
            self._restore(state, path)

    def go(self) -> Result:
        if self.world.writes:
            print("\n".join(terminal.introduction(self)), flush=True)
        if self.options.dry_run:
            return self._dry_run()
        if self.world.writes:
            self._take_folder()
        try:
            last = self._train()
        finally:
            if self.folder is not None:
                self.folder.release()
        if self.world.writes:
            print(
                f"test     cost {last['cost/test']:.5f}   accuracy "
                f"{100 * last['accuracy/test']:.2f} %"
            )
            if self.folder is not None:
                print(f"picture  {self.folder.path / 'summary.png'}")
            logdir = self.options.logdir if self.folder is None else str(self.folder.path.parent)
            print(f"look     tensorboard --logdir {shlex.quote(logdir)}", flush=True)
        path = None if self.folder is None else self.folder.path
        return Result(path, self.rows, last["cost/test"], last["accuracy/test"], self.model)

    def _take_folder(self) -> None:
        """Make the run's folder, or go on in the one it has, as the only process to write there."""
        if self.folder is not None:
            self.folder.take()
            self.folder.write_config(
                self.config()
            )  # a resumed run may have another device, threads, data folder
            return
        self.folder = RunFolder.create(
            Path(self.options.logdir),
            self.options.run_name,
            f"{self.dataset.name}_{'-'.join(map(str, self.sizes))}",
            self.config(),
            self.checkpoint(0, to_host(self.state())),
        )
        self.folder.take()

    def _train(self) -> dict[str, Any]:
        """The epochs that are left, and the test; returns the last row, with the test result."""
        report = None
        if self.folder is not None and self.world.writes:
            print(f"run      {self.folder.path}")
            print(terminal.HEADER, flush=True)
            for row in self.rows:
                print(terminal.line(row), flush=True)
            # A run that is complete, and is resumed all the same, is tested and left as it is.
            if self.first_epoch <= self.epochs or not self.folder.is_complete:
                report = Report(
                    self.folder,
                    self.config(),
                    self.options,
                    self.model,
                    self.parts,
                    self.epochs,
                    self.first_epoch,
                )
        watch = Watch(self.options, self.lr, self.steps, self.dataset.train.labels)
        try:
            for epoch in range(self.first_epoch, self.epochs + 1):
                self.one_epoch(epoch, watch, report)
            last = self._test()
            self.rows.append(last)
            if self.folder is not None and report is not None:
                self.folder.write_metrics(self.rows)
                report.end(self.rows)
        finally:
            if report is not None:
                report.close()
        return last

    def one_epoch(self, epoch: int, watch: Watch, report: Report | None) -> None:
        """Train for an epoch, measure, say what is wrong, and write it all down.

        Raises:
            UserError: a cost, a gradient or a parameter is not finite.
        """
        row, state = self._epoch(epoch)
        trouble, fault = watch.look(row, self.rows), watch.not_finite(row)
        self.rows.append(row)
        if self.folder is not None and report is not None:
            print(terminal.line(row), flush=True)
            # The checkpoint last: an epoch that it does not hold is trained, and written, once
            # more.
            self.folder.write_metrics(self.rows)
            for line in trouble:
                print(f"trouble  {line}", flush=True)
            report.epoch(row, [*trouble, *fault], next(iter(state["model"].values())))
        for line in fault:
            raise UserError(line)
        if self.folder is not None and report is not None:
            self.folder.write_checkpoint(self.checkpoint(epoch, state))

    def _load(self, options: Options) -> data.Dataset:
        """Load the data, the writing process first: it may have to download them."""
        if self.world.writes:
            dataset = data.load(options.dataset, options.data_dir)
        self.world.wait()
        return dataset if self.world.writes else data.load(options.dataset, options.data_dir)

    def _epoch(self, epoch: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Train for an epoch and measure; an accelerator is waited for once, but by GradScaler.

        Returns:
            The row of metrics.jsonl, and the state to be saved, on the CPU.
        """
        start = time.perf_counter()
        before = [p.detach().clone() for p in self.model.parameters()]
        order = torch.randperm(len(self.parts.train), generator=self.shuffle)
        order = to_device(order, self.device)
        part = self._training_part(epoch)
        check = None
        if self.options.impl == "manual":
            batch = part[order[: min(self.batch_size, live_check.EXAMPLES)]]
            check = live_check.check(self.engine, self.model, batch, self.options.cost)
        watch = machine.Stopwatch(self.device)
        with terminal.progress(f"epoch {epoch}", self.steps, shown=self.world.writes) as progress:
            rates = self._learning_rates((epoch - 1) * self.steps, self.steps)
            trained = self.engine.train_epoch(part, order, rates, progress)
        watch.stop()
        seen = probe.measures(
            self.model, self.parts.validation, self.options.cost, self.dtype, before
        )
        if check is not None:
            seen["check/max_rel_error"] = check.worst
        values = torch.cat([trained.values, torch.stack([wide(value) for value in seen.values()])])
        values, state = to_host((values, self.state()))
        figures = values.tolist()
        measured = dict(zip(seen, figures[len(trained.values) :], strict=True))
        if check is not None:
            check.judge(measured["check/max_rel_error"])
        row = {
            "epoch": epoch,
            **_training_scalars(trained.statistics(figures[: len(trained.values)])),
            **measured,
        }
        row["time/train_seconds"] = watch.seconds()
        row["time/epoch_seconds"] = time.perf_counter() - start
        return row, state

    def _training_part(self, epoch: int) -> data.Part:
        if not self.options.augment:
            return self.parts.train
        # Seeded by run and epoch, so that a resumed run sees the same images.
        generator = torch.Generator().manual_seed((self.options.seed * 1_000_003 + epoch) % 2**63)
        return replace(
            self.parts.train, images=augment(self.parts.train.images, self.dataset.side, generator)
        )

    def _learning_rates(self, first: int, steps: int) -> list[float]:
        """η for each of the steps first, first + 1, …: η, or η ½(1 + cos(π k/K)) at step k of K."""
        if self.options.lr_schedule == "constant":
            return [self.lr] * steps
        last = self.epochs * self.steps
        return [
            self.lr * 0.5 * (1 + math.cos(math.pi * k / last)) for k in range(first, first + steps)
        ]

    def _test(self) -> dict[str, Any]:
        cost, accuracy = evaluate(self.model, self.parts.test, self.options.cost, self.dtype)
        return {"epoch": self.epochs, "cost/test": cost.item(), "accuracy/test": accuracy.item()}

    def _dry_run(self) -> Result:
        order = torch.randperm(len(self.parts.train), generator=self.shuffle)[: self.batch_size].to(
            self.device
        )
        trained = self.engine.train_epoch(
            self._training_part(1), order, self._learning_rates(0, 1), lambda _: None
        )
        first = trained.statistics(trained.values.tolist())
        last = self._test()
        if self.world.writes:
            norm = first.grad_norm
            print(
                f"dry run  one step: cost {first.cost:.5f}, gradient norm {norm:.3g}; nothing was "
                f"written"
            )
        return Result(None, [last], last["cost/test"], last["accuracy/test"], self.model)

    def config(self) -> dict[str, Any]:
        return {
            "flags": asdict(self.options),
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "lr": self.lr,
            "sizes": self.sizes,
            "engine": self.engine_name,
            "dataset": self.dataset.name,
            "data_fingerprint": self.dataset.fingerprint,
            "device": str(self.device),
            "threads": self.threads,
            "processes": self.world.size,
            "seed": self.options.seed,
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "torchvision": version("torchvision"),
            },
        }

    def state(self) -> dict[str, Any]:
        """What training changes."""
        return {"model": self.model.state_dict(), "engine": self.engine.state_dict()}

    def checkpoint(self, epoch: int, state: dict[str, Any]) -> dict[str, Any]:
        return {
            **state,
            "format": checkpoint.FORMAT,
            "epoch": epoch,
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "lr": self.lr,
            "engine_name": self.engine_name,
            "shuffle": self.shuffle.get_state(),
            "metrics": self.rows,
            "flags": asdict(self.options),
            "dataset": self.dataset.name,
            "data_fingerprint": self.dataset.fingerprint,
        }

    def _restore(self, state: dict[str, Any], path: Path) -> None:
        """Take up the state of a checkpoint.

        Raises:
            UserError: it does not fit the network, the data or the engine.
        """
        if state["data_fingerprint"] != self.dataset.fingerprint:
            raise UserError(
                f"{path}: was trained on other {state['dataset']} data than these "
                f"({self.dataset.source}): name the "
                f"folder of that run's data with --data-dir"
            )
        shapes = {
            name: tuple(getattr(value, "shape", ())) for name, value in state["model"].items()
        }
        expected = {name: tuple(value.shape) for name, value in self.model.state_dict().items()}
        if shapes != expected:
            raise UserError(
                f"{path}: holds a network of {shapes}, the flags describe {expected}: the file was "
                f"changed"
            )
        try:
            self.model.load_state_dict(state["model"])
            self.engine.load_state_dict(state["engine"])
            self.shuffle.set_state(state["shuffle"])
        except (RuntimeError, KeyError, ValueError, TypeError) as error:
            raise UserError(
                f"{path}: does not fit this run: {str(error).splitlines()[0]}"
            ) from error
        self.rows = list(state["metrics"])
        self.first_epoch = state["epoch"] + 1
        if self.epochs < state["epoch"]:
            raise UserError(
                f"{path}: has {state['epoch']} epochs already, {self.epochs} are asked for: give "
                f"--epochs at least "
                f"{state['epoch']}"
            )


def _training_scalars(trained: EpochStatistics) -> dict[str, float]:
    return {
        "cost/train": trained.cost,
        "accuracy/train": trained.accuracy,
        "grad_norm/total": trained.grad_norm,
        **{f"grad_norm/{name}": value for name, value in trained.grad_norms.items()},
        **{f"delta_norm/{name}": value for name, value in trained.delta_norms.items()},
    }
