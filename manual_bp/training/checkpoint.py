"""Checkpoints: what is in one, and how one is read that may be damaged, foreign or hostile."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manual_bp.training.errors import UserError
from manual_bp.training.plan import Plan
from manual_bp.training.terminal import FIGURES
from manual_bp.view.snapshots import Snapshots

FORMAT = 3
NAME = "checkpoint.pt"
# What each entry must be; "model" is the state dict.
_ENTRIES: dict[str, type] = {
    "epoch": int,
    "model": dict,
    "engine": dict,
    "shuffle": Tensor,
    "metrics": list,
    "plan": dict,
}


@dataclass(frozen=True)
class Checkpoint:
    """A run as it stood after an epoch."""

    path: Path
    plan: Plan
    epoch: int
    model: dict[str, Any]  # the state dict
    engine: dict[str, Any]
    shuffle: Tensor  # state of the generator that shuffles
    metrics: list[dict[str, Any]]  # rows of epochs 1 to `epoch`
    snapshots: Snapshots | None = None  # of a run that took any


def read(path: Path) -> Checkpoint:
    """Read a checkpoint: tensors and plain values only, so that no code in it can run.

    Raises:
        UserError: the file is missing, unreadable, damaged, no checkpoint of a run, or of another
            format.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such checkpoint") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: refused: damaged, or it holds objects other than tensors and plain values, "
            f"which could run code"
        ) from error
    except Exception as error:  # a damaged archive raises whatever its reader stumbles over
        raise UserError(f"{path}: damaged or not a checkpoint: {type(error).__name__}") from error
    if not isinstance(state, dict) or "format" not in state:
        raise UserError(
            f"{path}: not a checkpoint of train.py: resume from a run folder that train.py wrote"
        )
    if state["format"] != FORMAT:
        raise UserError(
            f"{path}: has the checkpoint format {state['format']!r}, this version reads {FORMAT}, "
            f"which names flags and layers otherwise: train anew, or use the version that wrote it"
        )
    for name, kind in _ENTRIES.items():
        if not isinstance(state.get(name), kind):
            raise UserError(
                f"{path}: its entry {name!r} is missing or not a {kind.__name__}: the file was "
                f"changed"
            )
    if not _are_rows(state["metrics"], state["epoch"]):
        raise UserError(
            f"{path}: its metrics are not those of epochs 1 to {state['epoch']}: the file was "
            f"changed"
        )
    try:
        plan = Plan.of(state["plan"])
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: its plan is that of no run ({error}): train anew") from error
    parameters, snapshots = sum((1 + n_in) * n_out for n_in, n_out in pairwise(plan.sizes)), None
    try:
        if "snapshots" in state:
            snapshots = Snapshots.of(state["snapshots"], parameters, state["epoch"])
    except ValueError as error:
        raise UserError(f"{path}: its snapshots: {error}: the file was changed") from error
    entries = {name: state[name] for name in _ENTRIES if name != "plan"}
    return Checkpoint(path, plan, **entries, snapshots=snapshots)


def _are_rows(metrics: list[Any], epochs: int) -> bool:
    """Whether these are the rows of epochs 1 to `epochs`, numbers all, each with its figures."""
    return len(metrics) == epochs and all(
        isinstance(row, dict)
        and row.get("epoch") == epoch
        and all(isinstance(row.get(name), int | float) for name in (*FIGURES, *row))
        for epoch, row in enumerate(metrics, start=1)
    )


def find(run: str, logdir: Path) -> Path:
    """The checkpoint of a run: its file, its folder, its name in `logdir`, or "latest" there.

    Raises:
        UserError: there is none; the message lists the runs that there are.
    """
    runs = _runs(logdir)
    if run == "latest" and runs:
        return max(runs, key=lambda path: path.stat().st_mtime_ns)
    for place in (Path(run), logdir / run):
        if place.is_file() and (place.name != NAME or not (place.parent / "config.json").is_file()):
            raise UserError(
                f"{place}: a run goes on in its own folder, and this is not a run's {NAME}: copy "
                f"the whole run folder, and name that"
            )
        for path in (place, place / NAME):
            if path.is_file():
                return path
    if run != "latest" and Path(run).is_dir():
        raise UserError(f"{Path(run) / NAME}: missing; a folder that a run wrote is needed")
    for folder in (Path(run).parent, logdir):
        names = [path.parent.name for path in _runs(folder)]
        if names:
            raise UserError(
                f"{run}: there is no such run; runs in {folder}: {', '.join(names[-5:])}"
            )
    raise UserError(f"{run}: there is no such run; no runs in {logdir}: train one first")


def _runs(folder: Path) -> list[Path]:
    """The checkpoints of the runs in `folder`; a name with a dot is that of one half made."""
    found = folder.glob(f"*/{NAME}")
    return sorted(path for path in found if not path.parent.name.startswith("."))
