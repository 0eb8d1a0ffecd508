"""Differentiating the backward: S = Σ ⟨w, gradient(x, g)⟩ by x and by g.

The second derivatives by autograd are compared with differences of the gradient itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from manual_bp.verify.agreement import alike
from manual_bp.verify.case import Graph, flat, has_node
from manual_bp.verify.cost import estimate
from manual_bp.verify.crash import CrashError
from manual_bp.verify.experiment import Experiment
from manual_bp.verify.listen import written_functions
from manual_bp.verify.probes.result import Result
from manual_bp.verify.steps import slope, spread, unit

COORDINATES = 6  # of each tensor, at most; random directions go through all of them
SECONDS = 1.0  # as `cost` counts them


def second_order(experiment: Experiment) -> Result:
    """Tell a second derivative that is right, silently wrong, unsupported or refused on purpose."""
    case, result = experiment.case, Result()
    if any(case.args[i].is_complex() for i in case.checked):
        result.status = "not looked at (complex)"
        return result
    row = experiment.cotangents[0]
    graph = case.graph()
    gs = [
        part.to(o).detach().requires_grad_()
        for part, o in zip(case.split(row), graph.outputs, strict=True)
    ]
    weights = {i: unit(case.args[i].numel(), experiment.generator) for i in case.checked}
    try:
        first = graph.gradients(gs, create=True)
    except CrashError as crash:
        return _unsupported(result, f"the backward under create_graph=True raises {crash.line}")
    plain = case.gradients(row)
    for i in case.checked:
        if not alike(plain[i], first[i], max(1e-6, experiment.rtol), experiment.floor(i)):
            text = "under create_graph=True the backward gives another gradient than without"
            result.add("double-backward-wrong", case.subject.names[i], text)
    if result.findings:
        return result
    total = [
        (g.reshape(-1) * weights[i].to(g)).sum()
        for i, g in first.items()
        if g is not None and g.requires_grad
    ]
    if all(g is None for g in first.values()):
        return result
    # once_differentiable leaves a node that raises only when it runs.
    if any(has_node(g, "torch::autograd::Error") for g in first.values() if g is not None):
        return _once(result)
    targets = [(i, case.subject.names[i], leaf) for i, leaf in graph.leaves.items()]
    found: list[Tensor | None] = [None] * (len(targets) + len(gs))
    if total:
        try:
            with torch.enable_grad():
                found = list(
                    torch.autograd.grad(
                        torch.stack(total).sum(),
                        [*(leaf for _, _, leaf in targets), *gs],
                        allow_unused=True,
                    )
                )
        except Exception as error:  # anything: it runs the function's own code again
            line = CrashError("second backward", error).line
            if (
                isinstance(error, NotImplementedError)
                or "not currently support double" in line
                or (case.subject.function_class is None and "is not impl" in line)
            ):
                # an error that says so: nobody gets a wrong number
                # and torch.compile says that it offers none
                return Result(
                    "refused (not implemented)", notes=[f"double backward is refused: {line}"]
                )
            if _linear(experiment, weights):
                return result
            return _unsupported(result, f"the backward's own backward raises {line}")
    wrong, measured = _compare(experiment, weights, found)
    if not measured:
        result.status = "not measured (the gradient's differences are too rough)"
    if wrong and not total:
        return _unsupported(
            result,
            "the gradient is cut from the graph, so whatever is built on it silently gets no "
            "second derivative; "
            "use differentiable operations in the backward, or mark it once_differentiable, which "
            "raises",
        )
    for name, text in wrong:
        result.add("double-backward-wrong", name, text)
    return result


def _once(result: Result) -> Result:
    result.status = "refused (once_differentiable)"
    result.notes.append(
        "double backward is refused on purpose: the backward is marked once_differentiable"
    )
    return result


def _unsupported(result: Result, detail: str) -> Result:
    result.add("double-backward-unsupported", "backward", detail)
    return result


def _linear(experiment: Experiment, weights: dict[int, Tensor]) -> bool:
    """Whether every second derivative by an input is 0, so that nothing is lost."""
    n = len(experiment.case.checked) + len(experiment.case.shapes)
    wrong, measured = _compare(experiment, weights, [None] * n)
    return measured > 0 and not wrong


def _compare(
    experiment: Experiment, weights: dict[int, Tensor], found: list[Tensor | None]
) -> tuple[list[tuple[str, str]], int]:
    """Name and text of each second derivative that is wrong, and how many could be measured."""
    case = experiment.case
    row = experiment.cotangents[0]
    noise = max(experiment.differences.relative_noise, experiment.backward_noise, 2e-16)
    wrong: list[tuple[str, str]] = []
    kinks = any(bool(truth.rough.any()) for truth in experiment.truths.values())
    measured = 0

    def total(args: list[object] | None, cotangent: Tensor) -> Tensor:
        """The terms of S, one for each argument, so that the rounding of each is known."""
        gradients = case.gradients(cotangent, args)
        parts = [
            (g.detach().reshape(-1).cpu().double() @ weights[i])
            if g is not None
            else torch.tensor(0.0).double()
            for i, g in gradients.items()
        ]
        return torch.stack(parts)

    start = total(None, row)
    # the parts of the terms of S: the rounding is that of the largest part, not of the sum
    parts = case.gradients(row)
    elements = sum(a.numel() for a in case.args if isinstance(a, Tensor))
    cost = estimate(lambda: case.gradients(row), elements)
    count = int(SECONDS / (12 * cost * (len(case.checked) + len(case.shapes))))
    count = min(COORDINATES, count)
    largest = max(experiment.floor(i) for i in case.checked)  # rounding of the gradient itself
    magnitude = torch.tensor(
        [
            0.0 if g is None else float((flat([g]) * weights[i]).abs().nan_to_num(0, 0, 0).sum())
            for i, g in parts.items()
        ]
    ).double()

    def judge(
        name: str,
        own: Tensor | None,
        ways: list[Way],
        along: Callable[[Tensor], Tensor],
        floor: float,
    ) -> None:
        mine, value, error, scales = [], [], [], [0.0]
        nonlocal measured
        for way in ways:
            v, e = slope(lambda t, way=way: along(t * way.vector), noise, magnitude, start, 1e-5)  # type: ignore[misc]
            products = torch.zeros(1).double()
            if own is not None:
                there = way.vector != 0  # 0 · NaN is NaN
                products = flat([own])[there] * way.vector[there] / way.size
            mine.append(products.sum())
            value.append(v.sum() / way.size)
            error.append(e.sum() / way.size)
            scales.append(float(products.square().sum().sqrt()))
        m, v, e = (torch.stack(x) for x in (mine, value, error))
        usable = e <= 1e-3 * v.abs().max() + 1e-30
        usable |= (e <= 1e-6) & (v.abs() <= 1e-6)
        if kinks:
            usable &= ~torch.isnan(m)  # 0 · inf beside a kink
        if not bool(usable.any()):
            return
        measured += 1
        # along one direction through all elements the terms may cancel: compare with their size
        scale = max(float(v[usable].abs().max()), max(scales) if len(ways) == 1 else 0.0)
        off = (m - v).abs()
        bad = usable & ~(off <= max(3e-3, 10 * experiment.rtol) * scale + 10 * e + floor)
        if bool(bad.any()):
            k = int(torch.where(bad, off.nan_to_num(torch.inf), -1.0).argmax())
            why = _why(experiment, own is None)
            if bool(torch.isnan(m[k])):
                why = "a 0/0 or 0·∞, as the slope of a root or a norm at 0"
            is_ = "NaN" if bool(torch.isnan(m[k])) else "silently wrong"
            text = f"the second derivative by {name} is {is_}: {why}."
            wrong.append(
                (
                    name,
                    f"{text} {ways[k].label}: analytic {float(m[k]):.6g}, numeric "
                    f"{float(v[k]):.6g}",
                )
            )

    for number, i in enumerate(case.checked):
        x = case.args[i]
        if not x.numel():
            continue
        steps = spread(x)

        def moved(change: Tensor, i: int = i, x: Tensor = x) -> Tensor:
            changed = x.detach() + change.to(x).reshape(x.shape)
            return total([*case.args[:i], changed, *case.args[i + 1 :]], row)

        floor = 10 * largest / float(steps.median())
        label = _labels(case.subject.names[i], experiment.shape(i))
        for ways in _ways(steps, list(range(x.numel())), count, experiment.generator, label):
            judge(case.subject.names[i], found[number], ways, moved, floor)
    offset = 0
    for o, shape in enumerate(case.shapes):
        finite = (
            experiment.differences.finite[offset : offset + shape.numel()]
            .nonzero()
            .reshape(-1)
            .tolist()
        )
        place = slice(offset, offset + shape.numel())
        offset += shape.numel()

        def tilted(change: Tensor, place: slice = place) -> Tensor:
            changed = row.clone()
            changed[place] += change
            return total(None, changed)

        if finite:
            ones = torch.ones(shape.numel()).double()
            label = _labels("grad_output", shape)
            for ways in _ways(ones, finite, count, experiment.generator, label):
                judge("grad_output", found[len(case.checked) + o], ways, tilted, largest)
    return wrong, measured


class Way(NamedTuple):
    """A direction to look along: one coordinate, or all of them."""

    label: str
    vector: Tensor
    size: float


def _ways(
    steps: Tensor,
    usable: list[int],
    count: int,
    generator: torch.Generator,
    label: Callable[[int], str],
) -> list[list[Way]]:
    """Single coordinates at random, if they are affordable, and a direction through all of them."""
    v = torch.zeros_like(steps)
    v[usable] = unit(len(usable), generator) * steps[usable]
    through = [Way("Along a random direction", v, float(steps.median()))]
    if count < 2 < len(usable):
        return [through]
    single = []
    for k in torch.randperm(len(usable), generator=generator)[: max(2, count)].tolist():
        v = torch.zeros_like(steps)
        v[usable[k]] = steps[usable[k]]
        single.append(Way(f"At {label(usable[k])}", v, float(steps[usable[k]])))
    return [single, through] if len(usable) > len(single) else [single]


def _labels(name: str, shape: torch.Size) -> Callable[[int], str]:
    """Where a flat index is, as x[1, 2]."""

    def label(k: int) -> str:
        index = torch.unravel_index(torch.tensor(k), shape) if len(shape) else ()
        return f"{name}[{', '.join(str(int(i)) for i in index)}]" if len(shape) else name

    return label


def _why(experiment: Experiment, cut: bool) -> str:
    """The likeliest reason why the second derivative is cut or wrong."""
    if cut:
        return (
            "it is None: the graph from it to the gradient is cut, "
            "by saving an intermediate or by detach"
        )
    if _second_function(experiment):
        return (
            "the backward calls a Function of its own, whose backward is wrong, "
            "or a saved intermediate is a constant"
        )
    return "an intermediate that depends on it was saved, and counts as a constant"


def _second_function(experiment: Experiment) -> bool:
    """Whether the graph of the gradient holds a hand-written backward."""
    graph = experiment.case.graph()
    first = graph.gradients(experiment.case.split(experiment.cotangents[0]), create=True)
    behind = Graph({}, [], [], [g for g in first.values() if g is not None and g.requires_grad])
    return any(
        cls is not experiment.case.subject.function_class for cls in written_functions(behind)
    )
