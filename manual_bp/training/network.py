"""The network that a plan describes, the weights that it starts from, and its cost."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manual_bp.mlp import MLP
from manual_bp.mse import MSELoss
from manual_bp.normalisation import scale
from manual_bp.training.options import INITIALISATIONS
from manual_bp.training.plan import Plan
from manual_bp.twins import to_torch

EQUAL_WARNING = (
    "--init equal: a hidden layer's units start equal, get equal gradients and stay equal: the "
    "layer is worth one unit; random weights break the symmetry (small ones show it best: "
    "--init-epsilon 0.01 --lr 0.5)"
)


def build(plan: Plan, device: torch.device) -> nn.Sequential:
    """The network that `plan` describes, seeded by it; for --impl builtin its torch.nn twin."""
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they are
        torch.manual_seed(plan.seed)
        # Drawn on the CPU, in float32: one seed is one network, on every device, in every precision
        model: nn.Sequential = MLP(plan.sizes, output=plan.output)
        generator = torch.Generator().manual_seed(plan.seed)
        initialise(model, plan.init, plan.init_epsilon, generator)
    if plan.impl == "builtin":
        model = to_torch(model)
    return model.to(device, getattr(torch, plan.dtype))


def initialise(model: nn.Sequential, name: str, epsilon: float, generator: torch.Generator) -> None:
    """Set the weights and biases of every linear layer of `model`, in place.

    - pytorch: left as `torch.nn.Linear` drew them, W and b uniformly from ±1/√n_in.
    - uniform: W and b uniformly from [−ε, ε] (document 1, "Revisiting the weights initialization").
    - xavier: W uniformly from ±√(6/(n_in + n_out)), b = 0 (Glorot and Bengio, 2010).
    - equal: W = ε, b = 0. All units of a hidden layer then have equal δ and equal updates, which is
      document 1's reason for random weights. Print `EQUAL_WARNING` with it.

    `generator` is on the model's device.

    Raises:
        ValueError: an unknown name.
    """
    if name not in INITIALISATIONS:
        raise ValueError(f"initialise: {name!r} is not one of {', '.join(INITIALISATIONS)}")
    if name == "pytorch":
        return
    for layer in model.modules():
        if not isinstance(layer, nn.Linear):
            continue
        if name == "uniform":
            for parameter in layer.parameters():
                nn.init.uniform_(parameter, -epsilon, epsilon, generator=generator)
            continue
        if name == "xavier":
            nn.init.xavier_uniform_(layer.weight, generator=generator)
        else:
            nn.init.constant_(layer.weight, epsilon)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def criterion(impl: str, reduction: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The cost C = s Σ (a − y)²: our module, or torch.nn's sum times s."""
    if impl == "manual":
        return MSELoss(reduction)
    return lambda a, y: scale(reduction, a.shape) * F.mse_loss(a, y, reduction="sum")
