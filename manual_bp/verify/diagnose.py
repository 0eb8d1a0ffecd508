"""Hypotheses about one tensor's gradient, each tested on the evidence, the more specific first.

Every hypothesis is checked with two random cotangents. The report gives the first hypothesis that
explains the numbers for both.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import torch
from torch import Tensor

from manual_bp.verify import kinks
from manual_bp.verify.agreement import close, equal, near, telling
from manual_bp.verify.case import CrashError
from manual_bp.verify.experiment import Experiment
from manual_bp.verify.factor import explain
from manual_bp.verify.patterns import describe
from manual_bp.verify.points import wrong_point
from manual_bp.verify.probes.precision import roughness
from manual_bp.verify.report import Finding, Row
from manual_bp.verify.slopes import wrong_slope

LOOSE = 1e-5


class Diagnosis:
    """What is wrong with the gradient of one argument."""

    def __init__(self, experiment: Experiment, position: int) -> None:
        self.experiment = experiment
        self.position = position
        self.case = experiment.case
        self.name = self.case.subject.names[position]
        self.rtol = max(experiment.rtol, LOOSE)
        self.gradient = [experiment.gradient(position, row) for row in (0, 1)]
        self.expected = [experiment.expected(position, row) for row in (0, 1)]

    def is_(self, candidates: list[Tensor], factor: float = 1.0) -> bool:
        """Whether the candidates are the derivative, for both cotangents."""
        return all(
            close(c, factor * e, abs(factor) * s, self.rtol)
            for c, (e, s) in zip(candidates, self.expected, strict=True)
        )

    def explain(self) -> tuple[str, str]:
        """Kind and explanation."""
        known = ~torch.isnan(self.expected[0][0])
        if any(not bool(torch.isfinite(g[known]).all()) for g in self.gradient):
            return "wrong-values", describe(self.experiment, self.position)
        tests = [
            self._missing,
            self._ignores,
            self._precision,
            self._nonlinear,
            self._one_output,
            self._factor,
            self._conjugate,
            self._read_from,
        ]
        tests += [self._transposed, self._another]
        # the next tests use differences of the values; a reference's gradient may be another
        by_values = self.position not in self.experiment.by_reference
        tests += (
            [self._point, self._unstable_factor, self._slope]
            if by_values
            else [self._unstable_factor]
        )
        for test in tests:
            found = test()
            if found is not None:
                return found
        return "wrong-values", describe(self.experiment, self.position)

    def _slope(self) -> tuple[str, str] | None:
        return wrong_slope(self.experiment, self.position)

    def _missing(self) -> tuple[str, str] | None:
        if self.experiment.gradients[self.position] is None:
            return "missing-gradient", "the gradient is None, the derivative is not 0"
        zero = all(bool((g == 0).all()) for g in self.gradient)
        # test −g too: a gradient that rectifies grad_output is 0 for one of the two signs
        if zero and bool((self._own(-self.experiment.cotangents[0]) == 0).all()):
            return "missing-gradient", "the gradient is 0 everywhere, the derivative is not"
        return None

    def _own(self, cotangent: Tensor) -> Tensor:
        found = self.case.gradients(cotangent)[self.position]
        zero = torch.zeros(self.experiment.shape(self.position)).double()
        return zero if found is None else found.detach().to("cpu", torch.float64)

    def _ignores(self) -> tuple[str, str] | None:
        g1, g2 = self.gradient
        if all(bool((g == 0).all()) for g in self.gradient):
            return None
        third = self._own(2 * self.experiment.cotangents[0])
        if equal(g1, g2) and equal(g1, third):
            value, error = self.experiment.expected(self.position, 2)
            ones = (
                " It is the derivative for a gradient of ones."
                if close(g1, value, error, self.rtol)
                else ""
            )
            return (
                "ignores-grad-output",
                f"the same gradient for every grad_output: it is not multiplied by it.{ones}",
            )
        return None

    def _nonlinear(self) -> tuple[str, str] | None:
        first, second = self.experiment.cotangents[:2]
        g1, g2 = self.gradient
        total = self._own(first + second)
        # rounding in low precision is not linear either; that is `precision`
        tolerance = max(1e-3, self.rtol)
        zero = self._own(0 * first)
        if not near(total, g1 + g2, tolerance) or float(zero.abs().max()) > 1e-9 * float(
            g1.abs().max()
        ):
            doubled = self._own(2 * first)
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
            even = (
                "; twice the grad_output gives the same gradient" if near(doubled, g1, 1e-6) else ""
            )
            text = "the gradient for g₁ + g₂ is not the sum of those for g₁ and g₂"
            return "not-linear-in-grad-output", f"{text}{shift}{square}{even}"
        return self.scaled()

    def scaled(self) -> tuple[str, str] | None:
        """A gradient that is right for grad_outputs of size 1 and clipped or cut off for others."""
        first, g1 = self.experiment.cotangents[0], self.gradient[0]
        for scale in (1000.0, -1.0, 1e-3):
            known = ~torch.isnan(self.expected[0][0])
            floor = abs(scale) * self.experiment.floor(self.position)
            if not near(
                self._own(scale * first)[known], scale * g1[known], max(1e-3, self.rtol), floor
            ):
                text = f"the gradient for {scale:g}·g is not {scale:g} times that for g"
                return "not-linear-in-grad-output", f"{text}: clipped, rectified or cut off"
        return None

    def _one_output(self) -> tuple[str, str] | None:
        count = len(self.case.shapes)
        if count < 2:
            return None
        parts = [self.experiment.expected(self.position, 3 + o) for o in range(count)]
        if sum(telling(*part) for part in parts) < 1:
            return None
        for size in range(1, count):
            for lost in itertools.combinations(range(count), size):
                rest = self.expected[0][0] - sum((parts[o][0] for o in lost), torch.tensor(0.0))
                error = self.expected[0][1] + sum((parts[o][1] for o in lost), torch.tensor(0.0))
                if close(self.gradient[0], rest, error, self.rtol):
                    which = " and ".join(str(o) for o in lost)
                    return (
                        "ignores-grad-output",
                        f"the gradient that comes from output {which} is left out; that of the "
                        f"rest is right",
                    )
        return None

    def _conjugate(self) -> tuple[str, str] | None:
        if not self.case.args[self.position].is_complex():
            return None
        turned = [g * torch.tensor([1.0, -1.0]) for g in self.gradient]
        if not self.is_(turned):
            return None
        return "wrong-values", "the gradient is the conjugate of the derivative: a conj is missing"

    def _read_from(self) -> tuple[str, str] | None:
        """A gradient that reads grad_output's mean, or its first element or row, for all of it."""
        first = self.experiment.cotangents[0]
        parts = self.case.split(first)
        if len(parts) != 1 or parts[0].numel() < 2:
            return None
        g = parts[0]
        readings = {"its sum or mean": g.mean().expand_as(g)}
        if g.dim():
            readings["grad_output[0]"] = g[:1].expand_as(g)
        for what, replaced in readings.items():
            if equal(self._own(replaced.reshape(-1)), self.gradient[0]) and not equal(g, replaced):
                return (
                    "ignores-grad-output",
                    f"of grad_output only {what} is read: each element of it has a gradient of its "
                    "own",
                )
        return None

    def _ratio(self, gradient: Tensor, expected: Tensor) -> float:
        known = ~torch.isnan(expected)
        a, b = gradient[known], expected[known]
        below = float(b @ b)
        return float(a @ b) / below if below else math.nan

    def _factor(self) -> tuple[str, str] | None:
        factor = self._ratio(self.gradient[0], self.expected[0][0])
        if not math.isfinite(factor) or abs(factor) < 1e-12 or not self.is_(self.gradient, factor):
            return None
        # a factor near 1 counts only if the numbers agree with it much better than with 1
        near = 0.02 * abs(factor - 1)
        agree = (
            close(g, factor * e, s, near)
            for g, (e, s) in zip(self.gradient, self.expected, strict=True)
        )
        if near < 1e-5 * abs(factor) and not all(agree):
            return None
        text, plain = explain(factor, self.case)
        known = int((~torch.isnan(self.expected[0][0])).sum())
        # few numbers may have a common factor by chance: look at a second point
        if known < 4 or not plain:
            elsewhere = self._ratio_elsewhere()
            if elsewhere is None or abs(elsewhere - factor) > max(
                1e-6, min(1e-3 * abs(factor), near)
            ):
                return None
        if math.isclose(factor, -1, rel_tol=1e-4):
            return "sign-flip", "the gradient is −1 times the derivative: minimising with it climbs"
        return "constant-factor", f"the gradient is {factor:.6g} times the derivative: {text}"

    def _ratio_elsewhere(self) -> float | None:
        generator = torch.Generator().manual_seed(7)
        args = [
            a
            * (
                1
                + 0.05
                * torch.rand(a.shape, generator=generator, dtype=torch.float64)
                .to(a.real.dtype)
                .to(a.device)
            )
            if isinstance(a, Tensor) and (a.is_floating_point() or a.is_complex())
            else a
            for a in self.case.args
        ]
        try:
            value, _, gradient = self.experiment.at(args, self.position)
        except (CrashError, RuntimeError):
            return None
        ratio = self._ratio(gradient, value)
        return ratio if math.isfinite(ratio) else None

    def _unstable_factor(self) -> tuple[str, str] | None:
        """One factor for at least four numbers and both cotangents, but not at other points."""
        factor = self._ratio(self.gradient[0], self.expected[0][0])
        value, error = self.expected[0]
        big = int((value.abs() > 100 * error).sum())
        if (
            big < 4
            or not math.isfinite(factor)
            or abs(factor) < 1e-12
            or not self.is_(self.gradient, factor)
        ):
            return None
        text, _ = explain(factor, self.case)
        return (
            "constant-factor",
            f"the gradient is {factor:.6g} times the derivative at this point: {text}",
        )

    def _transposed(self) -> tuple[str, str] | None:
        shape = self.experiment.shape(self.position)
        if not 2 <= len(shape) <= 4:
            return None
        for order in itertools.permutations(range(len(shape))):
            if order == tuple(range(len(shape))):
                continue
            other = torch.Size([shape[d] for d in order])
            inverse = [order.index(d) for d in range(len(shape))]
            # equal sizes exchanged, or numbers of the transposed shape that were reshaped to fit
            candidates = [g.reshape(other).permute(inverse) for g in self.gradient]
            factor = self._ratio(candidates[0], self.expected[0][0])
            if math.isfinite(factor) and abs(factor) > 1e-9 and self.is_(candidates, factor):
                times = "" if math.isclose(factor, 1, rel_tol=1e-4) else f", times {factor:.4g}"
                what = (
                    "its transpose"
                    if len(shape) == 2
                    else f"it with dimensions exchanged, as {order}"
                )
                return "transposed", f"the gradient is not the derivative but {what}{times}"
        return None

    def _another(self) -> tuple[str, str] | None:
        for other in self.case.checked:
            if other == self.position or self.experiment.shape(other) != self.experiment.shape(
                self.position
            ):
                continue
            theirs = [self.experiment.expected(other, row) for row in (0, 1)]
            if not telling(*theirs[0]):
                continue
            for sign in (1.0, -1.0):
                if (
                    all(
                        close(g, sign * e, s, self.rtol)
                        for g, (e, s) in zip(self.gradient, theirs, strict=True)
                    )
                    and self.experiment.truths[other].known.any()
                ):
                    minus = "minus " if sign < 0 else ""
                    name = self.case.subject.names[other]
                    return (
                        "gradient-of-another-input",
                        f"the gradient is {minus}the derivative by {name}",
                    )
        return None

    def _precision(self) -> tuple[str, str] | None:
        """A small error from rounding: the gradient is rough over small steps."""
        value, _ = self.expected[0]
        known = ~torch.isnan(value)
        off, size = (self.gradient[0] - value)[known].abs(), value[known].abs()
        if not 0 < float(off.max()) <= 0.03 * float(size.max()):
            return None
        rough = roughness(self.experiment, self.position)
        if rough < 0.05 * float(off.square().mean().sqrt()):
            return None
        relative, jumps = float(off.max() / size.max()), rough / float(size.max())
        return (
            "precision",
            f"the gradient is off by {relative:.1e} of its size and jumps by {jumps:.1e} over "
            f"small steps: "
            "it is computed in a lower precision than its input has",
        )

    def _point(self) -> tuple[str, str] | None:
        found = wrong_point(self.experiment, self.position)
        return None if found is None else ("derivative-at-wrong-point", found)


