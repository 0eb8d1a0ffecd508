"""Differentiating the backward: S = Σ ⟨w, gradient(x, g)⟩ by x and by g, against differences of the gradient itself."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from manual_bp.verify.case import CrashError, flat
from manual_bp.verify.experiment import Experiment
from manual_bp.verify.probes.result import Result
from manual_bp.verify.truth import slope, spread, unit

COORDINATES = 12  # of each tensor, at most
SECONDS = 1.0


def second_order(experiment: Experiment) -> Result:
    """Right, wrong without a word, unsupported, or refused on purpose."""
    case, result = experiment.case, Result()
    if any(case.args[i].is_complex() for i in case.checked):
        result.status = "not looked at (complex)"
        return result
    row = experiment.cotangents[0]
    graph = case.graph()
    gs = [part.to(o).detach().requires_grad_() for part, o in zip(case.split(row), graph.outputs, strict=True)]
    weights = {i: unit(case.args[i].numel(), experiment.generator) for i in case.checked}
    try:
        first = graph.gradients(gs, create=True)
    except CrashError as crash:
        return _unsupported(result, f"the backward under create_graph=True raises {crash.line}")
    total = [(g.reshape(-1) * weights[i].to(g)).sum() for i, g in first.items() if g is not None and g.requires_grad]
    if all(g is None for g in first.values()):
        return result
    if any(_refuses(g) for g in first.values() if g is not None):
        return _once(result)
    targets = [(i, case.subject.names[i], leaf) for i, leaf in graph.leaves.items()]
    found: list[Tensor | None] = [None] * (len(targets) + len(gs))
    if total:
        try:
            with torch.enable_grad():
                found = list(
                    torch.autograd.grad(
                        torch.stack(total).sum(), [*(leaf for _, _, leaf in targets), *gs], allow_unused=True
                    )
                )
        except Exception as error:  # anything: it runs the function's own code again
            line = CrashError("second backward", error).line
            if isinstance(error, NotImplementedError) or (
                case.subject.function_class is None and "is not impl" in line
            ):
                # said aloud, by an operation or on purpose: nobody gets a wrong number
                return Result("refused (not implemented)", notes=[f"double backward is refused: {line}"])
            if _linear(experiment, weights):
                return result
            return _unsupported(result, f"the backward's own backward raises {line}")
    wrong = _compare(experiment, weights, found)
    if wrong and not total:
        return _unsupported(
            result,
            "the gradient is cut from the graph, so whatever is built on it silently gets no second derivative; "
            "use differentiable operations in the backward, or mark it once_differentiable, which raises",
        )
    for name, text in wrong:
        result.add("double-backward-wrong", name, text)
    return result


def _refuses(gradient: Tensor) -> bool:
    """Whether the graph behind it has the node that once_differentiable puts there. It raises only when it is run."""
    pending, seen = [gradient.grad_fn], {gradient.grad_fn}
    while pending:
        node = pending.pop()
        if node is None:
            continue
        if node.name() == "torch::autograd::Error":
            return True
        for following, _ in node.next_functions:
            if following not in seen:
                seen.add(following)
                pending.append(following)
    return False


def _once(result: Result) -> Result:
    result.status = "refused (once_differentiable)"
    result.notes.append("double backward is refused on purpose: the backward is marked once_differentiable")
    return result


def _unsupported(result: Result, detail: str) -> Result:
    result.add("double-backward-unsupported", "backward", detail)
    return result


def _linear(experiment: Experiment, weights: dict[int, Tensor]) -> bool:
    """Whether every second derivative by an input is 0, so that nothing is lost."""
    n = len(experiment.case.checked) + len(experiment.case.shapes)
    return not _compare(experiment, weights, [None] * n)


def _compare(experiment: Experiment, weights: dict[int, Tensor], found: list[Tensor | None]) -> list[tuple[str, str]]:
    """Name and text for each argument, and each grad_output, whose second derivative is wrong."""
    case = experiment.case
    row = experiment.cotangents[0]
    noise = max(experiment.differences.relative_noise, 2e-16)
    wrong = []

    def total(args: list[object] | None, cotangent: Tensor) -> Tensor:
        """The terms of S, one for each argument, so that the rounding of each is known."""
        gradients = case.gradients(cotangent, args)
        parts = [
            (g.detach().reshape(-1).cpu().double() @ weights[i]) if g is not None else torch.tensor(0.0).double()
            for i, g in gradients.items()
        ]
        return torch.stack(parts)

    # what the terms of S are summed from: their rounding is that of the largest part, not of the sum
    started = time.monotonic()
    parts = case.gradients(row)
    seconds = time.monotonic() - started
    count = int(SECONDS / (6 * seconds * (len(case.checked) + len(case.shapes))))
    count = max(2, min(COORDINATES, count))
    largest = max(experiment.floor(i) for i in case.checked)  # rounding of the gradient itself
    magnitude = torch.tensor(
        [
            0.0 if g is None else float((flat([g]) * weights[i]).abs().nan_to_num(0, 0, 0).sum())
            for i, g in parts.items()
        ]
    ).double()

    def judge(name: str, own: Tensor | None, at: list[int], slopes: list[tuple[Tensor, Tensor]], floor: float) -> None:
        mine = torch.zeros(len(at)).double() if own is None else own.detach().reshape(-1).cpu().double()[at]
        value = torch.stack([v.sum() for v, _ in slopes])
        error = torch.stack([e.sum() for _, e in slopes])
        usable = error <= 1e-3 * value.abs().max() + 1e-30
        usable |= (error <= 1e-6) & (value.abs() <= 1e-6)
        if not bool(usable.any()):
            return
        scale = float(value[usable].abs().max())
        off = (mine - value).abs()
        limit = max(3e-3, 10 * experiment.rtol) * scale + 10 * error + floor
        bad = usable & ~(off <= limit)
        if bool(bad.any()):
            k = int(torch.where(bad, off.nan_to_num(torch.inf), -1.0).argmax())
            lost = (
                "it is None: the graph from it to the gradient is cut, by saving an intermediate or by detach"
                if (own is None)
                else "an intermediate that depends on it was saved, and counts as a constant"
            )
            wrong.append(
                (
                    name,
                    f"the second derivative by {name} is silently wrong: {lost}. At element {at[k]}: "
                    f"analytic {float(mine[k]):.6g}, numeric {float(value[k]):.6g}",
                )
            )

    for number, i in enumerate(case.checked):
        x = case.args[i]
        at = _some(x.numel(), count)
        steps = spread(x)

        def moved(t: float, i: int = i, j: int = 0, x: Tensor = x, size: float = 1.0) -> Tensor:
            changed = x.detach().clone().contiguous()
            changed.view(-1)[j] += t * size
            return total([*case.args[:i], changed, *case.args[i + 1 :]], row)

        slopes = []
        for j in at:
            size = float(steps[j])
            value, error = slope(lambda t, j=j, size=size: moved(t, j=j, size=size), noise, magnitude)  # type: ignore[misc]
            slopes.append((value / size, error / size))
        if at:
            judge(case.subject.names[i], found[number], at, slopes, 10 * largest / float(steps.median()))
    offset = 0
    for o, shape in enumerate(case.shapes):
        own = found[len(case.checked) + o]
        at = _some(shape.numel(), count)

        def tilted(t: float, j: int) -> Tensor:
            changed = row.clone()
            changed[j] += t
            return total(None, changed)

        slopes = [slope(lambda t, j=offset + j: tilted(t, j), noise, magnitude) for j in at]  # type: ignore[misc]
        finite = experiment.differences.finite[offset : offset + shape.numel()]
        at_finite = [k for k, j in enumerate(at) if bool(finite[j])]
        if at_finite:
            judge("grad_output", own, [at[k] for k in at_finite], [slopes[k] for k in at_finite], largest)
        offset += shape.numel()
    return wrong


def _some(n: int, count: int) -> list[int]:
    return list(range(n)) if n <= count else list(range(0, n, n // count + 1))
