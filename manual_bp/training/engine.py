"""What a run needs of an engine, and the engine that goes through autograd: forward, `backward()`,
SGD.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from manual_bp.ops.mse import scale
from manual_bp.training.data import CLASSES, PIXEL_SCALE, Part
from manual_bp.training.evaluation import cost_per_example
from manual_bp.training.network import criterion
from manual_bp.training.options import Options
from manual_bp.training.tally import Tally
from manual_bp.training.world import World


@dataclass(frozen=True)
class EpochStatistics:
    """Of an epoch's training: means over its steps, each measured just before the update that it
    causes.
    """

    cost: float  # mean over the examples
    accuracy: float  # share of the examples
    grad_norm: float  # Euclidean norm of the mini-batch gradient, all parameters as one vector
    grad_norms: dict[str, float]  # the same for each parameter
    delta_norms: dict[str, float]  # Frobenius norm of δ (m, n_out) for each linear layer


@dataclass(frozen=True)
class Trained:
    """An epoch whose steps are on their way: its figures are still on the device, to be read when
    it suits.

    Attributes:
        values: the figures, (k,) on the device.
        statistics: gives them their names, once they are read.
    """

    values: Tensor
    statistics: Callable[[list[float]], EpochStatistics]


class Engine(Protocol):
    """Trains the parameters of a model in place."""

    def train_epoch(
        self,
        part: Part,
        order: Tensor,
        learning_rates: Sequence[float],
        progress: Callable[[int], object],
    ) -> Trained:
        """Visit the examples of `part` in `order`, one learning rate a step; call `progress(n)`
        after n steps.

        The device is not waited for, but by GradScaler: with --amp fp16 it reads after each step
        whether it overflowed.
        """
        ...

    def gradients(self, batch: Part) -> list[Tensor]:
        """∂C/∂W and ∂C/∂b of every layer on one batch, by the code that trains, in full precision
        and uncompiled.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """What, beside the parameters, the next epoch depends on: tensors and plain values."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def trained(tally: Tally, cost: str, names: list[str], layers: list[str], examples: int) -> Trained:
    """What a tally of an epoch of `examples` found, for parameters `names` and linear layers
    `layers`.
    """

    def statistics(values: list[float]) -> EpochStatistics:
        squared_error, correct, total, *means = values
        return EpochStatistics(
            cost=cost_per_example(cost, squared_error, examples),
            accuracy=correct / examples,
            grad_norm=total,
            grad_norms=dict(zip(names, means[: len(names)], strict=True)),
            delta_norms=dict(zip(layers, means[len(names) :], strict=True)),
        )

    return Trained(tally.values(), statistics)


class AutogradEngine:
    """The model's forward pass, `backward()`, and torch.optim.SGD.

    With several processes each takes its share of every batch, and DistributedDataParallel adds the
    gradients up: N processes with batches of B walk the same way as one with batches of N · B.

    Args:
        model: a sequence of linear layers and sigmoids, ours or torch.nn's.
        options: cost, momentum, weight decay, precision, compilation.
        batch_size: examples a step, over all processes; the last step of an epoch may have fewer.
        world: the processes.
    """

    def __init__(
        self, model: nn.Sequential, options: Options, batch_size: int, world: World
    ) -> None:
        self._options, self._batch_size, self._world = options, batch_size, world
        self._parameters = list(model.parameters())
        self._names = [name for name, _ in model.named_parameters()]
        linear = [
            (name, layer) for name, layer in model.named_children() if isinstance(layer, nn.Linear)
        ]
        self._layers = [name for name, _ in linear]
        self._widths = [layer.out_features for _, layer in linear]
        first = self._parameters[0]
        self._dtype, self._device = first.dtype, first.device
        self._targets = torch.eye(CLASSES, dtype=self._dtype, device=self._device)
        self._cost = criterion(options.impl, options.cost if world.size == 1 else "sum")
        self._optimizer = torch.optim.SGD(
            self._parameters, lr=0.0, momentum=options.momentum, weight_decay=options.weight_decay
        )
        self._low_precision = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}[
            options.amp
        ]
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=options.amp == "fp16")
        self._layers_apart = _Forward(model, retain=world.size > 1)
        forward: Any = self._layers_apart.forward  # its __call__ would cost a small step a percent
        if options.compile:
            forward = torch.compile(self._layers_apart)
        if world.size > 1:
            forward = DistributedDataParallel(forward if options.compile else self._layers_apart)
        self._forward = forward

    def train_epoch(
        self,
        part: Part,
        order: Tensor,
        learning_rates: Sequence[float],
        progress: Callable[[int], object],
    ) -> Trained:
        # GradScaler skips a step whose gradient overflowed in float16, so such a step is not
        # averaged either.
        tally = Tally(
            len(self._parameters),
            self._targets,
            self._world,
            skip_overflows=self._scaler.is_enabled(),
        )
        for rows, learning_rate in zip(order.split(self._batch_size), learning_rates, strict=True):
            mine = self._world.share(rows)
            labels = part.labels[mine]
            norms, outputs = self.step(part.images[mine], labels, learning_rate, len(rows))
            tally.add(norms, outputs, labels)
            progress(1)
        return trained(tally, self._options.cost, self._names, self._layers, len(order))

    def step(
        self, images: Tensor, labels: Tensor, learning_rate: float, batch: int
    ) -> tuple[Sequence[Tensor], Tensor]:
        """One step, W ← W − η ∂C/∂W, on this process's share of a batch of `batch` examples.

        Args:
            images: uint8 (m, pixels).
            labels: int64 (m,).
            learning_rate: η.
            batch: the examples of the whole batch, over all processes.

        Returns:
            The norms of every parameter's gradient and of every layer's δ (scalars), and the
            outputs (m, n_out).
        """
        x = images.to(self._dtype) * PIXEL_SCALE  # (m, pixels)
        offsets = self._offsets(len(x)) if self._options.compile else None
        with self._precision():
            outputs, pre_activations = self._forward(x, offsets)
            cost = self._cost(outputs, self._targets[labels])
        if self._world.size > 1:
            # Each share is Σ (a − y)² over its rows, s is that of the whole batch, and the average
            # that DistributedDataParallel takes over the processes is to be a sum.
            cost = cost * (
                scale(self._options.cost, torch.Size((batch, CLASSES))) * self._world.size
            )
        deltas = self._backward(self._scaler.scale(cost), offsets or pre_activations)
        self._scaler.unscale_(self._optimizer)
        norms = torch._foreach_norm([*_gradients(self._parameters), *deltas])
        if self._world.size > 1 or self._scaler.is_enabled():  # δ of C itself
            factor = self._scaler.scale(x.new_full((), self._world.size))
            k = len(self._parameters)
            norms = (*norms[:k], *(norm / factor for norm in norms[k:]))
        self._optimizer.param_groups[0]["lr"] = learning_rate
        self._scaler.step(self._optimizer)
        self._scaler.update()
        return norms, outputs.detach()

    def _backward(self, cost: Tensor, pre_activations: list[Tensor]) -> Sequence[Tensor]:
        """Fill `.grad` of the parameters with ∂cost/∂W and ∂cost/∂b; return δ = ∂cost/∂z (m, n_out)
        of every layer.
        """
        if (
            self._world.size > 1
        ):  # DistributedDataParallel adds the gradients up in passing, in `backward` alone
            self._optimizer.zero_grad(set_to_none=True)
            cost.backward()
            return _gradients(pre_activations)
        k = len(self._parameters)
        gradients = torch.autograd.grad(cost, [*self._parameters, *pre_activations])
        for parameter, gradient in zip(self._parameters, gradients[:k], strict=True):
            parameter.grad = gradient
        return gradients[k:]

    def gradients(self, batch: Part) -> list[Tensor]:
        x, y = batch.batch(self._dtype)
        outputs, _ = self._layers_apart(x, None)
        cost = criterion(self._options.impl, self._options.cost)(outputs, y)
        return list(torch.autograd.grad(cost, self._parameters))

    def _offsets(self, m: int) -> list[Tensor]:
        """Zeros to add to each z: their gradient is δ = ∂C/∂z. A compiled graph keeps no gradient
        of its inside.
        """
        dtype = self._low_precision or self._dtype
        return [
            torch.zeros(m, n, dtype=dtype, device=self._device, requires_grad=True)
            for n in self._widths
        ]

    def _precision(self) -> AbstractContextManager[Any]:
        if self._low_precision is None:
            return nullcontext()
        return torch.autocast(self._device.type, dtype=self._low_precision)

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self._optimizer.state_dict(), "scaler": self._scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])


def _gradients(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [t.grad for t in tensors if t.grad is not None]


class _Forward(nn.Module):
    """The layers' output, and every pre-activation z.

    Args:
        layers: linear layers and sigmoids.
        retain: keep ∂C/∂z as `.grad` of each z.
    """

    def __init__(self, layers: nn.Sequential, retain: bool) -> None:
        super().__init__()
        self.layers, self._retain = layers, retain
        self._linear = [isinstance(layer, nn.Linear) for layer in layers]

    def forward(self, a: Tensor, offsets: list[Tensor] | None) -> tuple[Tensor, list[Tensor]]:
        pre_activations: list[Tensor] = []
        depth = 0
        for layer, linear in zip(self.layers, self._linear, strict=True):
            a = layer(a)
            if linear:
                if offsets is not None:
                    a = a + offsets[depth]
                elif self._retain:
                    a.retain_grad()
                pre_activations.append(a)
                depth += 1
        return a, pre_activations
