"""What trains a run: the Functions through autograd, or the same algorithm in place."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

from torch import Tensor, nn

from manual_bp import direct
from manual_bp.direct import library
from manual_bp.training.autograd_engine import AutogradEngine
from manual_bp.training.data import PIXEL_SCALE, Part
from manual_bp.training.measures import cost_per_example
from manual_bp.training.plan import Plan
from manual_bp.training.world import World


class Engine(Protocol):
    """Trains the parameters of a model in place."""

    def train_epoch(
        self, part: Part, order: Tensor, rates: Sequence[float], progress: Callable[[int], object]
    ) -> dict[str, Tensor]:
        """Visit the examples of `part` in `order`, one learning rate a step.

        Nothing waits for the device.

        Args:
            part: the training images and labels.
            order: int64 indices into them.
            rates: η of each step.
            progress: called with the number of steps made since its last call.

        Returns:
            Scalars by tag, still on the device: "cost/train" and "accuracy/train", means over the
            examples; "grad_norm/total", "grad_norm/layer01.weight" ‖∂C/∂W‖ … and
            "delta_norm/layer01" ‖δ‖ …, means over the steps. Each is measured before the update.
        """
        ...

    def gradients(self, batch: Part) -> list[Tensor]:
        """∂C/∂W and ∂C/∂b of every layer by the code that trains, uncompiled, without autocast."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What the next epoch depends on beside the parameters: tensors and plain values."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def build(plan: Plan, model: nn.Sequential, world: World) -> Engine:
    """The engine that `plan` names, for `model`."""
    if plan.engine == "autograd":
        return AutogradEngine(plan, model, world)
    return DirectEngine(plan, model)


def _trainer(plan: Plan, model: nn.Sequential, backend: str = "auto") -> direct.Trainer:
    return direct.Trainer(
        model,
        reduction=plan.cost,
        lr=0.0,
        momentum=plan.momentum,
        weight_decay=plan.weight_decay,
        batch_size=plan.batch_size,
        backend=backend,
    )


class DirectEngine:
    """`direct.Trainer` over an epoch: no autograd, no Function."""

    def __init__(self, plan: Plan, model: nn.Sequential) -> None:
        self._cost, self._n_out = plan.cost, plan.sizes[-1]
        self._trainer = _trainer(plan, model)
        at_half = replace(plan, momentum=0.5, weight_decay=0.0)
        self._check = _trainer(at_half, model, self._trainer.backend)
        self._at_rest = self._check.state_dict()

    def train_epoch(
        self, part: Part, order: Tensor, rates: Sequence[float], progress: Callable[[int], object]
    ) -> dict[str, Tensor]:
        found = self._trainer.launch(
            part.images, part.labels, order, rates, pixel_scale=PIXEL_SCALE, progress=progress
        )
        n = found.examples
        return {
            "cost/train": cost_per_example(self._cost, found.squared_error, n, self._n_out),
            "accuracy/train": found.correct / n,
            "grad_norm/total": found.grad_norm_total,
            **{f"grad_norm/{name}": norm for name, norm in found.grad_norm.items()},
            **{f"delta_norm/{name}": norm for name, norm in found.delta_norm.items()},
        }

    def gradients(self, batch: Part) -> list[Tensor]:
        """By one step of length 0 from rest: v ← μ 0 + ∂C/∂W."""
        self._check.load_state_dict(self._at_rest)
        self._check.launch(batch.images, batch.labels, pixel_scale=PIXEL_SCALE, norms=False)
        return list(self._check.state_dict()["momentum"].values())

    def state_dict(self) -> dict[str, Any]:
        return self._trainer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._trainer.load_state_dict(state)


_SAMPLE_WORK = 5e8  # multiply-adds of the forward passes that are timed: a fraction of a second


def direct_seconds(plan: Plan, model: nn.Sequential, part: Part) -> float:
    """About what an epoch of `plan` takes on the direct engine here, from some of its steps.

    The steps have a learning rate of 0 and run on a copy of `model`. Where the C++ loop is not
    compiled yet, the PyTorch calls are timed: a compilation would take longer than is asked for.
    """
    backend = "auto" if library.is_built() or plan.device != "cpu" else "torch"
    trainer = _trainer(plan, copy.deepcopy(model), backend)
    step = plan.batch_size * sum(p.numel() for p in model.parameters())
    steps = min(plan.steps, max(1, int(_SAMPLE_WORK / step)))
    sample = part[: steps * plan.batch_size]
    for _ in range(2):  # the first one also makes buffers, and on a GPU the recording
        start = time.perf_counter()
        trainer.run(sample.images, sample.labels, pixel_scale=PIXEL_SCALE)
    return (time.perf_counter() - start) * plan.steps / steps
