"""The package's own operations, as `python -m manual_bp.verify` checks them without an argument."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from manual_bp import functional
from manual_bp.normalisation import REDUCTIONS, scale

# The transforms that every operation here offers, and the kind of finding if one does not.
PROMISED = {"jvp": "jvp-disagrees", "vmap": "vmap-wrong"}


class Operation(NamedTuple):
    """One operation with the arguments of one call."""

    name: str
    function: Callable[..., Tensor]
    inputs: str  # as --inputs takes them
    reference: Callable[..., Tensor]  # torch's own operations, differentiated by autograd


def operations() -> list[Operation]:
    """linear, sigmoid and every mean squared error."""
    linear = functional.linear
    return [
        Operation("linear", linear, "randn(4,3) randn(5,3) randn(5)", F.linear),
        Operation("linear without bias", linear, "randn(4,3) randn(5,3)", F.linear),
        Operation("sigmoid", functional.sigmoid, "randn(4,3)", torch.sigmoid),
        *(
            Operation(
                f"mse_loss {name}", functional.mse_loss, f"randn(4,3) randn(4,3) {name}", _mse
            )
            for name in REDUCTIONS
        ),
    ]


def _mse(a: Tensor, y: Tensor, reduction: str) -> Tensor:
    squares = (a - y) ** 2
    return squares if reduction == "none" else squares.sum() * scale(reduction, a.shape)
