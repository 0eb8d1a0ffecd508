"""A whole run: load the data, build the network, train epoch by epoch, log, save, and test once at the end."""

from __future__ import annotations

import math
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from manual_bp.training import data, network, probe
from manual_bp.training.board import Board
from manual_bp.training.engine import AutogradEngine, Engine, EpochStatistics
from manual_bp.training.errors import UserError
from manual_bp.training.evaluation import evaluate
from manual_bp.training.options import Options, parse
from manual_bp.training.run_folder import RunFolder

_PROBE_ROWS = 1000  # validation examples on which slopes are measured
_THREADS_PAY = 2_000_000  # multiply-adds of a step's first layer from which a second thread is worth its cost


@dataclass(frozen=True)
class Result:
    """What `main` returns."""

    folder: Path | None  # None after --dry-run
    metrics: list[dict[str, Any]]  # one row an epoch, and the last with the test result
    test_cost: float
    test_accuracy: float  # a share, 0 to 1
    model: nn.Sequential


def main(argv: Sequence[str] | None = None) -> Result:
    """Run the command line.

    Raises:
        SystemExit: 1 after a fault, with one line on stderr; 2 after wrong usage; 130 after Ctrl-C.
    """
    options = parse(argv)
    try:
        with _threads(options):
            return Run(options).go()
    except UserError as error:
        print(f"train.py: error: {error}", file=sys.stderr)
        raise SystemExit(1) from error
    except KeyboardInterrupt:
        print("train.py: interrupted; the run is saved as of its last whole epoch", file=sys.stderr)
        raise SystemExit(130) from None


