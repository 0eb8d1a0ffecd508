"""What `Trainer` gives to a loop: a `Descent` once, and for each call a `Task`, checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from manual_bp.backprop import Layer
from manual_bp.direct.statistics import FIRST_NORM, NORMS_PER_LAYER
from manual_bp.normalisation import scale


class LoopUnavailableError(RuntimeError):
    """A loop cannot be had here. The message says why."""


@dataclass(frozen=True)
class Descent:
    """What to train, and how: v ← μ v + ∂C/∂W + λ W, then W ← W − η v; a bias alike."""

    layers: list[Layer]
    velocities: list[tuple[Tensor | None, Tensor | None]]  # v of W and of b; None where μ is 0
    reduction: str
    momentum: float  # μ
    weight_decay: float  # λ
    batch_size: int  # examples of a step, at most

    def parameters(self) -> Iterator[tuple[Layer, str, Tensor, Tensor | None]]:
        """For each parameter: its layer, "weight" or "bias", the parameter, and its v."""
        for layer, (v_weight, v_bias) in zip(self.layers, self.velocities, strict=True):
            yield layer, "weight", layer.weight, v_weight
            if layer.bias is not None:
                yield layer, "bias", layer.bias, v_bias

    def tensors(self) -> list[Tensor]:
        """Everything that a step changes."""
        return [t for _, _, *pair in self.parameters() for t in pair if t is not None]

    def scale(self, examples: int) -> float:
        """s of C = s Σ (a − y)² over so many examples."""
        return scale(self.reduction, torch.Size((examples, self.layers[-1].weight.shape[0])))


@dataclass(frozen=True)
class Task:
    """One step for each learning rate. Every step but the last takes a whole batch."""

    images: Tensor  # (N, n_in), uint8 or floating
    targets: Tensor  # (N, n_out), of the model's dtype
    order: Tensor | None  # (n,) int64, rows of both; None for 0 … N − 1
    lrs: Sequence[float] | Tensor  # η of each step
    batch: int  # m, at most n
    pixel_scale: float  # multiplies each element of `images`
    table: Tensor  # (steps, 2 + 3 layers), zeros that the loop fills: see statistics.py
    norms: bool  # whether the columns of the norms are wanted
    progress: Callable[[int], object]  # takes the number of steps done since its last call
    wrong: Sequence[Tensor] = ()  # whether labels, and indices, were out of range, on a GPU

    @property
    def examples(self) -> int:
        """n, of all steps."""
        return (self.images if self.order is None else self.order).shape[0]

    def part(self, first: int, count: int) -> Task:
        """`count` steps alone, from step `first` on."""
        if first == 0 and count >= self.table.shape[0]:
            return self
        steps = slice(first, first + count)
        rows = slice(first * self.batch, (first + count) * self.batch)
        lrs, table = self.lrs[steps], self.table[steps]
        if self.order is not None:
            return replace(self, order=self.order[rows], lrs=lrs, table=table)
        images, targets = self.images[rows], self.targets[rows]
        return replace(self, images=images, targets=targets, lrs=lrs, table=table)


class Loop(Protocol):
    """Makes the steps of tasks, for the `Descent` it was made for."""

    def run(self, task: Task) -> None:
        """Make the steps in place, and fill `task.table`. A GPU is not waited for."""
        ...


def prepare(
    descent: Descent,
    images: Tensor,
    targets: Tensor,
    order: Tensor | None,
    lrs: float | Sequence[float] | Tensor,
    *,
    pixel_scale: float | None,
    norms: bool,
    progress: Callable[[int], object],
) -> Task:
    """The `Task` of one call of `Trainer`, whose arguments are checked here.

    Raises:
        TypeError: images that are neither uint8 nor floating.
        RuntimeError: shapes, devices, labels or indices that do not fit.
        ValueError: learning rates that are not one number of at least 0 a step.
    """
    first, n_out = descent.layers[0].weight, descent.layers[-1].weight.shape[0]
    if not (images.is_floating_point() or images.dtype == torch.uint8):
        raise TypeError(f"input {images.dtype}: uint8 or a floating dtype is needed")
    if images.dim() < 2 or math.prod(images.shape[1:]) != first.shape[1]:
        raise RuntimeError(f"input {tuple(images.shape)}: (N, {first.shape[1]}) is expected")
    images = images.flatten(1)
    n = images.shape[0]
    targets, wrong_labels = _one_hot(targets, n_out)
    if targets.shape != (n, n_out):
        raise RuntimeError(f"target {tuple(targets.shape)}: ({n}, {n_out}) is expected")
    wrong_indices = None
    if order is not None:
        if order.dtype != torch.int64 or order.dim() != 1:
            raise RuntimeError(f"order {order.dtype} {tuple(order.shape)}: int64 (n,) is expected")
        order, wrong_indices = _in_range("indices", order, n)
        n = order.shape[0]
    for name, tensor in (("images", images), ("targets", targets), ("order", order)):
        if tensor is not None and tensor.device != first.device:
            raise RuntimeError(
                f"{name} on {tensor.device}, the model on {first.device}: one device is needed"
            )
    if pixel_scale is None:
        pixel_scale = 1 / 255 if images.dtype == torch.uint8 else 1.0
    steps = -(-n // descent.batch_size)
    columns = FIRST_NORM + NORMS_PER_LAYER * len(descent.layers)
    return Task(
        images=images,
        targets=targets.to(first.dtype),
        order=order,
        lrs=_rates(lrs, steps, n),
        batch=min(descent.batch_size, n),
        pixel_scale=pixel_scale,
        table=torch.zeros(steps, columns, dtype=first.dtype, device=first.device),
        norms=norms,
        progress=progress,
        wrong=[flag for flag in (wrong_labels, wrong_indices) if flag is not None],
    )


def _one_hot(targets: Tensor, n_out: int) -> tuple[Tensor, Tensor | None]:
    """Labels (N,) as rows (N, n_out), and as `_in_range`; any other targets as they are."""
    if targets.dim() != 1 or targets.is_floating_point():
        return targets, None
    labels, wrong = _in_range("labels", targets.long(), n_out)
    return F.one_hot(labels, n_out), wrong


def _in_range(name: str, numbers: Tensor, n: int) -> tuple[Tensor, Tensor | None]:
    """`numbers` within 0 … n − 1, and on a GPU, which is not waited for, whether they were not.

    A GPU's kernels would end the process's use of the GPU at a wrong index.
    """
    if numbers.device.type != "cpu":
        clamped = numbers.clamp(0, n - 1)
        return clamped, (clamped != numbers).any()
    if numbers.numel():
        least, largest = int(numbers.min()), int(numbers.max())
        if least < 0 or largest >= n:
            raise RuntimeError(f"{name} from {least} to {largest}: 0 … {n - 1} is expected")
    return numbers, None


def _rates(lrs: float | Sequence[float] | Tensor, steps: int, examples: int) -> list[float]:
    if isinstance(lrs, Tensor):
        rates = [float(rate) for rate in lrs.tolist()]
    elif isinstance(lrs, Sequence):
        rates = [float(rate) for rate in lrs]
    else:
        rates = [float(lrs)] * steps
    if len(rates) != steps:
        raise ValueError(f"{len(rates)} learning rates for {steps} steps ({examples} examples)")
    wrong = next((rate for rate in rates if not rate >= 0), None)
    if wrong is not None:
        raise ValueError(f"a learning rate of {wrong} is not a number of at least 0")
    return rates
