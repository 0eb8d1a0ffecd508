"""One epoch of stochastic gradient descent through autograd, with the statistics that the run logs.

An engine has `train_epoch`, `state_dict` and `load_state_dict`, and trains the model's own parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from manual_bp.training.data import CLASSES, PIXEL_SCALE, Part
from manual_bp.training.tally import Tally


@dataclass(frozen=True)
class EpochStatistics:
    """Means over the steps of an epoch: what `metrics.jsonl` and TensorBoard show of training itself."""

    cost: float  # mean over the examples
    accuracy: float  # share of the examples, each judged just before it was learnt from
    grad_norm: float  # Euclidean norm of the mini-batch gradient, all parameters as one vector
    grad_norms: dict[str, float]  # the same for each parameter
    delta_norms: dict[str, float]  # Frobenius norm of δ (m, n_out) for each linear layer


class Engine(Protocol):
    """What the run needs of whatever does the training."""

    def train_epoch(
        self, order: Tensor, learning_rates: Sequence[float], progress: Callable[[int], object]
    ) -> EpochStatistics:
        """Visit the training examples in `order`, one learning rate a step; call `progress(1)` after each step."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What, beside the parameters, the next epoch depends on."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class AutogradEngine:
    """The model's forward pass, `backward()`, and torch.optim.SGD.

    Args:
        model: a sequence of linear layers and sigmoids, ours or torch.nn's.
        cost: a module (a, y) -> C.
        reduction: which normalisation `cost` has.
        part: the training examples, on the model's device.
        batch_size: examples a step; the last step of an epoch may have fewer.
        momentum: of torch.optim.SGD.
        weight_decay: of torch.optim.SGD.
    """

    def __init__(
        self,
        model: nn.Sequential,
        cost: nn.Module,
        reduction: str,
        part: Part,
        *,
        batch_size: int,
        momentum: float,
        weight_decay: float,
    ) -> None:
        self._model, self._cost, self._reduction, self._part = model, cost, reduction, part
        self._batch_size = batch_size
        self._names = [name for name, _ in model.named_parameters()]
        self._parameters = list(model.parameters())
        self._layers = [name for name, module in model.named_children() if isinstance(module, nn.Linear)]
        self._dtype = self._parameters[0].dtype
        self._targets = torch.eye(CLASSES, dtype=self._dtype, device=part.labels.device)
        self._optimizer = torch.optim.SGD(self._parameters, lr=0.0, momentum=momentum, weight_decay=weight_decay)

    def _forward(self, a: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The output, and every pre-activation z; each z keeps its gradient, which is δ."""
        pre_activations = []
        for module in self._model:
            a = module(a)
            if isinstance(module, nn.Linear):
                a.retain_grad()
                pre_activations.append(a)
        return a, pre_activations

    def step(self, rows: Tensor, learning_rate: float) -> tuple[Tensor, list[Tensor], Tensor, Tensor]:
        """One step on the examples `rows`: W ← W − η ∂C/∂W. Gives C, the norms, the outputs and the labels."""
        x = self._part.images[rows].to(self._dtype) * PIXEL_SCALE  # (m, pixels)
        labels = self._part.labels[rows]
        output, pre_activations = self._forward(x)
        cost = self._cost(output, self._targets[labels])
        self._optimizer.zero_grad(set_to_none=True)
        cost.backward()
        gradients = [p.grad for p in self._parameters] + [z.grad for z in pre_activations]
        norms = torch._foreach_norm([g for g in gradients if g is not None])
        self._optimizer.param_groups[0]["lr"] = learning_rate
        self._optimizer.step()
        return cost.detach(), list(norms), output.detach(), labels

    def train_epoch(
        self, order: Tensor, learning_rates: Sequence[float], progress: Callable[[int], object]
    ) -> EpochStatistics:
        tally = Tally(gradients=len(self._parameters))
        for rows, learning_rate in zip(order.split(self._batch_size), learning_rates, strict=True):
            cost, norms, output, labels = self.step(rows, learning_rate)
            # C is a mean over the batch, or, for "sum", a sum: either way this adds up to the sum over the examples.
            weight = 1.0 if self._reduction == "sum" else float(len(rows))
            tally.add(cost, norms, output, labels, weight)
            progress(1)
        return statistics(tally, self._names, self._layers)

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._optimizer.load_state_dict(state["optimizer"])


def statistics(tally: Tally, parameters: list[str], layers: list[str]) -> EpochStatistics:
    """Read an epoch's sums back from the device, once, and divide them."""
    cost, correct, total, *norms = tally.sums().tolist()
    means = [norm / tally.steps for norm in norms]
    return EpochStatistics(
        cost=cost / tally.examples,
        accuracy=correct / tally.examples,
        grad_norm=total / tally.steps,
        grad_norms=dict(zip(parameters, means[: len(parameters)], strict=True)),
        delta_norms=dict(zip(layers, means[len(parameters) :], strict=True)),
    )
