"""The weights that a network starts from: `--init`."""

from __future__ import annotations

import torch
from torch import nn

from manual_bp.training.options import INITIALISATIONS

EQUAL_WARNING = (
    "--init equal: a hidden layer's units start equal, get equal gradients and stay equal: the "
    "layer is worth one unit; random weights break the symmetry (small ones show it best: "
    "--init-epsilon 0.01 --lr 0.5)"
)


def initialise(model: nn.Sequential, name: str, epsilon: float, generator: torch.Generator) -> None:
    """Set the weights and biases of every linear layer of `model`, in place.

    - pytorch: left as `torch.nn.Linear` drew them, W and b uniformly from ±1/√n_in.
    - uniform: W and b uniformly from [−ε, ε] (document 1, "Revisiting the weights initialization").
    - xavier: W uniformly from ±√(6/(n_in + n_out)), b = 0 (Glorot and Bengio, 2010).
    - equal: W = ε, b = 0. All units of a hidden layer then have equal δ and equal updates, which is
      document 1's reason for random weights. Print `EQUAL_WARNING` with it.

    Args:
        model: its `nn.Linear` layers are initialised, ours or torch's.
        name: one of `INITIALISATIONS`.
        epsilon: ε of uniform and equal.
        generator: of uniform and xavier; on the model's device.

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
