"""How the gradient depends on grad_output: on none of it, on a part, or not linearly."""

from __future__ import annotations

import itertools

import torch

from manual_bp.verify.agreement import close, equal, near, telling
from manual_bp.verify.hypotheses.evidence import Evidence


def missing(seen: Evidence) -> tuple[str, str] | None:
    if seen.experiment.gradients[seen.position] is None:
        return "missing-gradient", "the gradient is None, the derivative is not 0"
    zero = all(bool((g == 0).all()) for g in seen.gradient)
    # test −g too: a gradient that rectifies grad_output is 0 for one of the two signs
    if zero and bool((seen.own(-seen.experiment.cotangents[0]) == 0).all()):
        return "missing-gradient", "the gradient is 0 everywhere, the derivative is not"
    return None


def ignores(seen: Evidence) -> tuple[str, str] | None:
    g1, g2 = seen.gradient
    if all(bool((g == 0).all()) for g in seen.gradient):
        return None
    third = seen.own(2 * seen.experiment.cotangents[0])
    if equal(g1, g2) and equal(g1, third):
        value, error = seen.experiment.expected(seen.position, 2)
        ones = (
            " It is the derivative for a gradient of ones."
            if close(g1, value, error, seen.rtol)
            else ""
        )
        return (
            "ignores-grad-output",
            f"the same gradient for every grad_output: it is not multiplied by it.{ones}",
        )
    return None


def nonlinear(seen: Evidence) -> tuple[str, str] | None:
    first, second = seen.experiment.cotangents[:2]
    g1, g2 = seen.gradient
    total = seen.own(first + second)
    # rounding in low precision is not linear either; that is `precision`
    tolerance = max(1e-3, seen.rtol)
    zero = seen.own(0 * first)
    if not near(total, g1 + g2, tolerance) or float(zero.abs().max()) > 1e-9 * float(
        g1.abs().max()
    ):
        doubled = seen.own(2 * first)
        shift = (
            "; for a grad_output of 0 it is not 0: something is added"
            if bool((zero != 0).any())
            else ""
        )
        square = (
            "; twice the grad_output gives four times the gradient"
            if near(doubled, 4 * g1, 1e-6)
            else ""
        )
        even = "; twice the grad_output gives the same gradient" if near(doubled, g1, 1e-6) else ""
        text = "the gradient for g₁ + g₂ is not the sum of those for g₁ and g₂"
        return "not-linear-in-grad-output", f"{text}{shift}{square}{even}"
    return scaled(seen)


def scaled(seen: Evidence) -> tuple[str, str] | None:
    """A gradient that is right for grad_outputs of size 1 and clipped or cut off for others."""
    first, g1 = seen.experiment.cotangents[0], seen.gradient[0]
    for scale in (1000.0, -1.0, 1e-3):
        known = ~torch.isnan(seen.expected[0][0])
        floor = abs(scale) * seen.experiment.floor(seen.position)
        if not near(seen.own(scale * first)[known], scale * g1[known], max(1e-3, seen.rtol), floor):
            text = f"the gradient for {scale:g}·g is not {scale:g} times that for g"
            return "not-linear-in-grad-output", f"{text}: clipped, rectified or cut off"
    return None


def one_output(seen: Evidence) -> tuple[str, str] | None:
    count = len(seen.case.shapes)
    if count < 2:
        return None
    parts = [seen.experiment.expected(seen.position, 3 + o) for o in range(count)]
    if sum(telling(*part) for part in parts) < 1:
        return None
    for size in range(1, count):
        for lost in itertools.combinations(range(count), size):
            rest = seen.expected[0][0] - sum((parts[o][0] for o in lost), torch.tensor(0.0))
            error = seen.expected[0][1] + sum((parts[o][1] for o in lost), torch.tensor(0.0))
            if close(seen.gradient[0], rest, error, seen.rtol):
                which = " and ".join(str(o) for o in lost)
                return (
                    "ignores-grad-output",
                    f"the gradient that comes from output {which} is left out; that of the "
                    f"rest is right",
                )
    return None


def read_from(seen: Evidence) -> tuple[str, str] | None:
    """A gradient that reads grad_output's mean, or its first element or row, for all of it."""
    first = seen.experiment.cotangents[0]
    parts = seen.case.split(first)
    if len(parts) != 1 or parts[0].numel() < 2:
        return None
    g = parts[0]
    readings = {"its sum or mean": g.mean().expand_as(g)}
    if g.dim():
        readings["grad_output[0]"] = g[:1].expand_as(g)
    for what, replaced in readings.items():
        if equal(seen.own(replaced.reshape(-1)), seen.gradient[0]) and not equal(g, replaced):
            return (
                "ignores-grad-output",
                f"of grad_output only {what} is read: each element of it has a gradient of its own",
            )
    return None
