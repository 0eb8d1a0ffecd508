"""`Tally`: what the steps of an epoch add up to, without waiting for the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from manual_bp.devices import wide
from manual_bp.training.world import World

_FLUSH_STEPS = 128  # the scalars and outputs of so many steps are held before they are reduced


class Tally:
    """What an epoch's steps add up to, kept on the device: nothing is read back before the end.

    A step hands over the norms of its gradients and δs (scalars) and its outputs. They are put in
    lists, which costs a step next to nothing, and are stacked by the hundred.

    Args:
        gradients: how many of a step's norms belong to parameters; the rest belong to δs.
        targets: one-hot rows (n_out, n_out).
        world: the processes that share each batch. Gradients are equal in all of them; of δ each
            has some rows.
        skip_overflows: leave steps whose gradient is not finite out of the averages.
    """

    def __init__(self, gradients: int, targets: Tensor, world: World, skip_overflows: bool) -> None:
        self._gradients, self._targets, self._world = gradients, targets, world
        self._skip_overflows = skip_overflows
        self._norms: list[Tensor] = []  # of the steps since the last flush, one after another
        self._outputs: list[Tensor] = []
        self._labels: list[Tensor] = []
        self._squares: list[Tensor] = []  # of the norms, (steps, norms of a step)
        self._counts: list[Tensor] = []  # [Σ (a − y)², Σ correct]

    def add(self, norms: Sequence[Tensor], outputs: Tensor, labels: Tensor) -> None:
        """Add one step: its norms, its outputs a (m, n_out) and its labels (m,)."""
        self._norms.extend(norms)
        self._outputs.append(outputs)
        self._labels.append(labels)
        if len(self._outputs) >= _FLUSH_STEPS:
            self._flush()

    def _flush(self) -> None:
        if not self._norms:
            return
        squares = wide(torch.stack(self._norms)).square()
        self._squares.append(squares.view(len(self._outputs), -1))
        outputs, labels = torch.cat(self._outputs), torch.cat(self._labels)
        squared_errors = (outputs - self._targets[labels]).square_()  # (a − y)²  (examples, n_out)
        correct = wide(outputs.argmax(1) == labels).sum()
        self._counts.append(torch.stack([wide(squared_errors.sum(1)).sum(), correct]))
        self._norms, self._outputs, self._labels = [], [], []

    def values(self) -> Tensor:
        """[Σ (a − y)², Σ correct, mean total gradient norm, mean norm of each], on the device."""
        self._flush()
        counts, squares = torch.stack(self._counts).sum(0), torch.cat(self._squares)
        gradient_squares = squares[:, : self._gradients]
        # ‖δ‖² of the whole batch is the sum over the processes of ‖δ‖² of their rows.
        delta_squares = squares[:, self._gradients :].contiguous()
        self._world.sum_(counts)
        self._world.sum_(delta_squares)
        total = gradient_squares.sum(1, keepdim=True)  # ‖all gradients as one vector‖²  (steps, 1)
        norms = torch.cat([total, gradient_squares, delta_squares], 1).sqrt()
        if not self._skip_overflows:
            return torch.cat([counts, norms.mean(0)])
        finite = total.isfinite()  # (steps, 1)
        means = norms.where(finite, 0.0).sum(0) / finite.sum()  # NaN where no step counted
        return torch.cat([counts, means])
