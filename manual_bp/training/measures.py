"""Measures of a network as it stands: its cost, its accuracy, and each of its layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from manual_bp import backprop
from manual_bp.backprop import Layer
from manual_bp.devices import wide
from manual_bp.normalisation import scale
from manual_bp.training.data import PIXEL_SCALE, Part

PROBE_ROWS = 500  # validation images on which the layers are measured
SATURATED_SLOPE = 0.01  # below it a slope lets through less than 1/25 of what ¼ would
DEAD_SPREAD = 0.01  # a unit whose output varies by less says nothing about the images
# A unit that varies by less, with a smaller mean slope, gets next to no error and stays as it is.
STUCK_SPREAD, STUCK_SLOPE = 0.05, 3e-4
# Images in a forward pass, so that a wide network's activations fit into memory; few launches on a
# GPU, which has room for them.
_CHUNK, _CUDA_CHUNK = 1000, 10_000

Number = TypeVar("Number", float, Tensor)


def cost_per_example(reduction: str, squared_error: Number, examples: int, n_out: int) -> Number:
    """The mean of the examples' own costs: s Σ (a − y)² / `examples`, with the s of m = 1.

    This is C of all examples as one batch. For "sum" it is C / m, because the sums of parts of
    different sizes do not compare.
    """
    return squared_error * (scale(reduction, (1, n_out)) / examples)


def guessing(part: Part, reduction: str) -> tuple[float, float]:
    """Cost and accuracy of the best answer that is the same for every image."""
    share = wide(part.labels.bincount(minlength=part.n_out)) / len(part)  # p  (n_out,)
    # The cheapest constant answer is p. An example's Σ (a − y)² is then Σ p (1 − p).
    cost = cost_per_example(reduction, float((share * (1 - share)).sum()), 1, part.n_out)
    return cost, float(share.max())


@torch.no_grad()
def predict(model: nn.Module, images: Tensor, dtype: torch.dtype) -> Tensor:
    """The outputs a (m, n_out) for uint8 images (m, pixels)."""
    size = _CUDA_CHUNK if images.is_cuda else _CHUNK
    # Every chunk is scaled in the same memory, because new memory takes time.
    x = images.new_empty(min(size, len(images)), images.shape[1], dtype=dtype)
    return torch.cat(
        [model(x[: len(chunk)].copy_(chunk).mul_(PIXEL_SCALE)) for chunk in images.split(size)]
    )


@torch.no_grad()
def evaluate(
    model: nn.Module, part: Part, reduction: str, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Cost and accuracy (a share, 0 to 1) over `part`, as two scalars on the device."""
    outputs = predict(model, part.images, dtype)
    squared_error = (outputs - part.targets(dtype)).square().sum()
    cost = cost_per_example(reduction, squared_error, len(part), part.n_out)
    return cost, wide(outputs.argmax(1) == part.labels).mean()


def examples(part: Part, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The first images of `part` as inputs x (m, pixels) and one-hot targets y."""
    return part[:PROBE_ROWS].batch(dtype)


def of_epoch(
    model: nn.Sequential, validation: Part, reduction: str, before: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Everything that is measured at the end of an epoch: scalars on the device, by tag.

    Cost and accuracy are of all validation images, the layers' measures of the first. `before` has
    W and b of each layer at the beginning of the epoch, the first layer first.
    """
    layers = backprop.read(model)
    dtype = layers[0].weight.dtype
    cost, accuracy = evaluate(model, validation, reduction, dtype)
    found = {"cost/validation": cost, "accuracy/validation": accuracy}
    found |= of_layers(layers, *examples(validation, dtype))
    parameters = [named for layer in layers for named in layer.parameters.items()]
    for (name, parameter), old in zip(parameters, before, strict=True):
        # ‖W_after − W_before‖ / ‖W_before‖; 1 for a parameter that was all 0
        new, size = parameter.detach(), old.norm()
        size = torch.where(size > 0, size, new.norm()).clamp_min(1e-12)
        found[f"update_ratio/{name}"] = (new - old).norm() / size
    return found


def of_layers(layers: Sequence[Layer], x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """How every layer stands for inputs x (m, n_in) and targets y (m, n_out).

    Returns:
        Scalars on the device. Every layer has "dead/layer01", the share of its units whose output
        is constant. A layer with a sigmoid has four more: "slope/layer01", the mean σ′(z), at
        most ¼; "saturated/layer01", the share of σ′(z) < 0.01; "passed/layer01", ‖δ‖ / ‖∂C/∂a‖,
        the share of the error that the slope lets through, at most ¼; "stuck/layer01", the share
        of units that are nearly constant and have a slope near 0.
    """
    found: dict[str, Tensor] = {}
    for seen in backprop.backpropagate(layers, x, y, "sum"):  # every ratio is the same for all s
        tag = seen.layer.tag
        spread = seen.a.amax(0) - seen.a.amin(0)  # (n_out,)
        found[f"dead/{tag}"] = wide(spread < DEAD_SPREAD).mean()
        if seen.layer.sigmoid:
            slope = seen.slope.mean(0)  # of each unit  (n_out,)
            stuck = (spread < STUCK_SPREAD) & (slope < STUCK_SLOPE)  # (n_out,)
            # At least the tiniest number: where no error arrives, 0 is let through and not 0/0.
            error = seen.error.norm().clamp_min(torch.finfo(x.dtype).tiny)
            found[f"slope/{tag}"] = slope.mean()
            found[f"saturated/{tag}"] = wide(seen.slope < SATURATED_SLOPE).mean()
            found[f"passed/{tag}"] = seen.delta.norm() / error
            found[f"stuck/{tag}"] = wide(stuck).mean()
    return found


def distributions(
    layers: Sequence[Layer], x: Tensor, y: Tensor, reduction: str
) -> dict[str, Tensor]:
    """What --histograms shows of every layer, for inputs x (m, n_in) and targets y (m, n_out).

    Returns:
        "weights/layer01.weight" and "gradients/layer01.weight", the same of ".bias";
        "activations/layer01", a (m, n_out); "delta/layer01", δ = ∂C/∂z (m, n_out).
    """
    found: dict[str, Tensor] = {}
    for seen in backprop.backpropagate(layers, x, y, reduction):
        found |= {f"weights/{name}": p.detach() for name, p in seen.layer.parameters.items()}
        gradients = [gradient for gradient in (seen.dW, seen.db) if gradient is not None]
        names = [f"gradients/{name}" for name in seen.layer.parameters]
        found |= dict(zip(names, gradients, strict=True))
        found[f"activations/{seen.layer.tag}"] = seen.a
        found[f"delta/{seen.layer.tag}"] = seen.delta
    return found
