"""Rounding: does the gradient have its input's precision, and does float32 do what float64 does?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from manual_bp.verify.case import Case, flat
from manual_bp.verify.crash import CrashError
from manual_bp.verify.experiment import Experiment
from manual_bp.verify.hypotheses.where import place
from manual_bp.verify.probes.result import Result
from manual_bp.verify.steps import spread, third_difference, unit

POINTS = 16  # of a walk: over few points few elements may look smooth by chance


def roughness(
    experiment: Experiment, position: int, steps: Sequence[float] = (1e-6, 1e-4, 3e-3)
) -> Tensor:
    """The noise of each element of one argument's gradient, flat.

    Halve the step, and a smooth gradient's third differences shrink by 8; those of rounding stay.
    """
    case = experiment.case
    row, other = experiment.cotangents[0], experiment.cotangents[1]
    x = case.args[position]
    v = unit(spread(x).numel(), experiment.generator) * spread(x)

    def by_gradient(t: float) -> Tensor:
        return _gradient(case, position, row + t * other, None)

    def by_input(t: float) -> Tensor:
        moved = x + (v * t).to(x).reshape(x.shape)
        return _gradient(
            case, position, row, [*case.args[:position], moved, *case.args[position + 1 :]]
        )

    if x.is_complex() or not x.numel():
        return torch.zeros(x.numel()).double()
    points = POINTS if x.numel() < 100 else POINTS // 2
    walks = [_noise(by_input, h, points) for h in steps]
    if len(steps) > 1:
        walks.append(_noise(by_gradient, 0.05, points))
    measured = [walk for walk in walks if walk is not None]
    return torch.stack(measured or [torch.zeros(x.numel()).double()]).amax(0)


def _noise(walk: Callable[[float], Tensor], h: float, points: int) -> Tensor | None:
    try:
        fine = {t: walk(t * h / 2) for t in range(1, points)}  # t = 2, 4, … are steps of h, too
        coarse = [fine[2 * t] if 2 * t in fine else walk(t * h) for t in range(1, points)]
    except CrashError:
        return None
    whole = third_difference(torch.stack(coarse))
    half = third_difference(torch.stack(list(fine.values())))
    return torch.where(half > whole / 4, half, 0.0)


def _gradient(case: Case, position: int, row: Tensor, args: list[object] | None) -> Tensor:
    found = case.gradients(row, args)[position]
    return torch.zeros(case.args[position].numel()).double() if found is None else flat([found])


def backward_noise(experiment: Experiment, eps: float) -> Result:
    """Find a gradient that is right but rougher than the forward and the user's dtype.

    An element beside a kink may look rough along one direction: two must agree.
    """
    result, case = Result(), experiment.case
    for i in case.checked:
        if experiment.gradients[i] is None:
            continue
        gradient = experiment.gradient(i, 0)
        size = float(gradient.abs().median())
        # only tiny steps: over larger ones a piecewise constant gradient (of a ReLU network) jumps
        rough = roughness(experiment, i, steps=(1e-6,))
        typical = float(rough.median()) if rough.numel() else 0.0
        if size > 0 and typical > 1e-11 * size:
            experiment.backward_noise = max(experiment.backward_noise, typical / size)
        allowed = max(200 * max(eps, experiment.differences.relative_noise), 1e-9) * size
        allowed += experiment.floor(i)
        rough = torch.where(rough < 0.05 * size, rough, 0.0)  # more is no rounding, but a step
        if not size or int((rough > allowed).sum()) < min(2, rough.numel()):
            continue
        again = torch.minimum(rough, roughness(experiment, i, steps=(1e-6,)))
        wrong = (again > allowed).reshape(gradient.shape)
        if int(wrong.sum()) < min(2, rough.numel()):
            continue
        name, jumps = case.subject.names[i], float(again[again > allowed].median()) / size
        experiment.backward_noise = max(experiment.backward_noise, jumps)
        at = ""
        if not bool(wrong.all()):
            every = torch.ones_like(wrong)
            at = f", and at {place(wrong, every, name, case, case.args[i])} alone"
        text = (
            f"the gradient jumps by {jumps:.1e} of its size over small steps, the forward by "
            f"{experiment.differences.relative_noise:.0e}: the backward computes in a lower "
            f"precision{at}"
        )
        result.add("precision", name, text)
    return result


def against_double(low: Case, high: Case, experiment: Experiment) -> Result:
    """Compare values and gradients in the low dtype with float64 on the very same numbers.

    Allowed is 200 times the change that one rounding of the inputs makes in float64, and a floor.
    """
    result = Result()
    if low.random or high.random:
        return Result("not looked at (random)")
    eps, dtype = torch.finfo(low.dtype).eps, str(low.dtype).removeprefix("torch.")
    args = [_like(a, b) for a, b in zip(low.args, high.args, strict=True)]
    row = experiment.cotangents[0]
    low_row = row.to(low.dtype).double()
    try:
        exact = _measured(high, args, low_row)
        seen = _measured(low, None, low_row)
        shaken = [_measured(high, _shaken(high, args, eps, s), low_row) for s in range(4)]
    except CrashError as crash:
        result.status = f"not possible in {dtype}: {crash.line}"
        return result
    floor = max(2e-4, 64 * eps)
    # a gradient far below ‖g‖ max|y| / |x|, as behind a saturated unit, comes from a cancellation
    size = float(exact["output"].abs().nan_to_num(0, 0, 0).max()) * float(row.abs().max())
    largest = max(float(spread(high.args[i]).max()) for i in high.checked if high.args[i].numel())
    for name, true in exact.items():
        own = seen[name]
        if own.shape != true.shape or not true.numel():
            continue
        fine = torch.isfinite(true) & (true.abs() < torch.finfo(low.dtype).max / 16)
        if bool((fine & ~torch.isfinite(own)).any()):
            result.add(
                "precision",
                name,
                f"in {dtype} it is NaN or infinite at "
                f"{int((fine & ~torch.isfinite(own)).sum())} of {true.numel()} elements, where "
                f"float64 is finite: "
                "an intermediate overflows or divides by a rounded 0",
            )
            continue
        scale = float(true[fine].abs().max()) if bool(fine.any()) else 0.0
        if name == "output" and scale < 1e-12 * largest:
            continue  # what rounding leaves of 0
        if scale < 64 * torch.finfo(low.dtype).tiny:
            continue  # all of it underflows
        moved = (
            max(float((s[name] - true)[fine].abs().max()) for s in shaken)
            if bool(fine.any())
            else 0.0
        )
        off = float((own - true)[fine].abs().max()) if bool(fine.any()) else 0.0
        i = high.subject.names.index(name) if name != "output" else None
        natural = 0.0 if i is None else size / float(spread(high.args[i]).median())
        if scale and off > max(200 * moved, floor * scale, 200 * eps * natural):
            # the values' rounding in float64, scaled to the low dtype
            rounding = experiment.differences.relative_noise / 2.3e-16 * eps
            other_path = off / scale > max(0.05, 10 * rounding) and eps < 1e-6
            why = (
                "more than rounding does: look for another code path"
                if other_path
                else "a cancellation or a sum"
            )
            text = (
                f"it is off by {off / scale:.1e} of its size; rounding the inputs "
                f"alone moves it by {moved / scale:.1e}"
            )
            where = f"for {dtype}" if other_path else "in low precision"
            result.add("precision", name, f"in {dtype} {text}: {why} {where}")
    return result


def _measured(case: Case, args: list[object] | None, row: Tensor) -> dict[str, Tensor]:
    graph = case.graph(args)
    found = graph.gradients(case.split(row))
    named: dict[str, Tensor] = {"output": flat(graph.outputs)}
    for i, g in found.items():
        if g is not None:
            named[case.subject.names[i]] = flat([g])
    return named


def _shaken(case: Case, args: list[object], eps: float, seed: int) -> list[object]:
    generator = torch.Generator().manual_seed(seed)
    return [
        a
        * (
            1
            + eps
            * (torch.rand(a.shape, generator=generator, dtype=torch.float64).to(a.device) - 0.5).to(
                a.real.dtype
            )
        )
        if isinstance(a, Tensor) and i in case.checked
        else a
        for i, a in enumerate(args)
    ]


def _like(low: object, high: object) -> object:
    return low.to(high.dtype) if isinstance(low, Tensor) and isinstance(high, Tensor) else high
