"""The derivative, but times a number, conjugated, turned, rounded, or of another input."""

from __future__ import annotations

import itertools
import math

import torch

from manual_bp.verify.agreement import close, telling
from manual_bp.verify.hypotheses.evidence import Evidence
from manual_bp.verify.hypotheses.factor import explain
from manual_bp.verify.hypotheses.where import place
from manual_bp.verify.probes.precision import roughness


def conjugate(seen: Evidence) -> tuple[str, str] | None:
    if not seen.case.args[seen.position].is_complex():
        return None
    turned = [g * torch.tensor([1.0, -1.0]) for g in seen.gradient]
    if not seen.is_(turned):
        return None
    return "wrong-values", "the gradient is the conjugate of the derivative: a conj is missing"


def factor(seen: Evidence) -> tuple[str, str] | None:
    factor = seen.ratio(seen.gradient[0], seen.expected[0][0])
    if not math.isfinite(factor) or abs(factor) < 1e-12 or not seen.is_(seen.gradient, factor):
        return None
    # a factor near 1 counts only if the numbers agree with it much better than with 1
    near = 0.02 * abs(factor - 1)
    agree = (
        close(g, factor * e, s, near)
        for g, (e, s) in zip(seen.gradient, seen.expected, strict=True)
    )
    if near < 1e-5 * abs(factor) and not all(agree):
        return None
    text, plain = explain(factor, seen.case)
    known = int((~torch.isnan(seen.expected[0][0])).sum())
    # few numbers may have a common factor by chance: look at a second point
    if known < 4 or not plain:
        elsewhere = seen.ratio_elsewhere()
        if elsewhere is None or abs(elsewhere - factor) > max(1e-6, min(1e-3 * abs(factor), near)):
            return None
    if math.isclose(factor, -1, rel_tol=1e-4):
        return "sign-flip", "the gradient is −1 times the derivative: minimising with it climbs"
    digits = 6 if abs(factor - 1) > 1e-4 else 10  # never "1 times"
    return "constant-factor", f"the gradient is {factor:.{digits}g} times the derivative: {text}"


def unstable_factor(seen: Evidence) -> tuple[str, str] | None:
    """One factor for at least four numbers and both cotangents, but not at other points."""
    factor = seen.ratio(seen.gradient[0], seen.expected[0][0])
    value, error = seen.expected[0]
    big = int((value.abs() > 100 * error).sum())
    if (
        big < 4
        or not math.isfinite(factor)
        or abs(factor) < 1e-12
        or abs(factor - 1) < 1e-3  # no factor, but an error that is small everywhere
        or not seen.is_(seen.gradient, factor)
    ):
        return None
    text, _ = explain(factor, seen.case)
    return (
        "constant-factor",
        f"the gradient is {factor:.6g} times the derivative at this point: {text}",
    )


def transposed(seen: Evidence) -> tuple[str, str] | None:
    shape = seen.experiment.shape(seen.position)
    if not 2 <= len(shape) <= 4:
        return None
    for order in itertools.permutations(range(len(shape))):
        if order == tuple(range(len(shape))):
            continue
        other = torch.Size([shape[d] for d in order])
        inverse = [order.index(d) for d in range(len(shape))]
        # equal sizes exchanged, or numbers of the transposed shape that were reshaped to fit
        candidates = [g.reshape(other).permute(inverse) for g in seen.gradient]
        factor = seen.ratio(candidates[0], seen.expected[0][0])
        if math.isfinite(factor) and abs(factor) > 1e-9 and seen.is_(candidates, factor):
            times = "" if math.isclose(factor, 1, rel_tol=1e-4) else f", times {factor:.4g}"
            what = (
                "its transpose" if len(shape) == 2 else f"it with dimensions exchanged, as {order}"
            )
            return "transposed", f"the gradient is not the derivative but {what}{times}"
    return None


def another(seen: Evidence) -> tuple[str, str] | None:
    for other in seen.case.checked:
        if other == seen.position or seen.experiment.shape(other) != seen.experiment.shape(
            seen.position
        ):
            continue
        theirs = [seen.experiment.expected(other, row) for row in (0, 1)]
        if not telling(*theirs[0]):
            continue
        for sign in (1.0, -1.0):
            if (
                all(
                    close(g, sign * e, s, seen.rtol)
                    for g, (e, s) in zip(seen.gradient, theirs, strict=True)
                )
                and seen.experiment.truths[other].known.any()
            ):
                minus = "minus " if sign < 0 else ""
                name = seen.case.subject.names[other]
                return (
                    "gradient-of-another-input",
                    f"the gradient is {minus}the derivative by {name}",
                )
    return None


def precision(seen: Evidence) -> tuple[str, str] | None:
    """A small error from rounding: the gradient is rough over small steps."""
    value, _ = seen.expected[0]
    known = ~torch.isnan(value)
    off, size = (seen.gradient[0] - value)[known].abs(), value[known].abs()
    if not 0 < float(off.max()) <= 0.03 * float(size.max()):
        return None
    rough = roughness(seen.experiment, seen.position).reshape(value.shape)[known]
    wrong = off > seen.experiment.rtol * size.max()  # perhaps not all: one branch, or half of them
    jump = float(rough[wrong].median()) if bool(wrong.any()) else 0.0
    if jump < 0.05 * float(off[wrong].square().mean().sqrt()) or not jump:
        return None
    relative, at = float(off.max() / size.max()), ""
    if not bool(wrong.all()):
        every, case = torch.ones_like(known), seen.case
        mask = torch.zeros_like(known)
        mask[known] = wrong
        own = case.args[seen.position]
        at = f" at {place(mask, known & every, seen.name, case, own)}"
    return (
        "precision",
        f"the gradient is off by {relative:.1e} of its size and jumps by "
        f"{jump / float(size.max()):.1e} over small steps: it is computed in a lower precision "
        f"than its input has{at}",
    )
