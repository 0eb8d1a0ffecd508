"""What `Trainer` hands to an engine: the steps to make, on which examples, and where to put what is
measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Epoch:
    """One step for each learning rate; every step but the last takes a whole batch."""

    images: Tensor  # (N, n_in), uint8 or floating
    targets: Tensor  # (N, n_out), of the model's dtype
    order: Tensor | None  # (n,) int64, rows of both; None for 0 … N − 1
    lrs: list[float]  # η of each step
    pixel_scale: float  # each element of `images` is multiplied by it
    table: Tensor  # (steps, 2 + 3 layers), zeros, to be filled: see statistics.py
    norms: bool  # whether the columns of the norms are wanted
    progress: Callable[[int], object]  # takes the number of steps done since its last call

    @property
    def examples(self) -> int:
        """n, the number of examples that the steps take together."""
        return self.images.shape[0] if self.order is None else self.order.shape[0]


class Engine(Protocol):
    """Makes the steps of epochs, on the layers and with the hyperparameters it was made for."""

    def run(self, epoch: Epoch) -> None:
        """Make them, in place, and fill the table. A GPU is not waited for."""
        ...
