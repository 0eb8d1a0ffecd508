"""Reading a trained run for tracing: its network, one image of its data set, its cost and learning rate."""

from __future__ import annotations

import json
import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from manual_bp.modules import MLP


class RunError(Exception):
    """A run that cannot be traced. The message is one line: what was seen, and what to do."""


@dataclass(frozen=True)
class TrainedExample:
    """One image of the test part, with the network that a run trained.

    Attributes:
        model: the trained network.
        x: pixels in 0 to 1, (n_in,).
        y: the target, 1 for the label and 0 elsewhere, (n_out,).
        label: the label.
        dataset: the data set's name.
        cost: the run's `reduction`.
        lr: the run's learning rate.
    """

    model: MLP
    x: Tensor
    y: Tensor
    label: int
    dataset: str
    cost: str
    lr: float


def read(folder: Path, example: int) -> TrainedExample:
    """Read a run folder and test image number `example`.

    Raises:
        RunError: no such run, damaged or foreign files, data that is not there or does not fit, or no such image.
    """
    if not folder.is_dir():
        raise RunError(f"{folder}: there is no such run folder; {_neighbours(folder)}")
    config = _config(folder / "config.json")
    output = _setting(config, "output", "sigmoid")
    if output not in ("sigmoid", "linear"):
        raise RunError(f"{folder / 'config.json'}: output is {output!r}, sigmoid or linear expected")
    model = _model(folder / "checkpoint.pt", output)
    sizes = [model[0].in_features, *(layer.out_features for layer in model if isinstance(layer, torch.nn.Linear))]
    dataset = str(_setting(config, "dataset", "auto"))
    images, labels = _test_part(dataset, _setting(config, "data_dir", None))
    if not 0 <= example < len(labels):
        raise RunError(f"--example {example}: the test part of {dataset} has images 0 to {len(labels) - 1}")
    if images.shape[1] != sizes[0]:
        raise RunError(f"{folder}: its network takes {sizes[0]} pixels, the images of {dataset} have {images.shape[1]}")
    label = int(labels[example])
    if label >= sizes[-1]:
        raise RunError(f"{folder}: its network has {sizes[-1]} outputs, the image has the label {label}")
    x = images[example].double() / 255
    y = F.one_hot(torch.tensor(label), sizes[-1]).double()
    lr = _setting(config, "lr", 1.0)
    if not isinstance(lr, int | float):
        raise RunError(f"{folder / 'config.json'}: lr is {lr!r}, a number is needed")
    return TrainedExample(model, x, y, label, dataset, str(_setting(config, "cost", "half_per_example")), float(lr))


def _setting(config: dict[str, Any], name: str, default: Any) -> Any:
    """What the run used: the value it settled on, else the flag as it was given."""
    for settings in (config, config["flags"]):
        if settings.get(name) is not None:
            return settings[name]
    return default


def _config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path}: missing; a folder written by train.py is needed") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read ({type(error).__name__}); the run's configuration is damaged") from None
    if not isinstance(config, dict) or not isinstance(config.get("flags"), dict):
        raise RunError(f"{path}: has no entry 'flags'; a folder written by train.py is needed")
    return config


def _model(path: Path, output: str) -> MLP:
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise RunError(f"{path}: missing; the run has not finished its first epoch, or lost its checkpoint") from None
    except pickle.UnpicklingError:
        raise RunError(f"{path}: refused: damaged, or it holds more than tensors and plain values") from None
    except Exception as error:  # a damaged archive raises whatever its reader stumbles over
        raise RunError(f"{path}: damaged or not a checkpoint ({type(error).__name__})") from None
    state = checkpoint.get("model") if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise RunError(f"{path}: has no state dict under 'model'; a checkpoint written by train.py is needed")
    weights = [state[key] for key in state if re.fullmatch(r"\d+\.weight", key) and state[key].dim() == 2]
    biased = any(key.endswith(".bias") for key in state)
    try:
        sizes = [weights[0].shape[1], *(weight.shape[0] for weight in weights)]
        with torch.random.fork_rng(devices=[]):
            model = MLP(sizes, output=output, bias=biased, dtype=torch.float64)  # type: ignore[arg-type]
        model.load_state_dict(state)
    except (IndexError, RuntimeError, ValueError):
        keys = ", ".join(list(state)[:4])
        raise RunError(
            f"{path}: not a network of Linear and Sigmoid layers: it holds {keys or 'nothing'}, "
            f"where 0.weight, 0.bias, 2.weight, … are expected"
        ) from None
    return model


def _test_part(dataset: str, data_dir: Any) -> tuple[Tensor, Tensor]:
    # Training stands above trace, so it is imported here, when a run is really read.
    from manual_bp.training import data
    from manual_bp.training.errors import UserError

    try:
        part = data.load(dataset, data_dir).test
    except UserError as error:
        raise RunError(str(error)) from None
    except KeyError:
        raise RunError(f"{dataset!r} in config.json is no known data set") from None
    return part.images, part.labels


def _neighbours(folder: Path) -> str:
    """The runs beside the missing one."""
    parent = folder.parent
    names = sorted(path.parent.name for path in parent.glob("*/config.json")) if parent.is_dir() else []
    if not names:
        return f"no runs in {parent}: train one with python train.py"
    return f"runs in {parent}: {', '.join(names[-5:])}"
