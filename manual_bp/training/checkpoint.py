"""Checkpoints: what is in one, and reading one that may be damaged, foreign, or harmful."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from manual_bp.training import terminal
from manual_bp.training.errors import UserError
from manual_bp.training.options import Options, restore

FORMAT = 2
NAME = "checkpoint.pt"
# What --resume may change; everything else is the run's own.
_MAY_CHANGE = {
    "epochs",
    "data_dir",
    "device",
    "threads",
    "histograms",
    "resume",
    "logdir",
    "dry_run",
}
# What each entry must be; "model" is the state dict.
_ENTRIES: dict[str, type] = {
    "epoch": int,
    "epochs": int,
    "batch_size": int,
    "lr": float,
    "model": dict,
    "engine": dict,
    "engine_name": str,
    "shuffle": torch.Tensor,
    "metrics": list,
    "flags": dict,
    "dataset": str,
    "data_fingerprint": str,
}


def read(path: Path) -> dict[str, Any]:
    """Read a checkpoint: tensors and plain values only, so that no code in it can run.

    Raises:
        UserError: it is missing, unreadable, damaged, no checkpoint of a run, or of another format.
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
            f"{path}: has the checkpoint format {state['format']!r}, this version reads {FORMAT}: "
            f"train anew, or use "
            f"the version that wrote it"
        )
    for name, kind in _ENTRIES.items():
        if not isinstance(state.get(name), kind):
            raise UserError(
                f"{path}: its entry {name!r} is missing or not a {kind.__name__}: the file was "
                f"changed"
            )
    try:
        epochs = [row["epoch"] for row in state["metrics"] if terminal.line(row)]
    except (KeyError, TypeError, ValueError):
        epochs = None
    if epochs != list(range(1, state["epoch"] + 1)):
        raise UserError(
            f"{path}: its metrics are not those of epochs 1 to {state['epoch']}: the file was "
            f"changed"
        )
    return state


def find(resume: str, logdir: Path) -> Path:
    """The checkpoint that --resume means: a file, a run's folder or name, or "latest", written last
    in `logdir`.

    Raises:
        UserError: there is none.
    """
    if resume != "latest":
        path = Path(resume)
        if not path.exists() and (logdir / resume / NAME).is_file():  # the name of a run
            path = logdir / resume
        if path.is_file() and (path.name != NAME or not (path.parent / "config.json").is_file()):
            raise UserError(
                f"{path}: a run goes on in its own folder, and this is not a run's {NAME}: copy "
                f"the whole run folder, "
                f"and resume that"
            )
        return path / NAME if path.is_dir() else path
    try:
        folders = [
            folder for folder in logdir.iterdir() if not folder.name.startswith(".")
        ]  # not one half made
        found = [folder / NAME for folder in folders if (folder / NAME).is_file()]
    except OSError:
        found = []
    if not found:
        raise UserError(
            f"--resume latest: no run with a {NAME} in {logdir}: start one without --resume"
        )
    return max(found, key=lambda path: path.stat().st_mtime_ns)


def device(options: Options, given: set[str]) -> str:
    """The device to compute on, as --device takes it: that of the run which is resumed, where the
    flag is not given.

    Raises:
        UserError: as `find`, `read` and `resumed_options`.
    """
    if options.resume is None:
        return options.device
    path = find(options.resume, Path(options.logdir))
    return resumed_options(options, given, read(path), path).device


def resumed_options(
    options: Options, given: set[str], state: dict[str, Any], path: Path
) -> Options:
    """The flags a resumed run goes on with: the run's own, and of the command line's those that may
    change.

    Raises:
        UserError: a flag that was given contradicts the run.
    """
    try:
        restore(state["flags"])
        # "auto" has settled on one, which the checkpoint's data are of
        kept = restore({**state["flags"], "dataset": state["dataset"]})
    except ValueError as error:
        raise UserError(
            f"{path}: its flags are not those of this version ({error}): train anew"
        ) from error
    for name in sorted(given - _MAY_CHANGE):
        seen, saved = getattr(options, name), getattr(kept, name)
        if saved is None and name in ("batch_size", "lr"):  # the run's own choice
            saved = state[name]
        if seen != saved and (name, seen) != ("dataset", "auto"):
            flag = "--" + name.replace("_", "-")
            raise UserError(
                f"{path}: that run has {flag} {_shown(saved)}, the command line {flag} "
                f"{_shown(seen)}: leave {flag} "
                f"out to continue it, or start a new run without --resume"
            )
    changed = {name: getattr(options, name) for name in (given & _MAY_CHANGE) | {"resume"}}
    return replace(kept, engine=state["engine_name"], **changed)


def _shown(value: Any) -> str:
    if value is None:
        return "at its default"
    if isinstance(value, float):
        return f"{value:g}"
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
