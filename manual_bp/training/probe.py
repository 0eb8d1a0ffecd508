"""What is measured once an epoch on the network as it stands."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from manual_bp.direct.statistics import wide
from manual_bp.training.data import Part
from manual_bp.training.evaluation import evaluate

PROBE_ROWS = 500  # validation examples on which the layers are looked at
SATURATED_SLOPE = (
    0.01  # σ′ below this lets less than a twenty-fifth of the best possible error signal through
)
DEAD_SPREAD = (
    0.01  # a unit whose output varies by less than this over the examples says nothing about them
)
STUCK_SLOPE, STUCK_SPREAD = (
    3e-4,
    0.05,
)  # a unit that is nearly constant and lets next to no error in stays as it is


def examples(part: Part, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The first examples of `part` as inputs x (m, pixels) and one-hot targets y (m, 10)."""
    return part[:PROBE_ROWS].batch(dtype)


def measures(
    model: nn.Sequential,
    validation: Part,
    reduction: str,
    dtype: torch.dtype,
    before: list[Tensor],
) -> dict[str, Tensor]:
    """Everything that is measured at the end of an epoch: scalars that are still on the device, by
    tag.

    Args:
        model: linear layers, each with or without a sigmoid after it.
        validation: the part on which cost and accuracy are measured, and the layers on its first
            examples.
        reduction: the cost's.
        dtype: the network's.
        before: the parameters at the beginning of the epoch.
    """
    cost, accuracy = evaluate(model, validation, reduction, dtype)
    values = {
        "cost/validation": cost,
        "accuracy/validation": accuracy,
        **layers(model, *examples(validation, dtype)),
    }
    for (name, parameter), old in zip(model.named_parameters(), before, strict=True):
        # ‖W_after − W_before‖ / ‖W_before‖ over the epoch; 1 for a parameter that was all 0
        new, size = parameter.detach(), old.norm()
        size = torch.where(size > 0, size, new.norm()).clamp_min(1e-12)
        values[f"update_ratio/{name}"] = (new - old).norm() / size
    return values


@torch.no_grad()
def layers(model: nn.Sequential, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """How every layer stands for inputs x (m, n_in) and targets y (m, n_out), without autograd.

    Returns:
        Scalars that are still on the device, by tag. The layer whose linear module is called 0 has,
        if a sigmoid: "slope/0" mean σ′(z) = a(1 − a), at most ¼; "saturated/0" the share of σ′(z) <
        0.01; "passed/0" ‖δ‖ / ‖∂C/∂a‖, the share of the error that the slope lets through, at most
        ¼; "stuck/0" the share of units that are nearly constant with a slope near zero; and in any
        case "dead/0" the share of units with a constant output.
    """
    forward: list[
        tuple[str, nn.Linear, Tensor, bool]
    ] = []  # name, linear module, a, whether a = σ(z)
    a = x
    for name, module in model.named_children():
        a = module(a)  # z = a_prev Wᵀ + b, or a = σ(z)  (m, n)
        if isinstance(module, nn.Linear):
            forward.append((name, module, a, False))
        else:
            forward[-1] = (*forward[-1][:2], a, True)
    tags: dict[str, Tensor] = {}
    error = a - y  # ∂C/∂a / 2s; the factor falls out of every ratio  (m, n_out)
    for name, linear, a, is_sigmoid in reversed(forward):
        delta = error
        spread = a.amax(0) - a.amin(0)  # (n,)
        tags[f"dead/{name}"] = wide(spread < DEAD_SPREAD).mean()
        if is_sigmoid:
            slope = a * (1 - a)  # σ′(z)  (m, n)
            delta = error * slope  # δ = ∂C/∂a ⊙ σ′(z)  (m, n)
            unit_slope = slope.mean(0)  # (n,)
            tags[f"slope/{name}"] = unit_slope.mean()
            tags[f"saturated/{name}"] = wide(slope < SATURATED_SLOPE).mean()
            # the floor: where no error arrives at all, none is let through
            tags[f"passed/{name}"] = delta.norm() / error.norm().clamp_min(
                torch.finfo(a.dtype).tiny
            )
            tags[f"stuck/{name}"] = wide(
                (spread < STUCK_SPREAD) & (unit_slope < STUCK_SLOPE)
            ).mean()
        if name != forward[0][0]:
            error = delta @ linear.weight  # ∂C/∂a_prev = δ W  (m, n_in)
    return dict(reversed(tags.items()))
