"""Strides: gradients and inputs that hold the same values in another order of memory, or one value for all."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from manual_bp.verify.case import CrashError
from manual_bp.verify.experiment import Experiment
from manual_bp.verify.probes.repeat import alike
from manual_bp.verify.probes.result import Result


def layout(experiment: Experiment) -> Result:
    """Compare with the same values laid out contiguously."""
    case, result = experiment.case, Result()
    names = case.subject.names
    row = case.split(experiment.cotangents[0])
    constant = case.split(torch.full_like(experiment.cotangents[0], 0.75))
    for what, plain, other in (
        ("with transposed strides", row, [_transposed(r) for r in row]),
        ("that is every second element of a larger one", row, [_strided(r) for r in row]),
        ("with stride 0, as sum().backward() sends", constant, [_stride_zero(r) for r in constant]),
    ):
        if all(a.is_contiguous() for a in other):
            continue
        expected = case.graph().gradients(plain)
        try:
            found = _gradients_as_given(experiment, other)
        except CrashError as crash:
            result.add("non-contiguous", "grad_output", f"a grad_output {what} makes the backward raise {crash.line}")
            continue
        for i in case.checked:
            if not alike(expected[i], found[i], experiment.rtol, experiment.floor(i)):
                result.add("non-contiguous", names[i], f"a grad_output {what} gives another gradient")
    # a mask that is drawn with the input's strides is another mask
    for i, args in () if case.random else _moved_inputs(experiment):
        try:
            graph = case.graph(args)
        except CrashError as crash:
            result.notes.append(f"the forward takes no {names[i]} with transposed strides: {crash.line}")
            continue
        expected = case.graph().gradients(row)
        try:
            found = graph.gradients(row)
        except CrashError as crash:
            result.add(
                "non-contiguous", names[i], f"{names[i]} with transposed strides: the backward raises {crash.line}"
            )
            continue
        if not bool(torch.allclose(case.vector(), case.vector(args), rtol=experiment.rtol, atol=0, equal_nan=True)):
            scale = case.vector().abs().nan_to_num().max()
            if not alike(case.vector() / scale, case.vector(args) / scale, experiment.rtol):
                result.add("non-contiguous", names[i], f"{names[i]} with transposed strides gives another output")
                continue
        for j in case.checked:
            if not alike(expected[j], found[j], experiment.rtol, experiment.floor(j)):
                result.add("non-contiguous", names[j], f"{names[i]} with transposed strides gives another gradient")
    return result


def _gradients_as_given(experiment: Experiment, cotangents: list[Tensor]) -> dict[int, Tensor | None]:
    graph = experiment.case.graph()
    # .to(output) would lose the strides where the dtype differs; float64 against float64 keeps them
    return graph.gradients(cotangents)


def _transposed(t: Tensor) -> Tensor:
    return t.mT.contiguous().mT if t.dim() >= 2 else t


def _strided(t: Tensor) -> Tensor:
    if t.dim() == 0:
        return t
    wide = torch.full((*t.shape, 2), torch.nan, dtype=t.dtype)
    wide[..., 0] = t
    return wide[..., 0]


def _stride_zero(t: Tensor) -> Tensor:
    return t.new_tensor(0.75).expand(t.shape) if t.dim() else t


def _moved_inputs(experiment: Experiment) -> Iterator[tuple[int, list[object]]]:
    for i, a in enumerate(experiment.case.args):
        if isinstance(a, Tensor) and a.dim() >= 2 and not a.is_complex() and min(a.shape[-2:]) > 1:
            args = list(experiment.case.args)
            args[i] = _transposed(a)
            yield i, args
