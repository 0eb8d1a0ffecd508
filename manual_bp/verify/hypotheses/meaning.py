"""Gradients that are not the derivative on purpose: guessed as a question, or held to their word.

@verify.meant("straight-through")
class Round(torch.autograd.Function): ...
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from manual_bp.verify.agreement import near, telling
from manual_bp.verify.crash import CrashError
from manual_bp.verify.experiment import Experiment
from manual_bp.verify.intent import MEANINGS


def guess(experiment: Experiment, position: int) -> tuple[str, str] | None:
    """What a wrong gradient may be meant as, and why, or None if nothing says so."""
    gradients, cotangents = _pairs(experiment, position)
    if not any(bool((g != 0).any()) for g in gradients) or not _linear(experiment, position):
        clips = cotangents is not None and _identity(experiment, position)
        if clips and _clipped(gradients, cotangents or []):
            return "clipped", "the forward returns its input, and the gradient is grad_output, cut"
        return None
    pairs = [experiment.expected(position, row) for row in (0, 1)]
    known = bool(experiment.truths[position].known.any())
    flat_ = not any(telling(*pair) for pair in pairs) if known else of_a_step(experiment, position)
    through = cotangents is not None and _through(gradients, cotangents)
    if flat_ and _steps(experiment, position):
        why = "the derivative is 0 wherever it exists, and the gradient is not"
        return ("straight-through" if through else "surrogate"), why
    other = _returned(experiment, position) if flat_ and through else ""
    if other:
        why = f"the forward returns {other}, and {experiment.case.subject.names[position]}"
        return "straight-through", f"{why} is given grad_output"
    if cotangents is None or not _identity(experiment, position):
        return None
    factor = _factor(gradients, cotangents)
    if factor is None:
        return None
    why = f"the forward returns its input, and the gradient is {factor:.6g} times grad_output"
    return ("reversed" if factor < 0 else "scaled"), why


def _returned(experiment: Experiment, position: int) -> str:
    """The other argument that the forward returns as it is, or ""."""
    case = experiment.case
    values = case.vector()
    for i, (name, a) in enumerate(zip(case.subject.names, case.args, strict=True)):
        if i != position and isinstance(a, Tensor) and a.is_floating_point():
            own = a.detach().reshape(-1).cpu().double()
            if own.shape == values.shape and bool((own == values).all()):
                return name
    return ""


def broken(experiment: Experiment, position: int, word: str) -> str | None:
    """How a gradient breaks what was declared of it, or None."""
    gradients, cotangents = _pairs(experiment, position)
    if word == "surrogate":
        if not _linear(experiment, position):
            return "declared as surrogate, and the gradient is not linear in grad_output"
        return None
    if cotangents is None:
        return f"declared as {word}, and the output has another shape than the input"
    if word == "straight-through":
        holds = _through(gradients, cotangents)
    elif word == "clipped":
        holds = _clipped(gradients, cotangents)
    else:
        factor = _factor(gradients, cotangents)
        holds = factor is not None and (factor < 0) == (word == "reversed")
    if holds:
        return None
    return f"declared as {word}: expected {MEANINGS[word]}, which the gradient is not"


def _pairs(experiment: Experiment, position: int) -> tuple[list[Tensor], list[Tensor] | None]:
    """Gradients, and grad_outputs if there is one output of the input's shape, for two rows."""
    gradients = [experiment.gradient(position, row) for row in (0, 1)]
    shapes = experiment.case.shapes
    if len(shapes) != 1 or shapes[0] != experiment.shape(position):
        return gradients, None
    return gradients, [experiment.cotangents[row].reshape(shapes[0]) for row in (0, 1)]


def _through(gradients: list[Tensor], cotangents: list[Tensor]) -> bool:
    """Whether each element is grad_output, or 0 as outside of a quantiser's range."""
    ok = all(
        bool(((g == 0) | torch.isclose(g, c, rtol=1e-5)).all())
        for g, c in zip(gradients, cotangents, strict=True)
    )
    return ok and any(bool((g != 0).any()) for g in gradients)


def _clipped(gradients: list[Tensor], cotangents: list[Tensor]) -> bool:
    """Whether no element grows or turns, and each is grad_output or at a bound."""
    for g, c in zip(gradients, cotangents, strict=True):
        if not bool(((g * c >= 0) & (g.abs() <= c.abs() * (1 + 1e-6))).all()):
            return False
        cut = ~torch.isclose(g, c, rtol=1e-5)
        if bool(cut.any()) and float((g[cut].abs().max() - g[cut].abs().min()).abs()) > 1e-6:
            return False
    return True


def _factor(gradients: list[Tensor], cotangents: list[Tensor]) -> float | None:
    g, c = torch.stack(gradients).reshape(-1), torch.stack(cotangents).reshape(-1)
    below = float(c @ c)
    factor = float(g @ c) / below if below else 0.0
    return factor if factor and near(g, factor * c, 1e-5) else None


def _linear(experiment: Experiment, position: int) -> bool:
    """Whether the gradient for g₁ + g₂ is the sum, and that for 1000 g₁ is 1000 times."""
    first, second = experiment.cotangents[:2]
    own = experiment.case.gradients
    total, large = own(first + second)[position], own(1000 * first)[position]
    if total is None or large is None:
        return False
    g1, g2 = (experiment.gradient(position, row) for row in (0, 1))
    tolerance = max(1e-4, experiment.rtol)
    return near(total.double().cpu().reshape(g1.shape), g1 + g2, tolerance) and near(
        large.double().cpu().reshape(g1.shape), 1000 * g1, tolerance
    )


def _identity(experiment: Experiment, position: int) -> bool:
    case = experiment.case
    x = case.args[position]
    return (
        not x.is_complex()
        and case.shapes == [x.shape]
        and bool((case.vector() == x.detach().reshape(-1).cpu().double()).all())
    )


def _steps(experiment: Experiment, position: int) -> bool:
    """Whether the values change over large moves of this argument: it is not left unused."""
    case = experiment.case
    for shift, stretch in ((1.0, 1.0), (0.0, -1.0), (0.0, 3.0), (7.3, -2.1)):
        args: list[Any] = list(case.args)
        args[position] = args[position] * stretch + shift
        try:
            if not bool((case.vector(args) == case.vector()).all()):
                return True
        except CrashError:
            continue
    return False


def of_a_step(experiment: Experiment, position: int) -> bool:
    """Whether every element lies at a jump of the values, from where only an estimator leads on."""
    truth, case = experiment.truths[position], experiment.case
    if bool(truth.known.any()) or not bool(truth.rough.any()) or case.args[position].is_complex():
        return False
    x = case.args[position]
    ways = [(x + h) for h in (1e-9, -1e-9)]
    try:
        above, below = (
            case.vector([*case.args[:position], moved, *case.args[position + 1 :]])
            for moved in ways
        )
    except CrashError:
        return False
    return bool(((above - below).abs() > 1e-3).any())
