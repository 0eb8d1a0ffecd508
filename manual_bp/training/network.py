"""Build the network that the flags describe."""

from __future__ import annotations

import torch
from torch import nn

from manual_bp.modules import MLP, MSELoss
from manual_bp.training.data import CLASSES
from manual_bp.training.initialisation import initialise
from manual_bp.training.options import Options


def build(options: Options, pixels: int, device: torch.device) -> nn.Sequential:
    """The network in [pixels, *hidden, 10] sizes, seeded by --seed; --impl builtin gives its
    torch.nn twin.
    """
    dtype = getattr(torch, options.dtype)
    with torch.random.fork_rng(
        devices=[]
    ):  # the caller's random numbers go on as if nothing had happened
        torch.manual_seed(options.seed)
        # Drawn on the CPU, in float32: one seed is one network, whatever the device and the
        # precision.
        model: nn.Sequential = MLP([pixels, *options.hidden, CLASSES], output=options.output)  # type: ignore[arg-type]
        generator = torch.Generator().manual_seed(options.seed)
        initialise(model, options.init, options.init_epsilon, generator)
    if options.impl == "builtin":
        model = builtin_twin(model)
    return model.to(device, dtype)


def builtin_twin(model: nn.Sequential) -> nn.Sequential:
    """The same network of torch.nn's own layers, with equal but separate parameters; ours or
    torch's may come in.
    """
    layers: list[nn.Module] = []
    for module in model:
        if isinstance(module, nn.Linear):
            layer = nn.Linear(
                module.in_features,
                module.out_features,
                bias=module.bias is not None,
                device="meta",  # drawing first weights would take longer than all the rest
            )
            layer.weight = nn.Parameter(module.weight.detach().clone())
            if module.bias is not None:
                layer.bias = nn.Parameter(module.bias.detach().clone())
            layers.append(layer)
        else:
            layers.append(nn.Sigmoid())
    return nn.Sequential(*layers)


def criterion(impl: str, reduction: str) -> nn.Module:
    """The cost as a module: ours, or torch.nn's times the factor that turns its mean or sum into
    `reduction`.
    """
    return MSELoss(reduction) if impl == "manual" else _BuiltinCost(reduction)


class _BuiltinCost(nn.Module):
    """s Σ (a − y)² out of torch.nn.functional.mse_loss."""

    def __init__(self, reduction: str) -> None:
        super().__init__()
        self.base = "sum" if reduction == "sum" else "mean"
        self.reduction = reduction

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        cost = nn.functional.mse_loss(input, target, reduction=self.base)
        if self.reduction == "half_per_example":
            return cost * (input.shape[-1] / 2)  # Σ/(m n_out) · n_out/2 = Σ/(2m)
        if self.reduction == "half_per_element":
            return cost / 2
        return cost
