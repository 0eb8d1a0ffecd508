"""What a worked example returns: named values, and autograd's answer for the gradients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from manual_bp.worked_examples.networks import Network, autograd, tensor
from manual_bp.worked_examples.paths import Partial


@dataclass(frozen=True)
class Worked:
    """A worked example.

    Attributes:
        values: every computed value by its symbol in the document.
        autograd: for the gradients among them, what `.backward()` through our layers gives.
        partials: the partial derivatives as sums over paths, where the document writes them so.
    """

    values: Mapping[str, float]
    autograd: Mapping[str, float] = field(default_factory=dict)
    partials: tuple[Partial, ...] = ()

    @property
    def max_relative_error(self) -> float:
        """The largest |value − autograd| / |autograd|; 0 where nothing is compared."""
        return max(
            (_relative(self.values[name], exact) for name, exact in self.autograd.items()),
            default=0.0,
        )


def gradients(network: Network, x: Tensor | None = None, y: Tensor | None = None) -> list[Tensor]:
    """Autograd's gradients of the network's parameters in the order of `model.parameters()`.

    Args:
        network: its weights, cost and, where no batch is given, its own example.
        x: inputs (m, n_in).
        y: targets (m, n_out).
    """
    x = tensor([network.x]) if x is None else x
    y = tensor([network.y]) if y is None else y
    return list(autograd(network.model(), x, y, network.cost).values())


def _relative(value: float, exact: float) -> float:
    return abs(value - exact) / abs(exact) if exact else abs(value)
