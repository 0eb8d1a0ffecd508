"""One argument's gradient: right or wrong, and the first hypothesis that explains it.

Every hypothesis is checked with two random cotangents. The report gives the first hypothesis that
explains the numbers for both.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from manual_bp.verify.agreement import close
from manual_bp.verify.experiment import Experiment
from manual_bp.verify.hypotheses import kinks, linearity, meaning, multiples, supports
from manual_bp.verify.hypotheses.evidence import Evidence
from manual_bp.verify.hypotheses.patterns import describe
from manual_bp.verify.hypotheses.points import wrong_point
from manual_bp.verify.hypotheses.slopes import wrong_slope
from manual_bp.verify.report import Finding, Row

ITERATED = 5e-3  # relative: how far an iteration that stops at a tolerance may be off

Hypothesis = Callable[[Evidence], tuple[str, str] | None]


def explain(experiment: Experiment, position: int) -> tuple[str, str]:
    """Kind and explanation: the first hypothesis that holds, the more specific first."""
    seen = Evidence(experiment, position)
    known = ~torch.isnan(seen.expected[0][0])
    if any(not bool(torch.isfinite(g[known]).all()) for g in seen.gradient):
        return "wrong-values", describe(experiment, position)
    tests: list[Hypothesis] = [
        linearity.missing,
        linearity.ignores,
        multiples.precision,
        linearity.nonlinear,
        linearity.one_output,
        multiples.factor,
        multiples.conjugate,
        linearity.read_from,
        multiples.transposed,
        multiples.another,
    ]
    # the next tests use differences of the values; a reference's gradient may be another
    if position not in experiment.by_reference:
        tests += [_point, multiples.unstable_factor, _slope, supports.misplaced]
    else:
        tests.append(multiples.unstable_factor)
    for test in tests:
        found = test(seen)
        if found is not None:
            return found
    return "wrong-values", describe(experiment, position)


def _point(seen: Evidence) -> tuple[str, str] | None:
    found = wrong_point(seen.experiment, seen.position)
    return None if found is None else ("derivative-at-wrong-point", found)


def _slope(seen: Evidence) -> tuple[str, str] | None:
    return wrong_slope(seen.experiment, seen.position)


def diagnose(experiment: Experiment, position: int) -> tuple[Finding | None, Row]:
    """The finding on one argument's gradient, if there is one, and its row in the table."""
    name = experiment.case.subject.names[position]
    row = _row(experiment, position)
    undefined = experiment.undefined(position)
    if bool(undefined.any()):
        return _not_a_number(name, undefined), replace(row, verdict="wrong-values")
    kink = kinks.beyond(experiment, position)
    step = meaning.of_a_step(experiment, position)
    if kink is not None and not step:
        return _at_a_kink(experiment, position, kink), replace(row, verdict="wrong-values")
    if step and bool((experiment.gradient(position, 0) != 0).any()):
        text = "every element lies at a jump of the values, and the gradient there is not 0"
        return Finding("wrong-values", name, text), replace(row, verdict="wrong-values")
    if experiment.right(position):
        fault = (
            experiment.directional_fault(position)
            if experiment.columns[position] is not None
            else None
        )
        wrong = (
            ("wrong-values", fault)
            if fault is not None
            else linearity.scaled(Evidence(experiment, position))
        )
        return (
            (None, row)
            if wrong is None
            else (Finding(wrong[0], name, wrong[1]), replace(row, verdict=wrong[0]))
        )
    if _for_symmetric_changes(experiment, position):
        experiment.take_as_meant(position)
        experiment.symmetric = True
        return None, replace(row, verdict="ok (for symmetric changes)")
    if row.max_rel < ITERATED and experiment.iterates():
        experiment.take_as_meant(position)
        experiment.rtol = max(experiment.rtol, 5 * row.max_rel)
        return None, replace(row, verdict=f"ok (to {row.max_rel:.0e}: it iterates)")
    kind, text = explain(experiment, position)
    worst = locate(experiment, position)
    return Finding(kind, name, f"{text.rstrip('.')}.\n{worst[0]}", *worst[1:]), replace(
        row, verdict=kind
    )


def _for_symmetric_changes(experiment: Experiment, position: int) -> bool:
    """Whether the argument is symmetric, and the gradient right for changes that keep it so."""
    x = experiment.case.args[position]
    if x.is_complex() or x.dim() < 2 or x.shape[-1] != x.shape[-2] or x.shape[-1] < 2:
        return False
    if not bool(torch.allclose(x, x.mT)):
        return False
    for row in (0, 1):
        g = experiment.gradient(position, row)
        value, error = experiment.expected(position, row)
        sums = value + value.mT  # known where both mirrored elements are
        if int((~torch.isnan(sums)).sum()) < 4:
            return False
        if not close(g + g.mT, sums, error + error.mT, experiment.rtol):
            return False
    return True


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
