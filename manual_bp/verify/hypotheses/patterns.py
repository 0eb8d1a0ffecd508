"""What to say of a wrong gradient of no known kind: where it is wrong, and what was ruled out."""

from __future__ import annotations

import torch
from torch import Tensor

from manual_bp.verify.agreement import close
from manual_bp.verify.crash import CrashError
from manual_bp.verify.experiment import Experiment
from manual_bp.verify.hypotheses.ratios import meaning_of
from manual_bp.verify.hypotheses.where import place, ratio
from manual_bp.verify.steps import length, some, spread

RULED_OUT = (
    "ruled out: a constant factor, a transposition, another input's derivative, "
    "another point, a missing sum"
)


def describe(experiment: Experiment, position: int) -> str:
    """One or two observations on the numbers, then what was ruled out."""
    gradients = [experiment.gradient(position, row) for row in (0, 1)]
    pairs = [experiment.expected(position, row) for row in (0, 1)]
    expected = [p[0] for p in pairs]
    known = ~torch.isnan(expected[0])
    infinite = known & ~(torch.isfinite(gradients[0]) & torch.isfinite(gradients[1]))
    if bool(infinite.any()):
        case, name = experiment.case, experiment.case.subject.names[position]
        at = place(infinite, known, name, case, case.args[position])
        return f"the gradient is NaN or infinite at {at}, where the derivative is finite"
    seen = [
        text
        for text in (_where(experiment, position), _shape_of(experiment, position, expected))
        if text
    ]
    return "; ".join([*(seen or ["the gradient is wrong"]), RULED_OUT])


def _where(experiment: Experiment, position: int) -> str | None:
    """Whether only some elements are wrong, or all."""
    value, error = experiment.expected(position, 0)
    g = experiment.gradient(position, 0)
    known = ~torch.isnan(value)
    scale = value[known].abs().max()
    wrong = ((g - value).abs() > experiment.rtol * scale + 3 * error) & known
    if not bool(wrong.any()):
        return None
    case = experiment.case
    at = place(wrong, known, case.subject.names[position], case, case.args[position])
    what = ratio(g, value, wrong)
    if bool((wrong == known).all()):
        return what or None
    return f"wrong at {at}{f': {what}' if what else ''}; the rest is right"


def own_outputs(experiment: Experiment, position: int) -> bool:
    """Whether each element acts on one output alone: then any gradient is a factor off."""
    n = length(experiment.case.args[position])
    steps = spread(experiment.case.args[position])
    for j in some(n, 8):
        try:
            moved = experiment.differences.along(position, j, 1e-3 * float(steps[j]))
        except CrashError:
            continue
        if int((moved != 0).sum()) > 1:
            return False
    return True


def _shape_of(experiment: Experiment, position: int, expected: list[Tensor]) -> str | None:
    """A pattern in the ratio or the difference that shows what is missing."""
    gradients = [experiment.gradient(position, row) for row in (0, 1)]
    errors = [experiment.expected(position, row)[1] for row in (0, 1)]
    known = ~torch.isnan(expected[0])
    for count in range(1, gradients[0].dim() + 1):
        flipped = [g.flip([-d for d in range(1, count + 1)]) for g in gradients]
        if gradients[0].dim() > 1 and all(
            close(f, e, s, 1e-5) for f, e, s in zip(flipped, expected, errors, strict=True)
        ):
            return (
                f"the numbers are right but in reverse order along the last {count} "
                "dimension(s): a flipped kernel"
            )
    ratios = [g / e for g, e in zip(gradients, expected, strict=True)]
    solid = known & (expected[0].abs() > 1e3 * errors[0]) & (expected[1].abs() > 1e3 * errors[1])
    if int(solid.sum()) > 3 and torch.allclose(
        ratios[0][solid], ratios[1][solid], rtol=1e-4, atol=1e-7
    ):
        name = meaning_of(experiment, position, ratios[0], solid)
        if name is None and own_outputs(experiment, position):
            return None
        return "each element is off by a factor of its own, the same for every grad_output" + (
            f": {name}" if name else ": an elementwise factor is missing or wrong"
        )
    differences = [g - e for g, e in zip(gradients, expected, strict=True)]
    for d in range(gradients[0].dim()):
        size = gradients[0].shape[d]
        if size > 1 and bool(known.all()):
            off = max(float((x - x.mean(d, keepdim=True)).abs().max()) for x in differences)
            if off <= 1e-6 * max(float(x.abs().max()) for x in differences):
                return (
                    f"the difference from the derivative is the same along dimension {d}: "
                    "a term with a sum or mean over it is missing"
                )
    return None
