"""Sums over the steps of an epoch, kept on the device: nothing is read back before the epoch ends."""

from __future__ import annotations

import torch
from torch import Tensor

_FLUSH_STEPS = 256  # the scalars and outputs of so many steps are held before they are reduced


class Tally:
    """What an epoch's steps add up to.

    Per step it takes the cost, the norms of the gradients and of the δs (all scalars), and the outputs. They are put
    in lists, which costs a step nothing, and reduced by the hundred.

    Args:
        gradients: how many of the norms belong to parameters; the rest belong to δs.
    """

    def __init__(self, gradients: int) -> None:
        self._gradients = gradients
        self._costs: list[Tensor] = []
        self._norms: list[list[Tensor]] = []
        self._outputs: list[Tensor] = []
        self._labels: list[Tensor] = []
        self._sums: Tensor | None = None  # [Σ m C, Σ correct, Σ total norm, Σ norm of each]
        self.steps = 0
        self.examples = 0

    def add(self, cost: Tensor, norms: list[Tensor], outputs: Tensor, labels: Tensor, weight: float) -> None:
        """Add one step; `weight` times its cost is what the epoch's cost sums up."""
        self._costs.append(cost * weight)
        self._norms.append(norms)
        self._outputs.append(outputs)
        self._labels.append(labels)
        self.steps += 1
        self.examples += len(labels)
        if len(self._costs) >= _FLUSH_STEPS:
            self._flush()

    def _flush(self) -> None:
        if not self._costs:
            return
        norms = torch.stack([torch.stack(row) for row in self._norms]).double()  # (steps, norms)
        total = norms[:, : self._gradients].square().sum(1).sqrt()  # the norm of all gradients as one vector
        correct = (torch.cat(self._outputs).argmax(1) == torch.cat(self._labels)).sum()
        sums = torch.cat(
            [torch.stack([torch.stack(self._costs).double().sum(), correct.double(), total.sum()]), norms.sum(0)]
        )
        self._sums = sums if self._sums is None else self._sums + sums
        self._costs, self._norms, self._outputs, self._labels = [], [], [], []

    def sums(self) -> Tensor:
        """[Σ weighted cost, Σ correct, Σ total gradient norm, Σ norm of each gradient and δ], float64, on device."""
        self._flush()
        assert self._sums is not None, "an epoch has at least one step"
        return self._sums
