"""look.html of a run: the page in which a browser computes the run's passes from its snapshots.

The page is written at the run's start, after some of its epochs and at its end, so that
TensorBoard's tab shows it while the run goes on. It shows validation images until the run is over,
and then test images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from manual_bp import backprop
from manual_bp.training import checkpoint, traced_run, trained
from manual_bp.training.dataset import PIXEL_SCALE, Dataset, Part
from manual_bp.training.errors import UserError
from manual_bp.training.measures import evaluate
from manual_bp.training.options import DATASETS
from manual_bp.training.pictures import Answers
from manual_bp.training.plan import Plan
from manual_bp.training.run_folder import RunFolder
from manual_bp.training.trouble import Watch
from manual_bp.view import bundle, page_data
from manual_bp.view.snapshots import Snapshots

_WORST, _RIGHT = 40, 6  # images: of all classes, and of each
_ANY = 10  # images of each class while the run goes on
_LATER = 1.5  # times the epoch of the page before: a page a while, and few in all

Rows = Sequence[Mapping[str, Any]]  # of metrics.jsonl


class Look:
    """The page of one run.

    Args:
        folder: the run's.
        plan: the run's.
        model: the network as it is trained.
        dataset: on any device.
        snapshots: those that there are, and that will be added to.
    """

    def __init__(
        self,
        folder: RunFolder,
        plan: Plan,
        model: nn.Module,
        dataset: Dataset,
        snapshots: Snapshots,
    ) -> None:
        self._folder, self._plan, self._dataset, self._snapshots = folder, plan, dataset, snapshots
        self._layers = backprop.read(model)
        self._watch = Watch(plan, self._layers, dataset.train)
        self._faults: list[tuple[int, str]] = []  # that ended the run
        self._seen = 0  # rows that were looked at for trouble
        self._written = -1.0  # the epoch of the last page

    @property
    def fits(self) -> bool:
        """Whether the network is small enough for a page."""
        return bool(self._snapshots.epochs)

    def write(self, rows: Rows, *, due: bool = True) -> None:
        """Write the page of a run that is not over; if not `due`, only when it is time for one."""
        epoch, over = len(rows), bool(rows) and "cost/test" in rows[-1]
        if self.fits and not over and (due or epoch >= _LATER * self._written):
            self._folder.write_look(self.page(rows))
            self._written = epoch

    def end(self, rows: Rows, answers: Answers) -> None:
        """Write the page of a run that is over; its last row is the test's."""
        if self.fits:
            self._folder.write_look(self.page(rows, answers))

    def page(self, rows: Rows, answers: Answers | None = None) -> str:
        """The page, as HTML; with `answers` to the test images the run is over.

        Raises:
            UserError: a row lacks a figure.
        """
        plan = self._plan
        part = self._dataset.validation if answers is None else self._dataset.test
        chosen = of_every_class(part) if answers is None else telling(answers)
        indices = chosen.to(part.labels.device)
        told = page_data.of_run(
            self._folder.path.resolve().name,
            self._layers,
            self._snapshots,
            rows,
            part.images[indices].cpu(),
            part.labels[indices].cpu(),
            cost=plan.cost,
            lr=plan.lr,
            batch=plan.batch_size,
            seed=plan.seed,
            epochs_planned=plan.epochs,
            finished=answers is not None,
            dataset=plan.dataset,
            part="validation" if answers is None else "test",
            indices=chosen.tolist(),
            classes=list(self._dataset.classes),
            image_shape=list(self._dataset.shape),
            pixel_scale=PIXEL_SCALE,
            as_taken=plan.dataset not in DATASETS,
            trouble=self._look_for_trouble(rows),
        )
        return bundle.page(told)

    def _look_for_trouble(self, rows: Rows) -> list[dict[str, Any]]:
        for i, row in enumerate(rows[self._seen :], start=self._seen):
            if "cost/test" in row:
                continue
            try:
                self._watch.look(row, rows[:i])
                self._faults += [(row["epoch"], line) for line in self._watch.not_finite(row)]
            except KeyError as error:
                raise UserError(
                    f"{self._folder.path}: its metrics of epoch {row['epoch']} lack {error}: the "
                    f"checkpoint was changed"
                ) from error
        self._seen = len(rows)
        told = [*self._watch.told(), *self._faults]
        return [{"epoch": epoch, "text": line} for epoch, line in told]


def of_every_class(part: Part) -> Tensor:
    """The first images of each class, by their indices."""
    return torch.cat([(part.labels == c).nonzero()[:_ANY, 0].cpu() for c in range(part.n_out)])


def telling(answers: Answers) -> Tensor:
    """About a hundred images: those with the largest cost, and some of each class that are right.

    Of a class without right answers the first images are taken.
    """
    worst = answers.worst(_WORST)
    left = torch.ones(len(answers.labels), dtype=torch.bool)
    left[worst] = False
    found = [worst]
    for c in range(len(answers.classes)):
        own = left & (answers.labels == c)
        right = (own & (answers.said == c)).nonzero()[:_RIGHT, 0]
        found.append(right if len(right) else own.nonzero()[:_RIGHT, 0])
    return torch.cat(found)


def read(run: str, runs: Path, data_dir: str | None) -> tuple[RunFolder, str]:
    """The folder of a run, and its page made anew from its checkpoint and its data.

    Args:
        run: a run folder, the name of one in `runs`, or "latest", the one whose checkpoint was
            written last there.
        runs: the folder of run folders.
        data_dir: where the data are now, or None for where they were.

    Raises:
        UserError: no such run, a damaged or foreign checkpoint, data that are not there or not the
            run's, or a network too large for a page.
    """
    saved = checkpoint.read(checkpoint.find(run, runs))
    folder, plan = RunFolder(saved.path.parent), saved.plan
    model = trained.read(folder.path).model
    dataset = traced_run.data_of(plan, folder.path, data_dir)
    rows, answers = list(saved.metrics), None
    if saved.epoch == plan.epochs:
        dtype = getattr(torch, plan.dtype)
        answers = Answers.of(model, dataset.test, dtype)
        cost, accuracy = map(float, evaluate(model, dataset.test, plan.cost, dtype))
        rows.append({"epoch": plan.epochs, "cost/test": cost, "accuracy/test": accuracy})
    look = Look(folder, plan, model, dataset, saved.snapshots or alone(saved.epoch, model))
    if not look.fits:
        raise UserError(f"{saved.path}: {plan.network} has too many weights for a page")
    return folder, look.page(rows, answers)


def alone(epoch: int, model: nn.Module) -> Snapshots:
    """The snapshots of a run that took none before: its weights as they are."""
    new = Snapshots(sum(p.numel() for p in model.parameters()))
    new.add(epoch, model.state_dict())
    return new
