"""A trained run for `python -m manual_bp.trace`: its network, and one image of its data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from manual_bp.training import data, trained
from manual_bp.training.dataset import Dataset
from manual_bp.training.errors import UserError
from manual_bp.training.plan import Plan
from manual_bp.training.trained import RUNS


@dataclass(frozen=True)
class TracedRun:
    """One image of the test part, with the network that a run trained."""

    folder: Path  # the run's
    model: nn.Sequential  # the trained network, in float64
    x: Tensor  # pixels in 0 to 1  (1, n_in)
    y: Tensor  # the target, 1 for the label and 0 elsewhere  (1, n_out)
    label: str  # its class
    classes: tuple[str, ...]  # one an output
    dataset: str  # the data set's name
    cost: str  # the run's `reduction`
    lr: float  # the run's η


def read(run: str, example: int, runs: Path = RUNS) -> TracedRun:
    """Read a run and test image number `example`.

    Args:
        run: a run folder, the name of one in `runs`, or "latest", the one whose checkpoint was
            written last there.
        example: counts from 0.
        runs: the folder of run folders.

    Raises:
        UserError: no such run, a damaged or foreign checkpoint, data that are not there or not the
            run's, or no such image.
    """
    found = trained.read(run, runs)
    plan = found.plan
    dataset = data_of(plan, found.folder, None)
    if not 0 <= example < len(dataset.test):
        last = len(dataset.test) - 1
        raise UserError(
            f"--example {example}: the test part of {plan.dataset} has images 0 to {last}"
        )
    image = dataset.test[slice(example, example + 1)]
    x, y = image.batch(torch.float64)
    names, model = plan.classes, found.model.double()
    label = names[int(image.labels)]
    return TracedRun(found.folder, model, x, y, label, names, plan.dataset, plan.cost, plan.lr)


def data_of(plan: Plan, folder: Path, data_dir: str | None) -> Dataset:
    """The data of the run in `folder`, from `data_dir` or from where they were.

    Raises:
        UserError: they are not there, or not the run's.
    """
    dataset = data.load_again(folder, plan.dataset, plan.data_dir, data_dir)
    if plan.data_fingerprint != dataset.fingerprint:
        raise UserError(
            f"{folder}: was trained on other {plan.dataset} data than these ({dataset.source}): "
            f"put that run's data there again"
        )
    return dataset
