"""What an epoch of direct training reports, from a table with one row a step that stays on the
device until the end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from manual_bp.direct.layers import Layer

# Columns of the table: SQUARED_ERROR, CORRECT, then for each layer ‖δ‖², ‖∂C/∂W‖², ‖∂C/∂b‖².
SQUARED_ERROR, CORRECT, FIRST_NORM, NORMS_PER_LAYER = 0, 1, 2, 3


def wide(tensor: Tensor) -> Tensor:
    """As float64, in which sums over an epoch are kept; as float32 on Apple's GPUs, which have no
    float64.
    """
    return tensor.to(torch.float32 if tensor.device.type == "mps" else torch.float64)


@dataclass(frozen=True)
class Statistics:
    """One epoch of `Trainer.run`, measured in passing: each batch before the update that it causes.

    Norms are Frobenius norms, averaged over the steps; with `norms=False` they are empty, and their
    total NaN.
    """

    steps: int
    examples: int
    squared_error: float  # Σ over examples of ‖a − y‖²
    cost: float  # s Σ (a − y)², all examples taken as one batch; for "sum" the sum over the epoch
    correct: int  # examples whose largest output is their target's largest
    grad_norm_total: float  # of all parameters together
    grad_norm: dict[str, float]  # by parameter name, "0.weight"
    delta_norm: dict[str, float]  # ‖∂C/∂z‖ by name of the Linear, "0"


@dataclass(frozen=True)
class Launched:
    """An epoch whose steps are on their way: its figures are still on the device, to be read when
    it suits.

    Attributes:
        values: the figures, (k,) on the device.
        steps: of the epoch.
        examples: of the epoch.
    """

    values: Tensor
    steps: int
    examples: int
    scale: float
    layers: list[Layer]
    norms: bool

    @classmethod
    def of(
        cls, table: Tensor, examples: int, scale: float, layers: list[Layer], norms: bool
    ) -> Launched:
        """Reduce the table (n_steps, 2 + 3 layers) on its device."""
        table = wide(table)
        sums = table[:, :FIRST_NORM].sum(0)
        squares = table[:, FIRST_NORM:]
        gradients = squares.unflatten(1, (-1, NORMS_PER_LAYER))[:, :, 1:]  # without ‖δ‖²
        means = torch.cat([squares, gradients.sum((1, 2)).unsqueeze(1)], 1).sqrt().mean(0)
        return cls(torch.cat([sums, means]), table.shape[0], examples, scale, layers, norms)

    def wait(self) -> Statistics:
        """Wait for the device, once."""
        return self.statistics(self.values.tolist())

    def statistics(self, values: list[float]) -> Statistics:
        """The figures by name, of `values` as they were read."""
        squared_error, correct, *means, total = values
        grad_norm, delta_norm = {}, {}
        for i, layer in enumerate(self.layers if self.norms else []):
            delta, weight, bias = means[NORMS_PER_LAYER * i : NORMS_PER_LAYER * (i + 1)]
            delta_norm[layer.name] = delta
            grad_norm[f"{layer.name}.weight".lstrip(".")] = weight
            if layer.bias is not None:
                grad_norm[f"{layer.name}.bias".lstrip(".")] = bias
        return Statistics(
            steps=self.steps,
            examples=self.examples,
            squared_error=squared_error,
            cost=self.scale * squared_error,
            correct=int(correct),
            grad_norm_total=total if self.norms else math.nan,
            grad_norm=grad_norm,
            delta_norm=delta_norm,
        )