def diagnose(experiment: Experiment, position: int) -> tuple[Finding | None, Row]:
    """The finding on one argument's gradient, if there is one, and its row in the table."""
    name = experiment.case.subject.names[position]
    row = _row(experiment, position)
    undefined = experiment.undefined(position)
    if bool(undefined.any()):
        return _not_a_number(name, undefined), replace(row, verdict="wrong-values")
    kink = kinks.beyond(experiment, position)
    if kink is not None:
        return _at_a_kink(experiment, position, kink), replace(row, verdict="wrong-values")
    if experiment.right(position):
        fault = (
            experiment.directional_fault(position)
            if experiment.columns[position] is not None
            else None
        )
        wrong = (
            ("wrong-values", fault)
            if fault is not None
            else Diagnosis(experiment, position).scaled()
        )
        return (
            (None, row)
            if wrong is None
            else (Finding(wrong[0], name, wrong[1]), replace(row, verdict=wrong[0]))
        )
    kind, text = Diagnosis(experiment, position).explain()
    worst = locate(experiment, position)
    return Finding(kind, name, f"{text.rstrip('.')}.\n{worst[0]}", *worst[1:]), replace(
        row, verdict=kind
    )


def locate(
    experiment: Experiment, position: int
) -> tuple[str, tuple[int, ...], float, float, float]:
    """The worst element in words, its index, analytic, numeric, ratio."""
    g = experiment.gradient(position, 0)
    value, error = experiment.expected(position, 0)
    row = 0
    if close(g, value, error, experiment.rtol):  # right for this cotangent: show another
        for row in range(1, len(experiment.cotangents)):
            g = experiment.gradient(position, row)
            value, error = experiment.expected(position, row)
            if not close(g, value, error, experiment.rtol):
                break
    off = torch.where(torch.isnan(value), -1.0, (g - value).abs().nan_to_num(math.inf))
    flat_index = int(off.reshape(-1).argmax())
    index = (
        tuple(int(i) for i in torch.unravel_index(torch.tensor(flat_index), g.shape))
        if g.dim()
        else ()
    )
    analytic, numeric = float(g[index]), float(value[index])
    ratio = analytic / numeric if numeric else math.nan
    name = experiment.case.subject.names[position]
    where = f"{name}[{', '.join(map(str, index))}]" if index else name
    text = f"Worst at {where}: analytic {analytic:.6g}, numeric {numeric:.6g}, ratio {ratio:.4g}"
    return text, index, analytic, numeric, ratio


