"""A module with many parameters: a few of them element by element, all of them together.

Along a random direction v through all arguments, d/dt ⟨g, f(x + t v)⟩ is Σ_i ⟨gradient_i, v_i⟩. If
that fails, each argument is looked at on its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from manual_bp.verify.case import Case, Gradients
from manual_bp.verify.diagnose import diagnose
from manual_bp.verify.experiment import Experiment
from manual_bp.verify.probes.result import Result
from manual_bp.verify.steps import slope, spread, unit
from manual_bp.verify.subject import Subject

MANY = 12  # arguments; more are sampled
SAMPLE = 4
LARGE = 40_000  # elements of an argument that is not measured element by element
DIRECTIONS = 3


def sampled(subject: Subject, checked: Sequence[int], seed: int) -> list[int]:
    """The arguments to measure one by one: all, or a module's inputs and some of its parameters."""
    if len(checked) <= MANY or subject.function_class is not None:
        return list(checked)
    inputs = [i for i in checked if i < subject.inputs]
    rest = [i for i in checked if i >= subject.inputs and subject.args[i].numel() <= LARGE]
    order = torch.randperm(len(rest), generator=torch.Generator().manual_seed(seed)).tolist()
    chosen = [*inputs, *(rest[k] for k in order)][:SAMPLE]
    return sorted(chosen) or list(checked)[:SAMPLE]


def together(experiment: Experiment, every: Sequence[int]) -> Result:
    """Look at all arguments along random directions, and name those that are wrong."""
    own, result = experiment.case, Result()
    case = Case(own.subject, own.args, every, own.seed)
    case.prepare()
    case.random = case.random or own.random
    row = experiment.cotangents[0]
    found = case.gradients(row)
    off = [_off(experiment, case, found, every, row) for _ in range(DIRECTIONS)]
    if all(o is None for o in off):
        return Result("not measured (the values are too rough)")
    if not any(off):
        return result
    for i in every:
        if _off(experiment, case, found, [i], row):
            one = Case(own.subject, own.args, [i], own.seed)
            one.prepare()
            alone = Experiment(one, own.seed)
            alone.measure_truth()
            alone.measure_gradients()
            finding, _ = diagnose(alone, i)
            if finding is not None:
                result.status = "finding"
                result.findings.append(finding)
    if not result.findings:
        said = next(o for o in off if o)
        result.add("wrong-values", "all parameters", f"along a random direction: {said}")
    return result


def _off(
    experiment: Experiment, case: Case, found: Gradients, positions: Sequence[int], row: Tensor
) -> str | None:
    """How the slope differs from the gradients, "" if it does not, None if it is too rough."""
    parts, moves = [], {}
    for i in positions:
        x, gradient = case.args[i], found[i]
        v = unit(spread(x).numel(), experiment.generator) * spread(x)
        moves[i] = v
        if gradient is not None:
            parts.append(gradient.detach().reshape(-1).cpu().double() * v)

    def along(t: float) -> Tensor:
        args: list[Any] = list(case.args)
        for i, v in moves.items():
            args[i] = args[i] + (t * v).to(args[i]).reshape(args[i].shape)
        values = case.vector(args)
        return (row * torch.where(experiment.differences.finite, values, 0.0)).sum().reshape(1)

    value, error = slope(
        along, experiment.differences.relative_noise, experiment.differences.magnitude[0]
    )
    analytic = sum((float(p.sum()) for p in parts), 0.0)
    size = max(sum(float(p.square().sum()) for p in parts) ** 0.5, abs(float(value)))
    if float(error) > 1e-3 * size:
        return None
    if abs(analytic - float(value)) <= max(1e-5, experiment.rtol) * size + 3 * float(error):
        return ""
    return f"analytic {analytic:.6g}, numeric {float(value):.6g}"
