"""The engine without autograd: the documents' algorithm, run in place by `manual_bp.direct`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from manual_bp import direct
from manual_bp.training.data import PIXEL_SCALE, Part
from manual_bp.training.engine import EpochStatistics
from manual_bp.training.evaluation import cost_per_example
from manual_bp.training.options import Options


class DirectEngine:
    """`direct.Trainer` over an epoch.

    Args:
        model: linear layers and sigmoids.
        options: cost, momentum, weight decay.
        batch_size: examples a step; the last step of an epoch may have fewer.
    """

    def __init__(self, model: nn.Sequential, options: Options, batch_size: int) -> None:
        self._model, self._cost = model, options.cost
        self._trainer = direct.Trainer(
            model,
            reduction=options.cost,
            lr=0.0,
            momentum=options.momentum,
            weight_decay=options.weight_decay,
            batch_size=batch_size,
        )
        self.backend = self._trainer.backend

    def train_epoch(
        self, part: Part, order: Tensor, learning_rates: Sequence[float], progress: Callable[[int], object]
    ) -> EpochStatistics:
        trained = self._trainer.run(part.images, part.labels, order, learning_rates, pixel_scale=PIXEL_SCALE)
        progress(trained.steps)
        return EpochStatistics(
            cost=cost_per_example(self._cost, trained.squared_error, trained.examples),
            accuracy=trained.correct / trained.examples,
            grad_norm=trained.grad_norm_total,
            grad_norms=trained.grad_norm,
            delta_norms=trained.delta_norm,
        )

    def gradients(self, x: Tensor, y: Tensor) -> list[Tensor]:
        parameters = list(self._model.parameters())
        direct.backward(self._model, x, y, reduction=self._cost)
        gradients = [p.grad for p in parameters if p.grad is not None]
        for p in parameters:
            p.grad = None
        return gradients

    def state_dict(self) -> dict[str, Any]:
        return self._trainer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._trainer.load_state_dict(state)