def _row(experiment: Experiment, position: int) -> Row:
    worst = scale = 0.0
    known = experiment.truths[position].known
    for k in range(len(experiment.cotangents) if bool(known.any()) else 0):
        value, error = experiment.expected(position, k)
        inside = ~torch.isnan(value)
        worst = max(
            worst,
            float(
                (experiment.gradient(position, k) - value)[inside].abs().nan_to_num(math.inf).max()
            ),
        )
        scale = max(scale, float(value[inside].abs().max()), float(error[inside].max()))
    name, shape = (
        experiment.case.subject.names[position],
        tuple(experiment.case.args[position].shape),
    )
    if not bool(known.any()):
        empty = not known.numel()
        return Row(name, shape, math.nan, math.nan, "empty" if empty else "not differentiable")
    return Row(name, shape, worst, worst / scale if scale else 0.0, "ok")


def _at_a_kink(
    experiment: Experiment, position: int, kink: tuple[int, float, float, float]
) -> Finding:
    j, own, low, high = kink
    shape, name = experiment.shape(position), experiment.case.subject.names[position]
    index = tuple(int(i) for i in torch.unravel_index(torch.tensor(j), shape)) if shape else ()
    where = f"{name}[{', '.join(map(str, index))}]" if index else name
    text = (
        f"at a kink, {where}, the gradient is {own:.6g}: the slopes of the two sides give "
        f"{low:.6g} to {high:.6g}, and anything between them will do"
    )
    return Finding("wrong-values", name, text, index, own)


def _not_a_number(name: str, undefined: Tensor) -> Finding:
    index = tuple(undefined.nonzero()[0].tolist())
    where = f"{name}[{', '.join(map(str, index))}]" if index else name
    text = (
        f"the gradient is NaN at {int(undefined.sum())} of {undefined.numel()} elements where the "
        f"function's value is "
        f"finite, first at {where}: a 0/0, 0·∞ or ∞ − ∞. At a kink any slope between those beside "
        f"it will do, such as "
        "0, but NaN spreads to everything before it"
    )
    return Finding("wrong-values", name, text, index)
