"""PyTorch layers whose backward passes are derived by hand, and the tools that prove them.

    >>> import manual_bp as mbp
    >>> model = mbp.MLP([784, 30, 10])  # an nn.Sequential: Linear, Sigmoid, Linear, Sigmoid
    >>> cost = mbp.MSELoss("half_per_example")(model(x), y)
    >>> cost.backward()  # ∂C/∂W = δᵀ a_prev and ∂C/∂b = Σ_m δ by this package's formulas

Every name is imported when it is first used, so that a command can print its help without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from manual_bp.lazy import lazy

if TYPE_CHECKING:
    from manual_bp import backprop, direct, functional, trace, verify, view, worked_examples
    from manual_bp.linear import Linear, LinearFunction
    from manual_bp.mlp import MLP
    from manual_bp.mse import MSELoss, MSELossFunction
    from manual_bp.sigmoid import Sigmoid, SigmoidFunction
    from manual_bp.training.notebook import train
    from manual_bp.training.trained import load
    from manual_bp.twins import conversion, convert, converted, to_torch

__version__ = "0.1.0"

_HOMES = {
    "MLP": "mlp",
    "Linear": "linear",
    "LinearFunction": "linear",
    "MSELoss": "mse",
    "MSELossFunction": "mse",
    "Sigmoid": "sigmoid",
    "SigmoidFunction": "sigmoid",
    "conversion": "twins",
    "convert": "twins",
    "converted": "twins",
    "load": "training.trained",
    "to_torch": "twins",
    "train": "training.notebook",
}
_ROOMS = ("backprop", "direct", "functional", "trace", "verify", "view", "worked_examples")

__all__ = [
    "MLP",
    "Linear",
    "LinearFunction",
    "MSELoss",
    "MSELossFunction",
    "Sigmoid",
    "SigmoidFunction",
    "backprop",
    "conversion",
    "convert",
    "converted",
    "direct",
    "functional",
    "load",
    "to_torch",
    "trace",
    "train",
    "verify",
    "view",
    "worked_examples",
]

__getattr__, __dir__ = lazy(__name__, _HOMES, _ROOMS)