class Run:
    """One run of the command line."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.device, self.device_why = choose_device(options.device)
        if self.device.type == "mps" and options.dtype == "float64":
            raise UserError("--dtype float64 on mps: Apple's GPU has no float64; use float32, or --device cpu")
        self.dataset = data.load(options.dataset, options.data_dir)
        self.epochs = options.epochs if options.epochs is not None else (60 if self.dataset.name == "digits" else 10)
        self.dtype: torch.dtype = getattr(torch, options.dtype)
        self.model = network.build(options, self.dataset.side**2, self.device)
        self.names = [name for name, _ in self.model.named_parameters()]
        examples = len(self.dataset.train)
        self.batch_size = min(options.batch_size or examples, examples)
        self.steps = math.ceil(examples / self.batch_size)
        self.parts = self.dataset.to(self.device)
        self.engine: Engine = AutogradEngine(
            self.model,
            network.criterion(options.impl, options.cost),
            options.cost,
            self.parts.train,
            batch_size=self.batch_size,
            momentum=options.momentum,
            weight_decay=options.weight_decay,
        )
        self.shuffle = torch.Generator().manual_seed(options.seed)
        self.rows: list[dict[str, Any]] = []

    def go(self) -> Result:
        self._introduce()
        if self.options.dry_run:
            return self._dry_run()
        sizes = "-".join(map(str, (self.dataset.side**2, *self.options.hidden, data.CLASSES)))
        folder = RunFolder.create(Path(self.options.logdir), self.options.run_name, f"{self.dataset.name}_{sizes}")
        folder.write_config(self._config())
        board = Board(folder.path)
        try:
            print(f"run      {folder.path}", flush=True)
            print(_HEADER, flush=True)
            for epoch in range(1, self.epochs + 1):
                row = self._epoch(epoch)
                self.rows.append(row)
                print(_line(row), flush=True)
                board.scalars(row, epoch)
                folder.write_metrics(self.rows)
                folder.write_checkpoint(self._checkpoint(epoch))
            last = self._test()
            self.rows.append(last)
            folder.write_metrics(self.rows)
            board.scalars(last, self.epochs)
        finally:
            board.close()
        print(f"test     cost {last['cost/test']:.5f}   accuracy {100 * last['accuracy/test']:.2f} %")
        print(f"look     tensorboard --logdir {shlex.quote(self.options.logdir)}", flush=True)
        return Result(folder.path, self.rows, last["cost/test"], last["accuracy/test"], self.model)

    def _introduce(self) -> None:
        train, validation, test = (len(p) for p in (self.dataset.train, self.dataset.validation, self.dataset.test))
        print(f"data     {self.dataset.why} ({train:,} training, {validation:,} validation, {test:,} test images)")
        sizes = "-".join(map(str, (self.dataset.side**2, *self.options.hidden, data.CLASSES)))
        print(f"network  {sizes}, {self.options.impl} layers, {self.options.output} output, cost {self.options.cost}")
        batch = "the full batch" if self.options.batch_size is None else f"batches of {self.batch_size}"
        print(f"descent  {self.epochs} epochs, {batch}, η = {self.options.lr:g} {self.options.lr_schedule}")
        print(f"device   {self.device} ({self.device_why}), {torch.get_num_threads()} threads", flush=True)

    def _epoch(self, epoch: int) -> dict[str, Any]:
        start = time.perf_counter()
        before = [p.detach().clone() for p in self.model.parameters()]
        order = torch.randperm(len(self.parts.train), generator=self.shuffle).to(self.device)
        first = (epoch - 1) * self.steps
        with _progress(f"epoch {epoch}", self.steps) as progress:
            trained = self.engine.train_epoch(order, self._learning_rates(first, self.steps), progress)
        train_seconds = time.perf_counter() - start
        row = {"epoch": epoch, **_training_scalars(trained), **self._measures(before)}
        row["time/train_seconds"] = train_seconds
        row["time/epoch_seconds"] = time.perf_counter() - start
        return row

    def _learning_rates(self, first: int, steps: int) -> list[float]:
        """η for each of the steps first, first + 1, …: η, or η ½(1 + cos(π k/K)) at step k of K."""
        if self.options.lr_schedule == "constant":
            return [self.options.lr] * steps
        last = self.epochs * self.steps
        return [self.options.lr * 0.5 * (1 + math.cos(math.pi * k / last)) for k in range(first, first + steps)]

    def _measures(self, before: list[Tensor]) -> dict[str, float]:
        """What is measured on the network at the end of an epoch, read from the device in one go."""
        cost, accuracy = evaluate(self.model, self.parts.validation, self.options.cost, self.dtype)
        x = self.parts.validation.images[:_PROBE_ROWS].to(self.dtype) * data.PIXEL_SCALE
        layers, slope = probe.slopes(self.model, x)
        ratios = torch.stack(
            # ‖W_after − W_before‖ / ‖W_before‖ over the epoch; a parameter that was all 0 has no ratio, and shows 0
            [
                (p.detach() - old).norm() / old.norm().clamp_min(1e-12)
                for p, old in zip(self.model.parameters(), before, strict=True)
            ]
        )
        tags = ["cost/validation", "accuracy/validation"]
        tags += [f"slope/{name}" for name in layers] + [f"saturated/{name}" for name in layers]
        tags += [f"update_ratio/{name}" for name in self.names]
        values = torch.cat(
            [torch.stack([cost.double(), accuracy.double()]), slope.T.reshape(-1).double(), ratios.double()]
        )
        return dict(zip(tags, values.tolist(), strict=True))

    def _test(self) -> dict[str, Any]:
        cost, accuracy = evaluate(self.model, self.parts.test, self.options.cost, self.dtype)
        return {"epoch": self.epochs, "cost/test": cost.item(), "accuracy/test": accuracy.item()}

    def _dry_run(self) -> Result:
        order = torch.randperm(len(self.parts.train), generator=self.shuffle)[: self.batch_size].to(self.device)
        trained = self.engine.train_epoch(order, self._learning_rates(0, 1), lambda _: None)
        last = self._test()
        print(f"dry run  one step: cost {trained.cost:.5f}, gradient norm {trained.grad_norm:.3g}; nothing was written")
        return Result(None, [last], last["cost/test"], last["accuracy/test"], self.model)

    def _config(self) -> dict[str, Any]:
        import torchvision

        return {
            "flags": {**asdict(self.options), "batch_size": self.options.batch_size or "full"},
            "epochs": self.epochs,
            "dataset": self.dataset.name,
            "data_fingerprint": self.dataset.fingerprint,
            "device": str(self.device),
            "threads": torch.get_num_threads(),
            "seed": self.options.seed,
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "torchvision": torchvision.__version__,
            },
        }

    def _checkpoint(self, epoch: int) -> dict[str, Any]:
        return {
            "epoch": epoch,
            "model": self.model.state_dict(),
            "engine": self.engine.state_dict(),
            "shuffle": self.shuffle.get_state(),
        }


def choose_device(name: str) -> tuple[torch.device, str]:
    """The device for --device, and why it was chosen.

    Raises:
        UserError: it is not there.
    """
    if name == "auto":
        found = torch.accelerator.current_accelerator(check_available=True)
        if found is None:
            return torch.device("cpu"), "no accelerator is available"
        return torch.device(found.type), f"{found.type} is available"
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise UserError(f"--device {name}: this machine has {count} usable CUDA devices; use --device cpu or auto")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("--device mps: this machine has no usable Apple GPU; use --device cpu or auto")
    return device, "as asked"


@contextmanager
def _threads(options: Options) -> Iterator[None]:
    """Set the CPU threads for the run: as asked, or one where a step is too small for two to pay."""
    before = torch.get_num_threads()
    work = (options.batch_size or 10**9) * 784 * options.hidden[0]
    chosen = options.threads or (1 if work < _THREADS_PAY else os.cpu_count() or 1)
    torch.set_num_threads(chosen)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _progress(title: str, steps: int) -> Iterator[Any]:
    """A bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from tqdm import tqdm

    with tqdm(total=steps, desc=title, unit="step", leave=False, disable=None) as bar:
        yield bar.update


def _training_scalars(trained: EpochStatistics) -> dict[str, float]:
    return {
        "cost/train": trained.cost,
        "accuracy/train": trained.accuracy,
        "grad_norm/total": trained.grad_norm,
        **{f"grad_norm/{name}": value for name, value in trained.grad_norms.items()},
        **{f"delta_norm/{name}": value for name, value in trained.delta_norms.items()},
    }


_HEADER = "epoch  cost train   validation   accuracy train   validation   gradient norm   seconds"


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['epoch']:>5}  {row['cost/train']:>10.5f}   {row['cost/validation']:>10.5f}"
        f"   {100 * row['accuracy/train']:>12.2f} %   {100 * row['accuracy/validation']:>8.2f} %"
        f"   {row['grad_norm/total']:>13.4g}   {row['time/epoch_seconds']:>7.2f}"
    )
