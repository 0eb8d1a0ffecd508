"""The operations, one file each: the formula and its `torch.autograd.Function`."""

from manual_bp.ops.linear import LinearFunction
from manual_bp.ops.linear_sigmoid import LinearSigmoidFunction
from manual_bp.ops.mse import MSELossFunction
from manual_bp.ops.sigmoid import SigmoidFunction

__all__ = ["LinearFunction", "LinearSigmoidFunction", "MSELossFunction", "SigmoidFunction"]
