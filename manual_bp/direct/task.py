"""What `Trainer` gives to a loop: a `Descent` once, and for each call a `Task`, checked."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from manual_bp.backprop import Layer
from manual_bp.direct import memory
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

    def written(self) -> Iterator[tuple[str, Tensor]]:
        """Everything that a step changes, by name."""
        for layer, name, parameter, v in self.parameters():
            yield f"{layer}: {name}", parameter
            if v is not None:
                yield f"{layer}: v of {name}", v

    def tensors(self) -> list[Tensor]:
        """Everything that a step changes."""
        return [tensor for _, tensor in self.written()]

    def scale(self, examples: int) -> float:
        """s of C = s Σ (a − y)² over so many examples."""
        return scale(self.reduction, torch.Size((examples, self.layers[-1].weight.shape[0])))


@dataclass(frozen=True)
class Task:
    """One step for each learning rate. Every step but the last takes a whole batch."""

    images: Tensor  # (N, n_in), uint8 or floating
    targets: Tensor  # (N, n_out), of the model's dtype; or labels (N,) int64, for one-hot rows
    order: Tensor | None  # (n,) int64, rows of both; None for 0 … N − 1
    lrs: Sequence[float] | Tensor  # η of each step
    batch: int  # m, at most n
    pixel_scale: float  # multiplies each element of `images`
    table: Tensor  # (steps, 2 + 3 layers), zeros that the loop fills: see statistics.py
    norms: bool  # whether the columns of the norms are wanted
    progress: Callable[[int], object] = lambda _: None  # takes the steps done since its last call
    wrong: Sequence[Tensor] = ()  # whether labels, and indices, were out of range, on a GPU

    @property
    def examples(self) -> int:
        """n, of all steps."""
        return (self.images if self.order is None else self.order).shape[0]

    @property
    def has_labels(self) -> bool:
        """Whether `targets` are labels."""
        return self.targets.dim() == 1

    def fill_targets(self, rows: Tensor) -> None:
        """Write y of every example, in order, into `rows` (n, n_out)."""
        if self.has_labels:
            labels = self.targets if self.order is None else self.targets[self.order]
            rows.zero_().scatter_(1, labels[:, None], 1)
        elif self.order is None:
            rows.copy_(self.targets)
        else:
            torch.index_select(self.targets, 0, self.order, out=rows)

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
) -> Task:
    """The `Task` of one call of `Trainer`, whose arguments are checked here.

    Raises:
        TypeError: images that are neither uint8 nor floating, complex targets, or an argument that
            is no plain tensor or no number.
        RuntimeError: shapes, devices, labels or indices that do not fit.
        ValueError: learning rates that are not one number of at least 0 a step, or a pixel scale
            that is not finite.
    """
    memory.refuse_strangers(images=images, targets=targets)
    if order is not None:
        memory.refuse_strangers(order=order)
    first, n_out = descent.layers[0].weight, descent.layers[-1].weight.shape[0]
    if not (images.is_floating_point() or images.dtype == torch.uint8):
        raise TypeError(f"input {images.dtype}: uint8 or a floating dtype is needed")
    if images.dim() < 2 or math.prod(images.shape[1:]) != first.shape[1]:
        raise RuntimeError(f"input {tuple(images.shape)}: (N, {first.shape[1]}) is expected")
    images = images.detach().flatten(1)  # a tensor of its own, which keeps its shape
    n = images.shape[0]
    if targets.is_complex():
        raise TypeError(f"target {targets.dtype}: real numbers are needed")
    wrong_labels = None
    is_labels = targets.dim() == 1 and not targets.is_floating_point()
    if targets.shape != ((n,) if is_labels else (n, n_out)):
        expected = f"({n}, {n_out}), or labels ({n},)"
        raise RuntimeError(f"target {tuple(targets.shape)}: {expected} is expected")
    if is_labels:  # a copy: nobody else changes what was checked
        targets, wrong_labels = _in_range("labels", targets.to(torch.int64, copy=True), n_out)
    else:
        targets = targets.detach().to(first.dtype)
    wrong_indices = None
    if order is not None:
        if order.dtype != torch.int64 or order.dim() != 1:
            raise RuntimeError(f"order {order.dtype} {tuple(order.shape)}: int64 (n,) is expected")
        order, wrong_indices = _in_range("indices", order.clone(), n)
        n = order.shape[0]
    for name, tensor in (("images", images), ("targets", targets), ("order", order)):
        if tensor is not None and tensor.device != first.device:
            raise RuntimeError(
                f"{name} on {tensor.device}, the model on {first.device}: one device is needed"
            )
    if pixel_scale is None:
        pixel_scale = 1 / 255 if images.dtype == torch.uint8 else 1.0
    pixel_scale = number("pixel_scale", pixel_scale, first.dtype, least=-math.inf)
    steps = -(-n // descent.batch_size)
    columns = FIRST_NORM + NORMS_PER_LAYER * len(descent.layers)
    return Task(
        images=images,
        targets=targets,
        order=order,
        lrs=_rates(lrs, steps, n, first.dtype),
        batch=min(descent.batch_size, n),
        pixel_scale=pixel_scale,
        table=torch.zeros(steps, columns, dtype=first.dtype, device=first.device),
        norms=bool(norms),
        wrong=[flag for flag in (wrong_labels, wrong_indices) if flag is not None],
    )


def _in_range(name: str, found: Tensor, n: int) -> tuple[Tensor, Tensor | None]:
    """`found` within 0 … n − 1, and on a GPU, which is not waited for, whether they were not.

    A GPU's kernels would end the process's use of the GPU at a wrong index.
    """
    if found.device.type != "cpu":
        clamped = found.clamp(0, n - 1)
        return clamped, (clamped != found).any()
    if found.numel():
        least, largest = int(found.min()), int(found.max())
        if least < 0 or largest >= n:
            raise RuntimeError(f"{name} from {least} to {largest}: 0 … {n - 1} is expected")
    return found, None


def _rates(
    lrs: float | Sequence[float] | Tensor, steps: int, examples: int, dtype: torch.dtype
) -> list[float]:
    if isinstance(lrs, Tensor) and lrs.dim():
        memory.check("lrs", lrs)
        if lrs.dim() > 1 or lrs.is_complex():
            raise TypeError(
                f"lrs {lrs.dtype} {tuple(lrs.shape)}: a real number for each of {steps} steps is "
                f"expected"
            )
        lrs = lrs.tolist()
    several = isinstance(lrs, Sequence) and not isinstance(lrs, str | bytes)
    rates = list(lrs) if several else [lrs] * steps  # type: ignore[arg-type]
    if len(rates) != steps:
        raise ValueError(f"{len(rates)} learning rates for {steps} steps ({examples} examples)")
    return [number("a learning rate of", rate, dtype) for rate in rates]


def number(name: str, value: object, dtype: torch.dtype, *, least: float = 0) -> float:
    """`value` as a float of at least `least`, and finite in the model's dtype.

    Raises:
        TypeError: it is no real number.
        ValueError: it is out of range.
    """
    scalar = isinstance(value, Tensor) and value.dim() == 0 and not value.is_complex()
    if not (isinstance(value, numbers.Real) or scalar):
        raise TypeError(f"{name} {value!r} is not a number")
    try:
        found = float(value)  # type: ignore[arg-type]
    except OverflowError:
        found = math.inf
    if not (found >= least and abs(found) <= torch.finfo(dtype).max):
        what = "a finite number" if least < 0 else f"a finite number of at least {least:g}"
        raise ValueError(f"{name} {found} is not {what}")
    return found
