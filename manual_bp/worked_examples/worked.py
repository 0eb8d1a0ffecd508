"""What a worked example returns: named values, and autograd's answer for the gradients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from manual_bp.functional import mse_loss
from manual_bp.worked_examples.networks import Network, tensor
from manual_bp.worked_examples.paths import Partial


@dataclass(frozen=True)
class Worked:
    """A worked example, its values by their symbols in the document."""

    values: Mapping[str, float]
    autograd: Mapping[str, float] = field(default_factory=dict)  # of the gradients among them
    partials: tuple[Partial, ...] = ()  # as sums over paths, where the document writes them so

    @property
    def max_relative_error(self) -> float:
        """The largest |value − autograd| / |autograd|; 0 where nothing is compared."""
        errors = (abs(self.values[name] - g) / (abs(g) or 1) for name, g in self.autograd.items())
        return max(errors, default=0.0)


def gradients(network: Network, x: Tensor | None = None, y: Tensor | None = None) -> list[Tensor]:
    """The gradients of W and b, layer by layer, by `.backward()` through our layers.

    Args:
        network: its weights, cost and, where no batch is given, its own example.
        x: inputs (m, n_in).
        y: targets (m, n_out).
    """
    x = tensor([network.x]) if x is None else x
    y = tensor([network.y]) if y is None else y
    model = network.model()
    mse_loss(model(x), y, network.cost).backward()
    return [p.grad for p in model.parameters() if p.grad is not None]
