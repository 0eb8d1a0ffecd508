"""`Trainer`: whole epochs of stochastic gradient descent on a model's own parameters, without
autograd.
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from manual_bp.direct.arguments import (
    check_devices,
    check_images,
    check_order,
    learning_rates,
    pixel_scale_of,
    target_table,
)
from manual_bp.direct.eager import EagerEngine
from manual_bp.direct.epoch import Engine, Epoch
from manual_bp.direct.graph import GraphEngine
from manual_bp.direct.layers import Layer, layers
from manual_bp.direct.native import NativeEngine, NativeUnavailableError
from manual_bp.direct.one_pass import check_autocast, check_reduction
from manual_bp.direct.statistics import (
    FIRST_NORM,
    NORMS_PER_LAYER,
    SQUARED_ERROR,
    Launched,
    Statistics,
)
from manual_bp.ops.mse import scale

BACKENDS = ("auto", "torch", "native", "graph")
NATIVE_STEP_WEIGHTS = (
    30_000  # in the first layer, which the C++ loop turns round and back in each call
)


class Trainer:
    """Backpropagation and SGD in place, with the semantics of `mse_loss(model(x), y)` and
    `torch.optim.SGD`.

    The model's parameters are updated in place after every call, so `model.state_dict()` is always
    current. Their `.grad` is neither read nor written. With learning rate η, momentum μ, weight
    decay λ and g = ∂C/∂W + λ W: v ← μ v + g, W ← W − η v.

    The same inputs give the same bytes, whatever came before. The native backend gives them for
    every number of threads; the torch backend does as far as the matrix products of the machine's
    BLAS library do.

    Args:
        model: an `MLP`, or any `nn.Sequential` of Linear layers, each with or without a Sigmoid
            after it, in float32 or float64, with no frozen parameter.
        reduction: the cost's, as in `manual_bp.functional.mse_loss`, except "none".
        lr: learning rate η of `step`, and of `run` without `lrs`.
        momentum: μ.
        weight_decay: λ, for biases as for weights, as torch.optim.SGD does with one parameter
            group.
        batch_size: m, the largest batch.
        backend: "torch" is a loop of PyTorch calls; "native" a loop in C++, compiled on first use
            (CPU only); "graph" the PyTorch calls captured as CUDA graphs (CUDA only); "auto" is
            native on the CPU where it can be had (for `step`, which is a call a step, only where
            the first layer is small), graph on CUDA, else torch.

    Raises:
        TypeError: a module other than Linear and Sigmoid, or another dtype.
        RuntimeError: hooks, frozen or shared parameters, shapes that do not fit; "native" where it
            cannot be had.
        ValueError: an unknown reduction or backend, or a number out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        reduction: str = "mean",
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        batch_size: int,
        backend: str = "auto",
    ) -> None:
        check_reduction(reduction)
        if backend not in BACKENDS:
            raise ValueError(f"direct: backend {backend!r} is not one of {', '.join(BACKENDS)}")
        for name, value in (("lr", lr), ("momentum", momentum), ("weight_decay", weight_decay)):
            if not value >= 0:
                raise ValueError(f"direct: {name} {value} is not a number of at least 0")
        batch_size = operator.index(batch_size)
        if batch_size < 1:
            raise ValueError(f"direct: batch_size {batch_size} is less than 1")
        self._reduction, self._batch_size = reduction, batch_size
        self._momentum, self._weight_decay = momentum, weight_decay
        self.lr = lr
        self._model, self._layers = model, layers(model)
        self._named = {}
        for layer in self._layers:
            self._named[f"{layer.name}.weight".lstrip(".")] = layer.weight
            if layer.bias is not None:
                self._named[f"{layer.name}.bias".lstrip(".")] = layer.bias
        first = self._layers[0].weight
        self.device, self.dtype = first.device, first.dtype
        if self.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"direct: the model is {self.dtype}: float32 or float64 is needed")
        self._shapes = {name: parameter.shape for name, parameter in self._named.items()}
        self._check_parameters()
        self._buffers = {n: torch.zeros_like(p) for n, p in self._named.items()} if momentum else {}
        options: dict[str, Any] = {
            "reduction": reduction,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "batch_size": batch_size,
        }
        buffers = _by_layer(self._layers, list(self._buffers.values()))
        self.backend, self._engine = self._choose(backend, buffers, options)
        self._step_engine = self._engine
        if backend == "auto" and self.backend == "native" and first.numel() > NATIVE_STEP_WEIGHTS:
            self._step_engine = EagerEngine(self._layers, buffers, **options)

    @property
    def reduction(self) -> str:
        """As given: a new Trainer takes another."""
        return self._reduction

    @property
    def momentum(self) -> float:
        """As given: a new Trainer takes another."""
        return self._momentum

    @property
    def weight_decay(self) -> float:
        """As given: a new Trainer takes another."""
        return self._weight_decay

    @property
    def batch_size(self) -> int:
        """As given: a new Trainer takes another."""
        return self._batch_size

    def _choose(
        self,
        backend: str,
        buffers: list[tuple[Tensor | None, Tensor | None]],
        options: dict[str, Any],
    ) -> tuple[str, Engine]:
        if backend == "native" or (backend == "auto" and self.device.type == "cpu"):
            try:
                return "native", NativeEngine(self._layers, buffers, **options)
            except NativeUnavailableError as error:
                if backend == "native":
                    raise
                print(f"manual_bp: {error}; training with PyTorch calls instead", file=sys.stderr)
        if backend == "graph" or (backend == "auto" and self.device.type == "cuda"):
            if self.device.type != "cuda":
                raise RuntimeError(
                    f"direct: backend 'graph' needs a model on CUDA, not on {self.device}"
                )
            return "graph", GraphEngine(self._layers, buffers, **options)
        return "torch", EagerEngine(self._layers, buffers, **options)

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        """One step on one batch.

        Args:
            x: input of shape (m, n_in), m at most `batch_size`; uint8 is multiplied by 1/255, as by
                `run`.
            y: target of shape (m, n_out).

        Returns:
            C before the update, a scalar on the device.

        Raises:
            TypeError: an input that is neither uint8 nor floating, or a model that was converted
                since.
            RuntimeError: shapes that do not fit, an empty batch, or a model that was moved or
                rebuilt since.
        """
        if x.dim() == 0 or not 0 < x.shape[0] <= self.batch_size:
            raise RuntimeError(
                f"direct: x {tuple(x.shape)}: between 1 and batch_size = {self.batch_size} rows "
                f"are needed"
            )
        table = self._run(
            self._step_engine, x, y, None, [float(self.lr)], pixel_scale_of(x), norms=False
        )
        return table[0, SQUARED_ERROR] * self._scale(x.shape[0])

    def run(
        self,
        images: Tensor,
        targets: Tensor,
        order: Tensor | None = None,
        lrs: Sequence[float] | Tensor | None = None,
        *,
        pixel_scale: float | None = None,
        norms: bool = True,
    ) -> Statistics:
        """One step for each `batch_size` indices of `order`; the last batch may be smaller.

        Args:
            images: N examples, shape (N, n_in) or (N, ...) of n_in elements each, uint8 or
                floating, on the model's device.
            targets: labels of shape (N,), which become one-hot rows, or a table of shape (N,
                n_out), taken as it is.
            order: indices into `images`, int64, for example `torch.randperm(N)`; None for 0 … N −
                1.
            lrs: a learning rate for each step, as many as there are steps; None for `lr`
                throughout.
            pixel_scale: what each element of `images` is multiplied by; 1/255 for uint8 and 1 for
                floating by default.
            norms: measure gradient and error-signal norms as well.

        Returns:
            The epoch's `Statistics`; the device is waited for once.

        Raises:
            TypeError: images that are neither uint8 nor floating, or a model that was converted
                since.
            RuntimeError: shapes, devices or indices that do not fit, or a model that was moved or
                rebuilt since.
            ValueError: a number of learning rates that is not the number of steps.
        """
        return self.launch(images, targets, order, lrs, pixel_scale=pixel_scale, norms=norms).wait()

    def launch(
        self,
        images: Tensor,
        targets: Tensor,
        order: Tensor | None = None,
        lrs: Sequence[float] | Tensor | None = None,
        *,
        pixel_scale: float | None = None,
        norms: bool = True,
        progress: Callable[[int], object] = lambda _: None,
    ) -> Launched:
        """`run` without waiting for the device: what it returns has the figures when they are asked
        for.

        `progress` is called every now and then with the number of steps done since its last call;
        what it raises ends the epoch there.
        """
        if images.dim() < 2:
            raise RuntimeError(
                f"direct: input {tuple(images.shape)}: examples of shape (N, ...) are expected"
            )
        n = images.shape[0] if order is None else order.shape[0]
        steps = math.ceil(n / self.batch_size)
        rates = learning_rates(lrs, self.lr, steps, n)
        if pixel_scale is None:
            pixel_scale = pixel_scale_of(images)
        table = self._run(
            self._engine, images.flatten(1), targets, order, rates, pixel_scale, norms, progress
        )
        return Launched.of(table, n, self._scale(n), self._layers, norms)

    def state_dict(self) -> dict[str, Any]:
        """Momentum buffers by parameter name; empty without momentum. The parameters are the
        model's own.
        """
        return {"momentum": {name: buffer.clone() for name, buffer in self._buffers.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the buffers of `state_dict`.

        Raises:
            RuntimeError: the names or shapes are not those of this trainer's buffers; none is taken
                over then.
        """
        if "momentum" not in state:
            raise RuntimeError(
                f"direct: a state with {sorted(state)}: what Trainer.state_dict returned is "
                f"expected"
            )
        saved = state["momentum"]
        if set(saved) != set(self._buffers):
            raise RuntimeError(
                f"direct: saved momentum for {sorted(saved)}: {sorted(self._buffers)} is expected"
            )
        for name, buffer in self._buffers.items():
            if saved[name].shape != buffer.shape:
                raise RuntimeError(
                    f"direct: saved momentum of {name} {tuple(saved[name].shape)}: "
                    f"{tuple(buffer.shape)} is expected"
                )
        for name, buffer in self._buffers.items():  # all of them, or none
            buffer.copy_(saved[name])

    def _scale(self, examples: int) -> float:
        n_out = self._layers[-1].weight.shape[0]
        return scale(self.reduction, torch.Size((examples, n_out)))

    def _run(
        self,
        engine: Engine,
        images: Tensor,
        targets: Tensor,
        order: Tensor | None,
        lrs: list[float],
        pixel_scale: float,
        norms: bool,
        progress: Callable[[int], object] = lambda _: None,
    ) -> Tensor:
        self._check_parameters()
        n_in, n_out = self._layers[0].weight.shape[1], self._layers[-1].weight.shape[0]
        n = images.shape[0]
        check_images(images, n_in)
        targets = target_table(targets, n, n_out)
        if order is not None:
            check_order(order, n)
        check_devices(self.device, images=images, targets=targets, order=order)
        columns = FIRST_NORM + NORMS_PER_LAYER * len(self._layers)
        table = torch.zeros(len(lrs), columns, dtype=self.dtype, device=self.device)
        engine.run(
            Epoch(images, targets.to(self.dtype), order, lrs, pixel_scale, table, norms, progress)
        )
        return table

    def _check_parameters(self) -> None:
        """Each time: the model may have been moved, converted or rebuilt since."""
        check_autocast(self.device)
        if [(id(a.weight), id(a.bias), a.sigmoid) for a in layers(self._model)] != [
            (id(b.weight), id(b.bias), b.sigmoid) for b in self._layers
        ]:
            raise RuntimeError(
                "direct: the model has other layers or parameters than it had: make a new Trainer"
            )
        for name, parameter in self._named.items():
            if parameter.shape != self._shapes[name]:
                raise RuntimeError(
                    f"direct: {name} is {tuple(parameter.shape)}, it was "
                    f"{tuple(self._shapes[name])}: "
                    f"make a new Trainer"
                )
            if parameter.dtype != self.dtype:
                raise TypeError(
                    f"direct: {name} is {parameter.dtype}, the first layer was {self.dtype}"
                )
            if parameter.device != self.device:
                raise RuntimeError(
                    f"direct: {name} is on {parameter.device}, the first layer was on {self.device}"
                )
            if not parameter.requires_grad:
                raise RuntimeError(
                    f"direct: {name} is frozen: use the autograd engine for this model"
                )


def _by_layer(
    layers: list[Layer], buffers: list[Tensor]
) -> list[tuple[Tensor | None, Tensor | None]]:
    """Momentum buffers, one for each parameter in order, as (weight's, bias's); (None, None)
    without momentum.
    """
    if not buffers:
        return [(None, None)] * len(layers)
    rest = iter(buffers)
    return [(next(rest), next(rest) if layer.bias is not None else None) for layer in layers]
