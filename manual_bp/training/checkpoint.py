"""Checkpoints: what is in one, and how one is read that may be damaged, foreign or hostile."""

from __future__ import annotations

import math
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manual_bp.escape import escaped
from manual_bp.training import archive
from manual_bp.training.errors import UserError
from manual_bp.training.plan import Plan
from manual_bp.training.terminal import FIGURES
from manual_bp.view.snapshots import Snapshots

FORMAT = 4
_READ = (3, 4)  # 3 has a dict a row of metrics in place of a table
_NEEDED = (*FIGURES, "lr", "time/train_seconds")  # of each row: what is printed and drawn
_COLUMNS = 100_000
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


class Table:
    """The rows of metrics as one tensor: a list of dicts takes seconds an epoch after thousands."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._values = torch.empty(0, 0, dtype=torch.float64)  # has room for rows to come
        self._count = 0

    def state(self, rows: Sequence[Mapping[str, float]]) -> Any:
        """What a checkpoint keeps of `rows`: those of the last call, and new ones behind them."""
        for row in rows[self._count :]:
            if self._count == 0:
                self._names = list(row)
                self._values = torch.empty(16, len(row), dtype=torch.float64)
            elif list(row) != self._names:  # no run writes such
                return [dict(row) for row in rows]
            if self._count == len(self._values):
                self._values = torch.cat([self._values, torch.empty_like(self._values)])
            self._values[self._count] = torch.tensor(list(row.values()), dtype=torch.float64)
            self._count += 1
        return {"names": self._names, "values": self._values[: self._count].clone()}

    @staticmethod
    def rows(state: Any) -> list[dict[str, Any]]:
        """The rows that `state` made `state` of.

        Raises:
            ValueError: no table is like that.
        """
        names, values = state.get("names"), state.get("values")
        if set(state) != {"names", "values"} or type(names) is not list:
            raise ValueError("no table of names and values")
        if len(names) > _COLUMNS or not all(map(archive.is_text, names)):
            raise ValueError("no table with a name a column")
        archive.check_plain(values, torch.float64)
        if values.dim() != 2 or values.shape[1] != len(names) or len(set(names)) != len(names):
            raise ValueError(f"a table {tuple(values.shape)} of {len(names)} columns")
        found: list[dict[str, Any]] = [
            dict(zip(names, row, strict=True)) for row in values.tolist()
        ]
        for row in found:
            epoch = row.get("epoch")
            if epoch is not None and math.isfinite(epoch) and epoch == int(epoch):
                row["epoch"] = int(epoch)
        return found


def read(path: Path) -> Checkpoint:
    """Read a checkpoint: tensors and plain values only, so that no code in it can run.

    Raises:
        UserError: the file is missing, unreadable, damaged, no checkpoint of a run, or of another
            format.
    """
    try:
        state = archive.load(path)
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such checkpoint") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: refused: damaged, or it holds objects other than tensors and plain values, "
            f"which could run code"
        ) from error
    except ValueError as error:
        raise UserError(f"{path}: refused: {_line(error)}") from error
    except Exception as error:  # a damaged archive raises whatever its reader stumbles over
        raise UserError(f"{path}: damaged or not a checkpoint: {type(error).__name__}") from error
    if not isinstance(state, dict) or "format" not in state:
        raise UserError(
            f"{path}: not a checkpoint of train.py: resume from a run folder that train.py wrote"
        )
    if type(state["format"]) is not int or state["format"] not in _READ:
        raise UserError(
            f"{path}: has the checkpoint format {archive.shown(state['format'])}, this version "
            f"reads {' and '.join(map(str, _READ))}; another names flags and layers otherwise: "
            f"train anew, or use the version that wrote it"
        )
    if isinstance(state.get("metrics"), dict):
        try:
            state["metrics"] = Table.rows(state["metrics"])
        except ValueError as error:
            raise UserError(
                f"{path}: its metrics are {_line(error)}: the file was changed"
            ) from error
    for name, kind in _ENTRIES.items():
        if not isinstance(state.get(name), kind):
            raise UserError(
                f"{path}: its entry {name!r} is missing or not a {kind.__name__}: the file was "
                f"changed"
            )
    try:
        plan = Plan.of(state["plan"])
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{path}: its plan is that of no run ({_line(error)}): train anew"
        ) from error
    try:
        _check(state, plan)
    except ValueError as error:
        raise UserError(f"{path}: {_line(error)}: the file was changed") from error
    parameters, snapshots = sum((1 + n_in) * n_out for n_in, n_out in pairwise(plan.sizes)), None
    try:
        if "snapshots" in state:
            snapshots = Snapshots.of(state["snapshots"], parameters, state["epoch"])
    except ValueError as error:
        raise UserError(f"{path}: its snapshots: {_line(error)}: the file was changed") from error
    entries = {name: state[name] for name in _ENTRIES if name != "plan"}
    return Checkpoint(path, plan, **entries, snapshots=snapshots)


def _check(state: dict[str, Any], plan: Plan) -> None:
    """Check every value that a run or a page takes from the checkpoint, before anything is used.

    Raises:
        ValueError: one that no run of `plan` has written.
    """
    epoch, metrics, model = state["epoch"], state["metrics"], state["model"]
    if not archive.is_count(epoch, 0, plan.epochs):
        raise ValueError(f"its epoch {archive.shown(epoch)} is none of 0 to {plan.epochs}")
    if len(metrics) != epoch:
        raise ValueError(f"its metrics are not those of epochs 1 to {epoch}")
    for number, row in enumerate(metrics, start=1):
        fault = archive.row_fault(row, number, _NEEDED)
        if fault is not None:
            raise ValueError(f"its metrics are not those of epochs 1 to {epoch}: {fault}")
    layers = list(enumerate(pairwise(plan.sizes)))
    shapes: dict[str, tuple[int, ...]] = {}
    for i, (n_in, n_out) in layers:  # a Sigmoid lies between two Linears
        shapes |= {f"{2 * i}.weight": (n_out, n_in), f"{2 * i}.bias": (n_out,)}
    keys = ", ".join(archive.shown(key).strip("'\"") for key in list(model)[:4]) or "nothing"
    dtype: torch.dtype = getattr(torch, plan.dtype)
    seen = {name: tuple(getattr(value, "shape", ())) for name, value in model.items()}
    if seen != shapes:
        raise ValueError(f"holds {keys}, which do not make the network {plan.network} of its plan")
    for name, shape in shapes.items():
        try:
            archive.check_tensor(model[name], shape, dtype)
        except ValueError as error:
            raise ValueError(f"its {name} is {error}") from None
    archive.check_state(state["engine"])
    archive.check_tensor(state["shuffle"], torch.Generator().get_state().shape, torch.uint8)


def _line(error: Exception) -> str:
    """What went wrong, on one line of a moderate length."""
    return escaped(" ".join(str(error).split()))[:400] or type(error).__name__


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
