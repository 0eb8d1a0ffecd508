"""A trained run for `python -m manual_bp.trace`: its network, and one image of its data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from manual_bp.training import checkpoint, data, network
from manual_bp.training.checkpoint import Checkpoint
from manual_bp.training.data import Dataset
from manual_bp.training.errors import UserError

RUNS = Path("runs")  # where train.py puts them by default


@dataclass(frozen=True)
class TracedRun:
    """One image of the test part, with the network that a run trained."""

    folder: Path  # the run's
    model: nn.Sequential  # the trained network, in float64
    x: Tensor  # pixels in 0 to 1  (1, n_in)
    y: Tensor  # the target, 1 for the label and 0 elsewhere  (1, n_out)
    label: int
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
    saved = checkpoint.read(checkpoint.find(run, runs))
    path, plan = saved.path, saved.plan
    dataset = data_of(saved, None)
    if not 0 <= example < len(dataset.test):
        last = len(dataset.test) - 1
        raise UserError(
            f"--example {example}: the test part of {plan.dataset} has images 0 to {last}"
        )
    image = dataset.test[slice(example, example + 1)]
    x, y = image.batch(torch.float64)
    label = int(image.labels)
    return TracedRun(
        path.parent, trained(saved, "float64"), x, y, label, plan.dataset, plan.cost, plan.lr
    )


def data_of(saved: Checkpoint, data_dir: str | None) -> Dataset:
    """The run's data, from `data_dir` or from where they were.

    Raises:
        UserError: they are not there, or not the run's.
    """
    plan = saved.plan
    dataset = data.load(plan.dataset, data_dir or plan.data_dir)
    if plan.data_fingerprint != dataset.fingerprint:
        raise UserError(
            f"{saved.path}: was trained on other {plan.dataset} data than these "
            f"({dataset.source}): put that run's data there again"
        )
    return dataset


def trained(saved: Checkpoint, dtype: str) -> nn.Sequential:
    """The network that the plan describes, with the checkpoint's weights.

    Raises:
        UserError: they do not fit.
    """
    plan = replace(saved.plan, impl="manual", dtype=dtype)
    model = network.build(plan, torch.device("cpu"))
    try:
        model.load_state_dict(saved.model)
    except (AttributeError, RuntimeError, TypeError):
        keys = ", ".join(map(str, list(saved.model)[:4])) or "nothing"
        raise UserError(
            f"{saved.path}: holds {keys}, which do not make the network {plan.network} of its "
            f"plan: the file was changed"
        ) from None
    return model
