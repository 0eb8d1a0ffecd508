"""Reading a trained run for `python -m manual_bp.trace`: its network, one image of its data, its
cost and rate.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from manual_bp.training import checkpoint, data, network
from manual_bp.training.errors import UserError
from manual_bp.training.options import Options, restore

RUNS = Path("runs")  # where train.py puts them by default


@dataclass(frozen=True)
class TracedRun:
    """One image of the test part, with the network that a run trained.

    Attributes:
        folder: the run's.
        model: the trained network, in float64.
        x: pixels in 0 to 1, (1, n_in).
        y: the target, 1 for the label and 0 elsewhere, (1, n_out).
        label: the label.
        dataset: the data set's name.
        cost: the run's `reduction`.
        lr: the run's learning rate.
    """

    folder: Path
    model: nn.Sequential
    x: Tensor
    y: Tensor
    label: int
    dataset: str
    cost: str
    lr: float


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
    path = _find(run, runs)
    state = checkpoint.read(path)
    try:
        options = restore(state["flags"])
    except ValueError as error:
        raise UserError(
            f"{path}: its flags are not those of this version ({error}): train anew"
        ) from error
    name = state["dataset"]
    try:
        dataset = data.load(name, options.data_dir)
    except KeyError:
        raise UserError(f"{path}: {name!r} is no known data set: the file was changed") from None
    if state["data_fingerprint"] != dataset.fingerprint:
        raise UserError(
            f"{path}: was trained on other {name} data than these ({dataset.source}): put that "
            f"run's data there again"
        )
    if not 0 <= example < len(dataset.test):
        raise UserError(
            f"--example {example}: the test part of {name} has images 0 to {len(dataset.test) - 1}"
        )
    image = dataset.test[slice(example, example + 1)]
    x, y = image.batch(torch.float64)
    model = _model(path, state["model"], options, pixels=x.shape[1])
    return TracedRun(path.parent, model, x, y, int(image.labels), name, options.cost, state["lr"])


def _find(run: str, runs: Path) -> Path:
    """The checkpoint of a run."""
    if run == "latest":
        try:
            return checkpoint.find(run, runs)
        except UserError:  # it speaks of --resume
            raise UserError(
                f"--run latest: no runs in {runs}: train one with python train.py"
            ) from None
    for place in (Path(run), runs / run):
        path = checkpoint.find(str(place), runs)
        if path.is_file():
            return path
    if Path(run).is_dir():
        raise UserError(
            f"{Path(run) / checkpoint.NAME}: missing; a folder written by train.py is needed"
        )
    for folder in (Path(run).parent, runs):
        names = sorted(path.parent.name for path in folder.glob(f"*/{checkpoint.NAME}"))
        if names:
            raise UserError(
                f"{run}: there is no such run; runs in {folder}: {', '.join(names[-5:])}"
            )
    raise UserError(
        f"{run}: there is no such run; no runs in {runs}: train one with python train.py"
    )


def _model(path: Path, weights: dict[str, Tensor], options: Options, pixels: int) -> nn.Sequential:
    """The network that the flags describe, with the checkpoint's weights."""
    options = replace(options, impl="manual", dtype="float64")  # as the trace computes
    model = network.build(options, pixels, torch.device("cpu"))
    try:
        model.load_state_dict(weights)
    except (AttributeError, RuntimeError, TypeError):
        keys = ", ".join(map(str, list(weights)[:4])) or "nothing"
        sizes = "-".join(map(str, (pixels, *options.hidden, data.CLASSES)))
        raise UserError(
            f"{path}: holds {keys}, which do not make the network {sizes} that its flags describe: "
            f"the file was changed"
        ) from None
    return model
