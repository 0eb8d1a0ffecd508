"""`Statistics`: what an epoch of direct training reports, and the table it is summed from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from manual_bp.backprop import Layer
from manual_bp.devices import wide

# A loop fills a table with one row a step, which stays on the model's device. Its columns:
# Σ ‖a − y‖², the correct examples, then for each layer ‖δ‖², ‖∂C/∂W‖², ‖∂C/∂b‖².
SQUARED_ERROR, CORRECT, FIRST_NORM, NORMS_PER_LAYER = 0, 1, 2, 3

Number = TypeVar("Number", Tensor, float)


@dataclass(frozen=True)
class Statistics(Generic[Number]):
    """One epoch of `Trainer`, each batch measured before the update that it causes.

    `Trainer.run` gives floats. `Trainer.launch` gives scalars on the model's device, which may
    still be at work on them. Norms are Frobenius norms, averaged over the steps; with `norms=False`
    their dicts are empty and their total is NaN.
    """

    steps: int
    examples: int
    squared_error: Number  # Σ over examples of ‖a − y‖²
    cost: Number  # s Σ (a − y)², all examples taken as one batch; for "sum" the sum over the epoch
    correct: Number  # examples whose largest output is their target's largest
    grad_norm_total: Number  # of all parameters taken as one vector
    grad_norm: dict[str, Number]  # ‖∂C/∂W‖ and ‖∂C/∂b‖, by "layer01.weight" and "layer01.bias"
    delta_norm: dict[str, Number]  # ‖δ‖, by "layer01"

    def read(self: Statistics[Tensor]) -> Statistics[float]:
        """The same figures as floats. The device is waited for once.

        Raises:
            RuntimeError: on a GPU, labels or indices that were out of range.
        """
        figures = [self.squared_error, self.cost, self.correct, self.grad_norm_total]
        norms = [*self.grad_norm.values(), *self.delta_norm.values()]
        squared_error, cost, correct, total, *rest = torch.stack(figures + norms).tolist()
        if math.isnan(correct):  # a count: nothing else makes it NaN
            raise RuntimeError(
                "labels or indices out of range: 0 … n_out − 1 and 0 … N − 1 are expected; the "
                "parameters were trained with wrong ones"
            )
        k = len(self.grad_norm)
        return Statistics(
            steps=self.steps,
            examples=self.examples,
            squared_error=squared_error,
            cost=cost,
            correct=correct,
            grad_norm_total=total,
            grad_norm=dict(zip(self.grad_norm, rest[:k], strict=True)),
            delta_norm=dict(zip(self.delta_norm, rest[k:], strict=True)),
        )


def reduce_table(
    table: Tensor, layers: Sequence[Layer], *, examples: int, s: float, norms: bool
) -> Statistics[Tensor]:
    """The statistics of an epoch, on its device.

    Args:
        table: as a loop filled it, (steps, 2 + 3 layers).
        layers: of the model.
        examples: n, of all steps.
        s: of C = s Σ (a − y)² over n examples.
        norms: whether the columns of the norms were filled.
    """
    table = wide(table)
    squared_error, correct = table[:, :FIRST_NORM].sum(0)
    total = table.new_full((), math.nan)
    grad_norm: dict[str, Tensor] = {}
    delta_norm: dict[str, Tensor] = {}
    if norms:
        squares = table[:, FIRST_NORM:].unflatten(1, (-1, NORMS_PER_LAYER))  # (steps, layers, 3)
        total = squares[:, :, 1:].sum((1, 2)).sqrt().mean()  # without ‖δ‖²
        for layer, means in zip(layers, squares.sqrt().mean(0), strict=True):
            delta_norm[layer.tag], *gradients = means
            grad_norm |= zip(layer.parameters, gradients, strict=False)  # one, if without a bias
    return Statistics(
        steps=table.shape[0],
        examples=examples,
        squared_error=squared_error,
        cost=s * squared_error,
        correct=correct,
        grad_norm_total=total,
        grad_norm=grad_norm,
        delta_norm=delta_norm,
    )
