"""At a kink any slope between those of the two sides will do; another one, or infinity, is wrong.

For a step h along a coordinate the slopes of each output are D⁺ = (f(x + h) − f(x)) / h and
D⁻ = (f(x) − f(x − h)) / h. A gradient must lie between Σ_o min(g_o D⁺_o, g_o D⁻_o) and the sum of
the maxima. Where a slope changes with h there is a step, or a kink nearby: nothing is said.
"""

from __future__ import annotations

import torch
from torch import Tensor

from manual_bp.verify.crash import CrashError
from manual_bp.verify.experiment import Experiment
from manual_bp.verify.steps import some, spread

ELEMENTS = 32  # that are looked at, at most
STEP = 1e-4  # relative to the element's size
SETTLED = 0.02  # by which half the step may change a slope
SLACK = 0.05  # of the distance between the two sides


def beyond(experiment: Experiment, position: int) -> tuple[int, float, float, float] | None:
    """Flat index, gradient, lowest and highest slope, of a gradient that is not between."""
    found = experiment.gradients[position]
    rough = experiment.truths[position].rough.nonzero().reshape(-1).tolist()
    differences = experiment.differences
    if found is None or not rough or differences.relative_noise > 1e-11:
        return None
    steps = spread(differences.args[position])
    for j in (rough[k] for k in some(len(rough), ELEMENTS)):
        try:
            sides = _sides(experiment, position, j, STEP * float(steps[j]))
        except CrashError:
            continue
        if sides is None:
            continue
        for row in (0, 1):
            parts = experiment.cotangents[row] * sides  # (2, N)
            low, high = float(parts.amin(0).sum()), float(parts.amax(0).sum())
            own = float(found[row, j])
            slack = SLACK * (high - low) + 1e-3 * max(abs(low), abs(high))
            slack += experiment.floor(position)
            if not low - slack <= own <= high + slack:
                return j, own, low, high
    return None


def _sides(experiment: Experiment, position: int, j: int, h: float) -> Tensor | None:
    """D⁺ and D⁻ of every output, (2, N), or None where they have not settled."""
    change = experiment.differences.along
    coarse = torch.stack([change(position, j, h) / h, -change(position, j, -h) / h])
    fine = torch.stack([change(position, j, h / 2) * 2 / h, -change(position, j, -h / 2) * 2 / h])
    if not bool(torch.isfinite(coarse).all() and torch.isfinite(fine).all()):
        return None
    largest = float(torch.maximum(coarse.abs(), fine.abs()).max())
    if float((coarse - fine).abs().max()) > SETTLED * largest:
        return None
    return fine
