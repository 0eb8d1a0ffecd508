"""What the page is given, in the format that `bundle` describes: a run, or one example.

A run's page also has `dataset`, `part` ("validation" while the run goes on, then "test") and
`indices`: the numbers of its images in that part, from 0.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from manual_bp.backprop import Layer
from manual_bp.notation import Units
from manual_bp.view.snapshots import Snapshots, base64_of

FORMAT = 1
_ROWS = 400_000  # characters that the metrics take of a page
_WEIGHTS = 300_000  # numbers of an example's network, about 20 characters each


def of_run(
    name: str,
    layers: Sequence[Layer],
    snapshots: Snapshots,
    rows: Sequence[Mapping[str, Any]],
    images: Tensor,
    labels: Tensor,
    **settings: Any,
) -> dict[str, Any]:
    """The page of a run.

    Args:
        name: the run's.
        layers: the network's.
        snapshots: at least one.
        rows: of metrics.jsonl.
        images: uint8 (n, pixels).
        labels: int64 (n,).
        settings: every other entry of a run's page.
    """
    return {
        **_of_layers(name, "run", layers),
        "epochs": snapshots.epochs,
        "weights": snapshots.texts(),
        "metrics": _few(rows, set(snapshots.epochs)),
        "images": base64_of(images),
        "labels": labels.tolist(),
        "notation": 1,
        **settings,
    }


def of_example(
    name: str,
    layers: Sequence[Layer],
    x: Tensor,
    y: Tensor,
    *,
    cost: str,
    lr: float,
    notation: int,
    units: Units | None = None,
    title: str = "",
) -> dict[str, Any]:
    """The page of a network and one example: x (n_in,), y (n_out,).

    Raises:
        ValueError: sizes that do not fit, a number that is not finite, or a network that is too
            large for a page.
    """
    sizes = (layers[0].weight.shape[1], layers[-1].weight.shape[0])
    if (x.numel(), y.numel()) != sizes:
        raise ValueError(f"x {tuple(x.shape)}, y {tuple(y.shape)}: {sizes} numbers are expected")
    bias, weights = any(layer.bias is not None for layer in layers), list[float]()
    for layer in layers:
        own = layer.weight.new_zeros(len(layer.weight)) if layer.bias is None else layer.bias
        for values in (layer.weight, own) if bias else (layer.weight,):
            weights += values.detach().flatten().tolist()
    if len(weights) > _WEIGHTS:
        raise ValueError(f"{name}: {len(weights)} weights; a page holds {_WEIGHTS}")
    given = (*weights, *x.flatten().tolist(), *y.flatten().tolist(), lr)
    if not all(map(math.isfinite, given)):
        raise ValueError(f"{name}: a weight, an input, a target or the learning rate is not finite")
    return {
        **_of_layers(name, "example", layers),
        "title": title,
        "cost": cost,
        "lr": lr,
        "batch": 1,
        "seed": 0,
        "epochs": [0],
        "weights": [weights],
        "bias": bias,
        "metrics": [],
        "trouble": [],
        "finished": True,
        "notation": notation,
        "units": units,
        "x": x.flatten().tolist(),
        "y": y.flatten().tolist(),
    }


def _of_layers(name: str, kind: str, layers: Sequence[Layer]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "kind": kind,
        "name": name.encode(errors="replace").decode(),  # a folder's name may be no text
        "sizes": [layers[0].weight.shape[1], *(layer.weight.shape[0] for layer in layers)],
        "activations": ["sigmoid" if layer.sigmoid else "linear" for layer in layers],
    }


def _few(rows: Sequence[Mapping[str, Any]], kept: set[int]) -> list[dict[str, Any]]:
    """The rows with None for what is not finite; of very many only some, those of `kept` and the
    last two among them: a test result is a row of its own.
    """
    plain = [{key: _finite(value) for key, value in row.items()} for row in rows]
    step = math.ceil(sum(len(json.dumps(row)) for row in plain) / _ROWS) if plain else 1
    last = len(plain) - 2
    return [
        row for i, row in enumerate(plain) if i % step == 0 or i >= last or row["epoch"] in kept
    ]


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
