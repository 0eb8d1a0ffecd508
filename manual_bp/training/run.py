"""A whole run: train epoch by epoch, log, save, and test once at the end."""

from __future__ import annotations

import contextlib
import platform
import shlex
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from manual_bp import backprop
from manual_bp.devices import to_device, to_host, wide
from manual_bp.escape import escaped
from manual_bp.training import checkpoint, engines, live_check, machine, measures, network, terminal
from manual_bp.training.augment import augment
from manual_bp.training.charts import ADDRESS
from manual_bp.training.checkpoint import Checkpoint
from manual_bp.training.dashboard import Dashboard
from manual_bp.training.dataset import Dataset, Part
from manual_bp.training.errors import UserError
from manual_bp.training.look import Look, alone
from manual_bp.training.measures import evaluate
from manual_bp.training.pictures import Answers
from manual_bp.training.plan import Plan
from manual_bp.training.result import Result
from manual_bp.training.run_folder import RunFolder
from manual_bp.training.trouble import Watch
from manual_bp.training.world import World


class Run:
    """One run, new or resumed from `saved` in `folder`, ready for its next epoch.

    `dataset` is on the CPU.

    Raises:
        UserError: `saved` does not fit the data, the network or the engine.
    """

    def __init__(
        self,
        plan: Plan,
        dataset: Dataset,
        world: World,
        saved: Checkpoint | None,
        folder: RunFolder | None = None,
    ) -> None:
        self.plan, self.dataset, self.world = plan, dataset, world
        self.device = torch.device(plan.device)
        self.dtype: torch.dtype = getattr(torch, plan.dtype)
        self.folder = folder
        self.page: Look | None = None  # where files are written
        self.rows: list[dict[str, Any]] = []
        self.table = checkpoint.Table()
        self.first_epoch = 1
        self.model = network.build(plan, self.device)
        self.parts = dataset.to(self.device)
        self.engine = engines.build(plan, self.model, world)
        self.shuffle = torch.Generator().manual_seed(plan.seed)
        if saved is not None:
            self._restore(saved)
        kept = None if saved is None else saved.snapshots
        self.snapshots = kept or alone(self.first_epoch - 1, self.model)

    def go(self, logdir: str, run_name: str | None, *, numbered: bool = False) -> Result:
        """Train the epochs that are left, in a folder of `logdir` if the run is new.

        Where `run_name` is taken, the folder gets a number behind if `numbered`; else an error.
        """
        if self.world.writes:
            self._take_folder(Path(logdir), run_name, numbered)
        try:
            last = self._train()
        finally:
            if self.folder is not None:
                self.folder.release()
        path = None if self.folder is None else self.folder.path
        if self.world.writes and path is not None:
            print(
                f"test     cost {last['cost/test']:.5f}   "
                f"accuracy {100 * last['accuracy/test']:.2f} %"
            )
            self._say_what_direct_would_save()
            print(f"picture  {escaped(path / 'summary.png')}")
            if (path / "look.html").is_file():
                print(f"page     {(path / 'look.html').resolve().as_uri()}")
            print(f"look     tensorboard --logdir {escaped(shlex.quote(str(path.parent)))}")
            print(f"open     {ADDRESS}", flush=True)
        return Result(path, self.rows, last["cost/test"], last["accuracy/test"], self.model)

    def _say_what_direct_would_save(self) -> None:
        """Where the direct engine could have trained this run too."""
        plan, epochs = self.plan, self.rows[self.first_epoch - 1 : -1]  # trained here
        plain = (plan.impl, plan.engine, plan.amp) == ("manual", "autograd", "off")
        if not plain or plan.compile or plan.processes > 1 or not epochs:
            return
        took = sum(row["time/train_seconds"] for row in epochs)
        try:
            direct = len(epochs) * engines.direct_seconds(plan, self.model, self.parts.train)
        except (RuntimeError, MemoryError):  # the run is complete without this line
            return
        if direct < 0.8 * took:
            print(
                f"faster   --engine direct: the same steps in about {direct:.1f} s instead of "
                f"{took:.1f} s"
            )

    def dry_run(self) -> Result:
        """One step and one evaluation; nothing is written."""
        order = torch.randperm(len(self.parts.train), generator=self.shuffle)
        order = order[: self.plan.batch_size].to(self.device)
        rates = self.plan.rates(0, 1)
        step = self.engine.train_epoch(self._training_part(1), order, rates, lambda _: None)
        last = self._test()
        if self.world.writes:
            cost, norm = float(step["cost/train"]), float(step["grad_norm/total"])
            print(
                f"dry run  one step: cost {cost:.5f}, gradient norm {norm:.3g}; nothing was written"
            )
        return Result(None, [last], last["cost/test"], last["accuracy/test"], self.model)

    def _take_folder(self, logdir: Path, run_name: str | None, numbered: bool) -> None:
        """Make the run's folder, or go on in the one it has, as the only process that writes."""
        if self.folder is not None:
            self.world.tell(self.folder.path)
            # a resumed run may have another device, threads, data folder
            self.folder.write_config(self.config())
            return
        start = self.checkpoint(0, to_host(self.state()))
        default, exact = run_name or self.plan.run_name, None if numbered else run_name
        self.folder = RunFolder.create(logdir, exact, default, self.config(), start)
        self.folder.take()
        self.world.tell(self.folder.path)

    def _train(self) -> dict[str, Any]:
        """The epochs that are left, and the test; returns the last row, with the test result."""
        dashboard = None
        if self.folder is not None and self.world.writes:
            print(f"run      {escaped(self.folder.path)}")
            print(terminal.HEADER, flush=True)
            for row in self.rows:
                print(terminal.line(row), flush=True)
            # A run that is complete, and is resumed all the same, is tested and left as it is.
            if self.first_epoch > self.plan.epochs and self.folder.is_complete:
                print(
                    f"nothing to do: all {self.plan.epochs} epochs are done; --epochs "
                    f"{2 * self.plan.epochs or 1} lengthens the run"
                )
            else:
                if self.rows:  # as the checkpoint has them: a killed process leaves more, or less
                    self.folder.write_metrics(self.rows)
                dashboard = Dashboard(
                    self.folder, self.plan, self.model, self.parts, self.first_epoch
                )
                self.page = Look(self.folder, self.plan, self.model, self.parts, self.snapshots)
                self.page.write(self.rows)
        watch = Watch(self.plan, backprop.read(self.model), self.dataset.train)
        try:
            for epoch in range(self.first_epoch, self.plan.epochs + 1):
                self.one_epoch(epoch, watch, dashboard)
            last = self._test()
            self.rows.append(last)
            if self.folder is not None and dashboard is not None:
                self.folder.write_metrics(self.rows)
                answers = Answers.of(self.model, self.parts.test, self.dtype)
                if self.page is not None:
                    self.page.end(self.rows, answers)
                dashboard.end(self.rows, answers)
        except (KeyboardInterrupt, UserError):
            if self.page is not None:
                with contextlib.suppress(UserError):  # the first error says more
                    self.page.write(self.rows)
            raise
        finally:
            if dashboard is not None:
                dashboard.close()
        return last

    def one_epoch(self, epoch: int, watch: Watch, dashboard: Dashboard | None) -> None:
        """Train for an epoch, measure, say what is wrong, and write it all down.

        Raises:
            UserError: a cost, a gradient or a parameter is not finite.
        """
        row, state = self._epoch(epoch)
        trouble, fault = watch.look(row, self.rows), watch.not_finite(row)
        self.rows.append(row)
        if self.folder is not None and dashboard is not None:
            print(terminal.line(row), flush=True)
            # The checkpoint last: an epoch that it lacks is trained, and written, once more.
            self.folder.write_metrics(self.rows)
            for line in trouble:
                print(f"trouble  {escaped(line)}", flush=True)
            dashboard.epoch(row, [*trouble, *fault], next(iter(state["model"].values())))
        for line in fault:
            raise UserError(line)
        if self.folder is not None and dashboard is not None:
            self.snapshots.add(epoch, state["model"])
            self.folder.write_checkpoint(self.checkpoint(epoch, state))
            if self.page is not None:
                self.page.write(self.rows, due=False)

    def _epoch(self, epoch: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Train for an epoch and measure; an accelerator is waited for once, with fp16 twice.

        Returns:
            The row of metrics.jsonl, and the state to be saved, on the CPU.
        """
        start = time.perf_counter()
        plan = self.plan
        before = [p.detach().clone() for p in self.model.parameters()]
        order = torch.randperm(len(self.parts.train), generator=self.shuffle)
        order = to_device(order, self.device)
        part = self._training_part(epoch)
        rates = plan.rates((epoch - 1) * plan.steps, plan.steps)
        check = None
        if plan.impl == "manual":
            batch = part[order[: min(plan.batch_size, live_check.EXAMPLES)]]
            gradients = self.engine.gradients(batch)
            check = live_check.compare(self.model, gradients, *batch.batch(self.dtype), plan.cost)
        watch = machine.Stopwatch(self.device)
        with terminal.progress(f"epoch {epoch}", plan.steps, shown=self.world.writes) as progress:
            figures = self.engine.train_epoch(part, order, rates, progress)
        watch.stop()
        figures |= measures.of_epoch(self.model, self.parts.validation, plan.cost, before)
        if check is not None:
            figures["check/max_rel_error"] = check.worst
        values = torch.stack([wide(figure) for figure in figures.values()])
        values, state = to_host((values, self.state()))
        row = {"epoch": epoch, **dict(zip(figures, values.tolist(), strict=True)), "lr": rates[0]}
        if check is not None:
            check.judge(row["check/max_rel_error"])
        row["time/train_seconds"] = watch.seconds()
        row["time/epoch_seconds"] = time.perf_counter() - start
        return row, state

    def _training_part(self, epoch: int) -> Part:
        if not self.plan.augment:
            return self.parts.train
        # Seeded by run and epoch, so that a resumed run sees the same images. Drawn on a GPU where
        # there is one: the CPU takes longer to draw than a GPU to train.
        generator = torch.Generator(self.device if self.device.type == "cuda" else "cpu")
        generator.manual_seed((self.plan.seed * 1_000_003 + epoch) % 2**63)
        images = augment(self.parts.train.images, self.dataset.shape[0], generator)
        return replace(self.parts.train, images=images)

    def _test(self) -> dict[str, Any]:
        cost, accuracy = evaluate(self.model, self.parts.test, self.plan.cost, self.dtype)
        return {
            "epoch": self.plan.epochs,
            "cost/test": cost.item(),
            "accuracy/test": accuracy.item(),
        }

    def config(self) -> dict[str, Any]:
        """What config.json holds: the plan, and the versions that its numbers depend on."""
        versions = {"python": platform.python_version(), "torch": torch.__version__}
        versions |= {name: version(name) for name in ("torchvision", "numpy")}
        return {**self.plan.as_dict(), "versions": versions}

    def state(self) -> dict[str, Any]:
        """What training changes."""
        return {"model": self.model.state_dict(), "engine": self.engine.state_dict()}

    def checkpoint(self, epoch: int, state: dict[str, Any]) -> dict[str, Any]:
        """What a checkpoint holds: tensors and plain values; `state` as `self.state` gives it."""
        own = {"format": checkpoint.FORMAT, "epoch": epoch, "plan": self.plan.as_dict()}
        own |= {"shuffle": self.shuffle.get_state(), "snapshots": self.snapshots.state()}
        return {**state, **own, "metrics": self.table.state(self.rows)}

    def _restore(self, saved: Checkpoint) -> None:
        """Take up the state of a checkpoint, or say in one line why it does not fit."""
        path, plan = saved.path, self.plan
        if saved.plan.data_fingerprint != plan.data_fingerprint:
            raise UserError(
                f"{path}: was trained on other {plan.dataset} data than these "
                f"({self.dataset.source}): name the folder of that run's data with --data-dir"
            )
        shapes = {name: tuple(getattr(value, "shape", ())) for name, value in saved.model.items()}
        expected = {name: tuple(value.shape) for name, value in self.model.state_dict().items()}
        if shapes != expected:
            raise UserError(
                f"{path}: holds a network of {shapes}, the plan describes {expected}: the file was "
                f"changed"
            )
        try:
            self.model.load_state_dict(saved.model)
            self.engine.load_state_dict(saved.engine)
            self.shuffle.set_state(saved.shuffle)
        except (RuntimeError, KeyError, ValueError, TypeError) as error:
            raise UserError(
                f"{path}: does not fit this run: {str(error).splitlines()[0]}"
            ) from error
        self.rows = list(saved.metrics)
        self.first_epoch = saved.epoch + 1
        if plan.epochs < saved.epoch:
            raise UserError(
                f"{path}: has {saved.epoch} epochs already, {plan.epochs} are asked for: give "
                f"--epochs at least {saved.epoch}"
            )
