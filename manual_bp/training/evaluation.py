"""Cost and accuracy of a model over a whole part of the data."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from manual_bp.direct.statistics import wide
from manual_bp.training.data import CLASSES, PIXEL_SCALE, Part

# Rows a forward pass: few enough for the cache, and for the activations of a wide network to fit.
_CHUNK = 1000


Number = TypeVar("Number", float, Tensor)


def cost_per_example(reduction: str, squared_error: Number, examples: int) -> Number:
    """The cost as it is reported: Σ (a − y)² over `examples` examples, normalised as `reduction`
    says.

    "sum" is divided by the number of examples too; the figures of parts of different sizes could
    not be compared else.
    """
    divisor = {"half_per_example": 2, "half_per_element": 2 * CLASSES, "mean": CLASSES, "sum": 1}[
        reduction
    ]
    return squared_error / (divisor * examples)


@torch.no_grad()
def predict(model: nn.Module, images: Tensor, dtype: torch.dtype) -> Tensor:
    """The outputs a (m, 10) for uint8 images (m, pixels)."""
    x = images.new_empty(
        min(_CHUNK, len(images)), images.shape[1], dtype=dtype
    )  # one for all: new memory takes time
    return torch.cat(
        [model(x[: len(chunk)].copy_(chunk).mul_(PIXEL_SCALE)) for chunk in images.split(_CHUNK)]
    )


@torch.no_grad()
def evaluate(
    model: nn.Module, part: Part, reduction: str, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Cost and accuracy (a share, 0 to 1) over `part`, as two scalars still on the device."""
    outputs = predict(model, part.images, dtype)
    targets = torch.eye(CLASSES, dtype=dtype, device=part.labels.device)[part.labels]
    cost = cost_per_example(reduction, (outputs - targets).square().sum(), len(part))
    return cost, wide(outputs.argmax(1) == part.labels).mean()
