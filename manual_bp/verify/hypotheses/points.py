"""Hypothesis: the gradient is the derivative at another point.

Two slips give the same kind of numbers but differ in the code. With y the output, or another tensor
of x's shape:

    gradient(x) = f′(y)      evaluated at y where x is meant:  σ(a)(1 − σ(a)) with a for z
    gradient(y) = f′(x)      a formula for y, but given x:     z(1 − z) where a(1 − a) is meant

The second slip is found without a formula: at the point y the function's own backward gives f′(x).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from manual_bp.verify.agreement import close, telling
from manual_bp.verify.crash import CrashError
from manual_bp.verify.experiment import Experiment


def wrong_point(experiment: Experiment, position: int) -> str | None:
    """The point and the slip in words, or None."""
    case = experiment.case
    pairs = [experiment.expected(position, row) for row in (0, 1)]
    expected, error = torch.stack([p[0] for p in pairs]), torch.stack([p[1] for p in pairs])
    gradients = torch.stack([experiment.gradient(position, row) for row in (0, 1)])
    found = _search(experiment, position, list(case.args), expected, error, gradients)
    if found is not None or case.args[position].is_complex():
        return found
    # The function may not be defined at its output, as log is not at log x for x < 1: look from
    # another point.
    for shift, stretch in ((2.0, 1.0), (-2.0, 1.0), (0.0, 0.3), (0.0, 3.0)):
        args = list(case.args)
        args[position] = args[position] * stretch + shift
        try:
            expected, error, gradients = experiment.at(args, position)
            found = _search(experiment, position, args, expected, error, gradients)
        except (CrashError, RuntimeError, ValueError):
            continue
        if found is not None:
            return found
    return None


def _search(
    experiment: Experiment,
    position: int,
    base: list[Any],
    expected: Tensor,
    error: Tensor,
    gradients: Tensor,
) -> str | None:
    name = experiment.case.subject.names[position]
    scale = expected.abs().nan_to_num().max()
    # False where the derivative is not known
    wrong = (gradients - expected).abs() > 1e-4 * scale + 3 * error
    for label, args, reversible in _points(experiment, position, base):
        try:
            there, there_error, own = experiment.at(args, position)
        except (CrashError, RuntimeError, ValueError):
            continue
        if _agree(gradients, there, there_error, wrong, experiment.rtol):
            return (
                f"it is the derivative at another point: evaluated with {label} where "
                f"{name} itself is meant"
            )
        # `own`, the gradient there, is known everywhere: take the mask of the derivative here
        if reversible and _agree(own, expected, error, wrong, experiment.rtol):
            return (
                f"it is the derivative at another point: the formula is written for {label} and is "
                f"given {name}; "
                f"evaluated with {label} it is right"
            )
    return None


def _agree(value: Tensor, expected: Tensor, error: Tensor, wrong: Tensor, rtol: float) -> bool:
    """Whether `value` is `expected`, and the agreement means something.

    They must agree on elements where gradient and derivative differ: on two, if so many do.
    """
    usable = ~torch.isnan(expected) & torch.isfinite(value) & torch.isfinite(error)
    masked = torch.where(usable, expected, torch.nan)
    if not bool(usable.any()) or not telling(masked, error):
        return False
    differing = usable & wrong
    if not bool(differing.any()) or int(differing.sum()) < min(2, int(wrong.sum())):
        return False
    return all(
        close(v, e, s, max(rtol, 1e-5)) for v, e, s in zip(value, masked, error, strict=True)
    )


def _points(
    experiment: Experiment, position: int, base: list[Any]
) -> Iterator[tuple[str, list[Any], bool]]:
    """Other points to look at.

    Yields:
        Label, arguments, and whether the second slip is possible there.
    """
    case = experiment.case
    x = base[position]
    names = case.subject.names

    def with_(changes: dict[int, Any]) -> list[Any]:
        return [changes.get(i, a) for i, a in enumerate(base)]

    outputs = [o for o in case.values(base) if o.is_floating_point() == x.is_floating_point()]
    for number, y in enumerate(outputs):
        label = "the output" if len(outputs) == 1 else f"output {number}"
        if y.shape == x.shape and y.dtype == x.dtype:
            yield label, with_({position: y}), True
            try:
                again = case.values(with_({position: y}))[number]
            except (CrashError, IndexError):
                continue
            if again.shape == x.shape:
                yield f"the function of {label}", with_({position: again}), True
    for i, other in enumerate(base):
        if i == position or not isinstance(other, Tensor) or other.dtype != x.dtype:
            continue
        if other.shape == x.shape:
            yield names[i], with_({position: other}), True
            yield f"{names[i]} exchanged with it", with_({position: other, i: x}), False
        yield f"{names[i]} taken as 0", with_({i: torch.zeros_like(other)}), False
        for number, y in enumerate(outputs):
            if y.shape == other.shape:
                label = "the output" if len(outputs) == 1 else f"output {number}"
                # a mask that needs no gradient: at another one a branch is left out
                yield f"{label} in place of {names[i]}", with_({i: y}), i in case.checked
