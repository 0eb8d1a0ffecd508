"""Hypothesis: the fault is in the slope of a last elementwise step y = f(z), as of an activation.

Then every row of the Jacobian is the true one times a factor of its own, the same for all inputs:

    gradient for e_o = r_o · derivative for e_o          e_o: 1 at output element o, 0 elsewhere

Once f is known, r_o tells the fault. For each common activation z follows from y, and z gives the
values of

    f′(y) / f′(z)      the slope was taken at the output                 σ(a)(1 − σ(a))
    f′(f⁻¹(z)) / f′(z) the formula for the output was given z            z(1 − z)
    1 / f′(z)          the slope was left out
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from manual_bp.verify.agreement import each_near
from manual_bp.verify.case import CrashError, flat
from manual_bp.verify.experiment import Experiment
from manual_bp.verify.hypotheses.patterns import own_outputs
from manual_bp.verify.hypotheses.where import place
from manual_bp.verify.truth import Differences

Map = Callable[[Tensor], Tensor]
# name: f, f⁻¹, and f′ written in the output
ACTIVATIONS: dict[str, tuple[Map, Map, Map]] = {
    "sigmoid": (torch.sigmoid, torch.logit, lambda y: y * (1 - y)),
    "tanh": (torch.tanh, torch.atanh, lambda y: 1 - y * y),
    "exp": (torch.exp, torch.log, lambda y: y),
    "softplus": (
        torch.nn.functional.softplus,
        lambda y: y + torch.log(-torch.expm1(-y)),
        lambda y: -torch.expm1(-y),
    ),
}
OUTPUTS = 24


def wrong_slope(experiment: Experiment, position: int) -> tuple[str, str] | None:
    """Kind and explanation, or None if the rows are not proportional."""
    measured = _factors(experiment, position)
    if measured is None:
        return None
    factors, y, wide = measured
    # each input acts on one output, and each output on one input: true of any wrong gradient
    trivial = not wide and own_outputs(experiment, position)
    if len(factors) < 3 or float((factors - factors.mean()).abs().max()) < 1e-4 * float(
        factors.abs().max()
    ):
        return None
    lost = factors.abs() < 1e-4
    if not trivial and bool((lost | ((factors - 1).abs() < 1e-4)).all()):
        case, at = experiment.case, ""
        if len(factors) == case.shapes[0].numel():
            every = torch.ones(case.shapes[0], dtype=torch.bool)
            text = place(lost.reshape(case.shapes[0]), every, "output", case)
            at = "" if "first" in text else f" ({text.partition(' (')[0]})"
        return (
            "wrong-values",
            f"what comes from {int(lost.sum())} of {len(factors)} output elements is lost{at}, the "
            "rest is right: an assignment where contributions must add up (an index that occurs "
            "twice), or a block that is skipped",
        )
    for name, (f, inverse, slope) in ACTIVATIONS.items():
        z = inverse(y)
        if not bool(torch.isfinite(z).all()):
            continue
        true = slope(y)
        if each_near(factors, slope(f(y)) / true):
            return (
                "derivative-at-wrong-point",
                f"the slope of the {name} is taken at its output instead of its input",
            )
        if each_near(factors, slope(z) / true):
            return (
                "derivative-at-wrong-point",
                f"the slope of the {name} is written for its output and is given its input",
            )
        if each_near(factors, 1 / true):
            return "wrong-values", f"the slope of the {name}, its derivative, is left out"
    whole = float((factors - factors.round()).abs().max()) <= 1e-4
    if trivial or (not whole and bool(((factors - 1).abs() < 1e-4).any())):
        return None  # what is wrong at some elements alone is said of them
    low, high = float(factors.min()), float(factors.max())
    counts = "a count that is left out, or " if whole else ""
    return (
        "wrong-values",
        f"the gradient that comes from each output element is off by a factor of its own, "
        f"{low:.4g} to {high:.4g}: "
        f"{counts}the derivative of a last elementwise step that is wrong or left out",
    )


def _factors(experiment: Experiment, position: int) -> tuple[Tensor, Tensor, bool] | None:
    """r_o for up to OUTPUTS output elements, their values, and whether one has several inputs."""
    case = experiment.case
    total = experiment.cotangents.shape[1]
    if (
        len(case.shapes) != 1
        or experiment.columns[position] is not None
        or experiment.differences.relative_noise > 1e-11
    ):
        return None
    chosen = (
        list(range(total))
        if total <= OUTPUTS
        else list(range(0, total, math.ceil(total / OUTPUTS)))
    )
    rows = torch.zeros(len(chosen), total).double()
    rows[torch.arange(len(chosen)), chosen] = 1.0
    differences = Differences(case, rows)
    truth = differences.truth(position, None, int(0.5 / experiment.cost))
    factors, values, wide = [], [], False
    for k, o in enumerate(chosen):
        try:
            found = case.gradients(rows[k])[position]
        except CrashError:
            return None
        own = torch.zeros(truth.value.shape[1]).double() if found is None else flat([found])
        true, error = truth.value[k][truth.known], truth.error[k][truth.known]
        own = own[truth.known]
        if not true.numel() or float(true.abs().max()) <= 1e3 * float(error.max()):
            continue
        wide = wide or int((true.abs() > 1e-6 * true.abs().max()).sum()) > 1
        factor = float(own @ true) / float(true @ true)
        if not bool(
            (
                (own - factor * true).abs()
                <= 1e-5 * true.abs().max() * max(1.0, abs(factor)) + 10 * error
            ).all()
        ):
            return None
        factors.append(factor)
        values.append(float(differences.start[o]))
    return torch.tensor(factors).double(), torch.tensor(values).double(), wide
