"""PyTorch layers whose backward passes are derived by hand, and the tools that prove them."""

from manual_bp import functional, verify
from manual_bp.modules import MLP, Linear, MSELoss, Sigmoid, convert
from manual_bp.ops import LinearFunction, LinearSigmoidFunction, MSELossFunction, SigmoidFunction

__version__ = "0.1.0"

__all__ = [
    "MLP",
    "Linear",
    "LinearFunction",
    "LinearSigmoidFunction",
    "MSELoss",
    "MSELossFunction",
    "Sigmoid",
    "SigmoidFunction",
    "convert",
    "functional",
    "verify",
]
