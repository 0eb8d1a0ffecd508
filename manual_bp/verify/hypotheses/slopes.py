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

from collections.abc import Callable

import torch
from torch import Tensor

from manual_bp.verify.agreement import each_near
from manual_bp.verify.experiment import Experiment
from manual_bp.verify.hypotheses.outputs import rows
from manual_bp.verify.hypotheses.patterns import own_outputs
from manual_bp.verify.hypotheses.where import place

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


def wrong_slope(experiment: Experiment, position: int) -> tuple[str, str] | None:
    """Kind and explanation, or None if the rows are not proportional."""
    measured = _factors(experiment, position)
    if measured is None:
        return None
    factors, y, wide = measured
    if len(factors) < 3 or float((factors - factors.mean()).abs().max()) < 1e-4 * float(
        factors.abs().max()
    ):
        return None
    lost = factors.abs() < 1e-4
    # each input acts on one output, and each output on one input: true of any wrong gradient
    elementwise = not wide and own_outputs(experiment, position)
    if not elementwise and bool((lost | ((factors - 1).abs() < 1e-4)).all()):
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
    # a row of one number always is a multiple of the right one; and what is wrong at some elements
    # alone is said of them
    if not wide or (not whole and bool(((factors - 1).abs() < 1e-4).any())):
        return None
    low, high = float(factors.min()), float(factors.max())
    counts = "a count that is left out, or " if whole else ""
    return (
        "wrong-values",
        f"the gradient that comes from each output element is off by a factor of its own, "
        f"{low:.4g} to {high:.4g}: "
        f"{counts}the derivative of a last elementwise step that is wrong or left out",
    )


def _factors(experiment: Experiment, position: int) -> tuple[Tensor, Tensor, bool] | None:
    """r_o of the output elements, their values, and whether one has several inputs."""
    measured = rows(experiment, position)
    if measured is None:
        return None
    factors, values, wide = [], [], False
    for k in range(len(measured.chosen)):
        true, error = measured.true[k][measured.known], measured.error[k][measured.known]
        own = measured.own[k][measured.known]
        if not true.numel() or float(true.abs().max()) <= 1e3 * float(error.max()):
            continue
        wide = wide or int((true.abs() > 1e-6 * true.abs().max()).sum()) > 1
        factor = float(own @ true) / float(true @ true)
        off = (own - factor * true).abs()
        allowed = 1e-5 * true.abs().max() * max(1.0, abs(factor)) + 10 * error
        if not bool((off <= allowed).all()):
            return None
        factors.append(factor)
        values.append(float(measured.values[k]))
    return torch.tensor(factors).double(), torch.tensor(values).double(), wide
