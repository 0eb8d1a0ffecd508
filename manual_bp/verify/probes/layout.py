"""Strides: the same gradients and inputs in another order of memory, or one value for all."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from manual_bp.verify import strides
from manual_bp.verify.agreement import alike
from manual_bp.verify.crash import CrashError
from manual_bp.verify.experiment import Experiment
from manual_bp.verify.probes.result import Result


def layout(experiment: Experiment) -> Result:
    """Compare with the same values laid out contiguously."""
    case, result = experiment.case, Result()
    names = case.subject.names
    row = case.split(experiment.cotangents[0])
    constant = case.split(torch.full_like(experiment.cotangents[0], 0.75))
    for what, plain, other in (
        ("with transposed strides", row, [strides.transposed(r) for r in row]),
        (
            "that is every second element of a larger one",
            row,
            [strides.every_second(r) for r in row],
        ),
        ("with stride 0, as sum().backward() sends", constant, [_stride_zero(r) for r in constant]),
    ):
        if all(a.is_contiguous() for a in other):
            continue
        expected = case.graph().gradients(plain)
        try:
            found = _gradients_as_given(experiment, other)
        except CrashError as crash:
            result.add(
                "non-contiguous",
                "grad_output",
                f"a grad_output {what} makes the backward raise {crash.line}",
            )
            continue
        for i in case.checked:
            if not alike(expected[i], found[i], experiment.rtol, experiment.floor(i)):
                result.add(
                    "non-contiguous", names[i], f"a grad_output {what} gives another gradient"
                )
    # not for a random function: a mask drawn with other strides is another mask
    for i, what, own, args in () if case.random else _moved_inputs(experiment):
        moved = f"{names[i]} {what}"
        try:
            graph = case.graph(args)
        except CrashError as crash:
            if own:
                result.add("non-contiguous", names[i], f"{moved}: the forward raises {crash.line}")
            else:
                result.notes.append(f"the forward takes no {moved}: {crash.line}")
            continue
        expected = case.graph().gradients(row)
        try:
            found = graph.gradients(row)
        except CrashError as crash:
            result.add("non-contiguous", names[i], f"{moved}: the backward raises {crash.line}")
            continue
        before, after = case.vector(), case.vector(args)
        if not bool(torch.allclose(before, after, rtol=experiment.rtol, atol=0, equal_nan=True)):
            scale = before.abs().nan_to_num(0, 0, 0).max()
            if not bool((before.isfinite() == after.isfinite()).all()) or not alike(
                before / scale, after / scale, experiment.rtol
            ):
                result.add("non-contiguous", names[i], f"{moved} gives another output")
                continue
        for j in case.checked:
            if not alike(expected[j], found[j], experiment.rtol, experiment.floor(j)):
                result.add("non-contiguous", names[j], f"{moved} gives another gradient")
    return result


def _gradients_as_given(
    experiment: Experiment, cotangents: list[Tensor]
) -> dict[int, Tensor | None]:
    graph = experiment.case.graph()
    # `gradients` calls .to(output), which keeps the strides only if the dtypes are equal
    return graph.gradients(cotangents)


def _stride_zero(t: Tensor) -> Tensor:
    return t.new_tensor(0.75).expand(t.shape) if t.dim() else t


def _moved_inputs(experiment: Experiment) -> Iterator[tuple[int, str, bool, list[object]]]:
    """Inputs in other layouts.

    Yields:
        The argument, its new layout in words, whether the caller gave it so, the call's arguments.
    """
    case = experiment.case
    for i, a in enumerate(case.args[: case.subject.inputs]):  # not a module's parameters
        if not isinstance(a, Tensor) or not a.is_floating_point() or not a.numel():
            continue
        if a.layout != torch.strided:
            continue
        given = case.subject.args[i]
        ways = []
        if isinstance(given, Tensor) and not strides.kept(given) and strides.injective(given):
            ways.append(("in the strides it was given", True, strides.like(a, given)))
        if a.dim() >= 2 and min(a.shape[-2:]) > 1:
            ways.append(("with transposed strides", False, strides.transposed(a)))
        if a.dim():
            ways.append(
                ("that is every second element of a larger tensor", False, strides.every_second(a))
            )
        for what, own, moved in ways:
            yield i, what, own, [*case.args[:i], moved, *case.args[i + 1 :]]
