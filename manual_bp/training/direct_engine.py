"""The engines without autograd: the documents' algorithm, run in place by `manual_bp.direct`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from manual_bp import direct
from manual_bp.ops.mse import scale
from manual_bp.training.data import CLASSES, PIXEL_SCALE, Part
from manual_bp.training.engine import EpochStatistics, Trained, trained
from manual_bp.training.evaluation import cost_per_example
from manual_bp.training.options import Options
from manual_bp.training.tally import Tally
from manual_bp.training.world import World


class DirectEngine:
    """`direct.Trainer` over an epoch.

    Args:
        model: linear layers and sigmoids.
        options: cost, momentum, weight decay.
        batch_size: examples a step; the last step of an epoch may have fewer.
    """

    def __init__(self, model: nn.Sequential, options: Options, batch_size: int) -> None:
        self._cost = options.cost
        self._trainer = direct.Trainer(
            model,
            reduction=options.cost,
            lr=0.0,
            momentum=options.momentum,
            weight_decay=options.weight_decay,
            batch_size=batch_size,
        )
        self._check = direct.Trainer(
            model,
            reduction=options.cost,
            lr=0.0,
            momentum=0.5,
            batch_size=batch_size,
            backend=self._trainer.backend,
        )
        self._at_rest = self._check.state_dict()

    def train_epoch(
        self,
        part: Part,
        order: Tensor,
        learning_rates: Sequence[float],
        progress: Callable[[int], object],
    ) -> Trained:
        launched = self._trainer.launch(
            part.images,
            part.labels,
            order,
            learning_rates,
            pixel_scale=PIXEL_SCALE,
            progress=progress,
        )

        def statistics(values: list[float]) -> EpochStatistics:
            found = launched.statistics(values)
            return EpochStatistics(
                cost=cost_per_example(self._cost, found.squared_error, found.examples),
                accuracy=found.correct / found.examples,
                grad_norm=found.grad_norm_total,
                grad_norms=found.grad_norm,
                delta_norms=found.delta_norm,
            )

        return Trained(launched.values, statistics)

    def gradients(self, batch: Part) -> list[Tensor]:
        """By one step from rest, of length 0: v ← μ 0 + ∂C/∂W."""
        self._check.load_state_dict(self._at_rest)
        self._check.launch(batch.images, batch.labels, pixel_scale=PIXEL_SCALE, norms=False)
        return list(self._check.state_dict()["momentum"].values())

    def state_dict(self) -> dict[str, Any]:
        return self._trainer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._trainer.load_state_dict(state)


class SharedDirectEngine:
    """Several processes: each runs the algorithm on its share of a batch, and the gradients are
    added up.

    The update cannot be fused with the gradient's product then; torch.optim.SGD makes it.
    """

    def __init__(
        self, model: nn.Sequential, options: Options, batch_size: int, world: World
    ) -> None:
        self._model, self._cost, self._batch_size, self._world = (
            model,
            options.cost,
            batch_size,
            world,
        )
        self._parameters = list(model.parameters())
        self._names = [name for name, _ in model.named_parameters()]
        self._layers = [
            name for name, layer in model.named_children() if isinstance(layer, nn.Linear)
        ]
        first = self._parameters[0]
        self._targets = torch.eye(CLASSES, dtype=first.dtype, device=first.device)
        self._optimizer = torch.optim.SGD(
            self._parameters, lr=0.0, momentum=options.momentum, weight_decay=options.weight_decay
        )

    def train_epoch(
        self,
        part: Part,
        order: Tensor,
        learning_rates: Sequence[float],
        progress: Callable[[int], object],
    ) -> Trained:
        tally = Tally(len(self._parameters), self._targets, self._world)
        for rows, learning_rate in zip(order.split(self._batch_size), learning_rates, strict=True):
            mine = self._world.share(rows)
            x = part.images[mine].to(self._targets.dtype) * PIXEL_SCALE  # (m, pixels)
            labels = part.labels[mine]
            s = scale(self._cost, torch.Size((len(rows), CLASSES)))  # that of the whole batch
            done = direct.one_pass(self._model, x, self._targets[labels], s)
            gradients = _in_order(self._parameters, done)
            self._sum(gradients)
            for parameter, gradient in zip(self._parameters, gradients, strict=True):
                parameter.grad = gradient
            self._optimizer.param_groups[0]["lr"] = learning_rate
            self._optimizer.step()
            norms = torch._foreach_norm([*gradients, *done.deltas])
            tally.add(norms, done.output, labels)
            progress(1)
        return trained(tally, self._cost, self._names, self._layers, len(order))

    def _sum(self, gradients: list[Tensor]) -> None:
        """Add up each gradient over the processes, all in one message."""
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        self._world.sum_(flat)
        for gradient, summed in zip(
            gradients, flat.split([g.numel() for g in gradients]), strict=True
        ):
            gradient.copy_(summed.view_as(gradient))

    def gradients(self, batch: Part) -> list[Tensor]:
        x, y = batch.batch(self._targets.dtype)
        return _in_order(
            self._parameters, direct.one_pass(self._model, x, y, scale(self._cost, y.shape))
        )

    def state_dict(self) -> dict[str, Any]:
        if not self._optimizer.defaults["momentum"]:
            return {"momentum": {}}
        buffers = {}
        for name, parameter in zip(self._names, self._parameters, strict=True):
            buffer = self._optimizer.state[parameter].get("momentum_buffer")
            buffers[name] = (
                torch.zeros_like(parameter) if buffer is None else buffer
            )  # None before the first step
        return {"momentum": buffers}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, parameter in zip(self._names, self._parameters, strict=True):
            if name in state["momentum"]:
                buffer = torch.empty_like(parameter).copy_(state["momentum"][name])
                self._optimizer.state[parameter]["momentum_buffer"] = buffer


def _in_order(parameters: list[nn.Parameter], done: direct.Pass) -> list[Tensor]:
    """The gradients of a pass, which come last layer first, in the order of `parameters`."""
    found = {id(parameter): gradient for parameter, gradient in done.gradients}
    return [found[id(parameter)] for parameter in parameters]
