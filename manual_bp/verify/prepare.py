"""Before the measuring: a call that can be checked, in float64 where the function takes that."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from manual_bp.verify.case import Case, Graph
from manual_bp.verify.crash import CrashError
from manual_bp.verify.experiment import Experiment
from manual_bp.verify.hypotheses.where import place
from manual_bp.verify.probes import repeat
from manual_bp.verify.record import Record
from manual_bp.verify.report import Finding
from manual_bp.verify.subject import Subject


def without_values(subject: Subject) -> str:
    """Why an argument has no values to measure by, or ""."""
    for name, a in zip(subject.names, subject.args, strict=True):
        if isinstance(a, Tensor) and (a.is_meta or a.is_nested):
            return f"{name} {'has no values (meta)' if a.is_meta else 'is a nested tensor'}"
    return ""


def in_double(record: Record, given: Case, graph: Graph) -> tuple[Case, Graph]:
    """The same case in float64, if the function takes it."""
    args = [_wide(a) for a in given.args]
    if all(
        a.dtype == b.dtype for a, b in zip(args, given.args, strict=True) if isinstance(a, Tensor)
    ):
        return given, graph
    case = Case(given.subject, args, given.checked, given.seed)
    try:
        wide_graph = case.prepare()
        if case.shapes != given.shapes:
            raise CrashError("forward", ValueError("it returns something else"))
    except CrashError as crash:
        record.notes.append(
            f"measured in {_dtype(given)}, with wider tolerances: the function takes no float64 "
            f"({crash.line})"
        )
        return given, graph
    record.notes.append(on_copies(given))
    return case, wide_graph


def on_copies(given: Case) -> str:
    """The note that float64 copies were measured."""
    return f"measured on float64 copies of the {_dtype(given)} inputs"


def _dtype(given: Case) -> str:
    return str(given.dtype).removeprefix("torch.") if given.checked else "its own dtype"


def _wide(a: Any) -> Any:
    """A floating or complex tensor in double precision; anything else, float8 too, as it is."""
    if not isinstance(a, Tensor):
        return a
    if a.is_complex():
        return a.to(torch.complex128)
    return a.double() if a.is_floating_point() and a.itemsize > 1 else a


def forward(record: Record, case: Case, graph: Graph) -> bool:
    """What one forward writes, and whether it is the same twice."""
    for i in graph.changed:
        flagged = any(isinstance(a, Tensor) and a.requires_grad for a in case.subject.args)
        name = case.subject.names[i]
        if i not in case.checked and flagged and case.args[i].is_floating_point():
            record.notes.append(f"the forward writes into {name}, which needs no gradient")
            continue
        text = (
            f"the forward changes the values of {name} without declaring it: work on a copy, "
            "or call ctx.mark_dirty and return the tensor itself"
        )
        record.findings.append(Finding("mutates-input", name, text))
    return record.probe("deterministic", lambda: repeat.forward_twice(case))


def lower(experiment: Experiment) -> Finding:
    """The finding on a forward that computes in a lower precision than its inputs have."""
    lower = str(experiment.lower).removeprefix("torch.")
    if experiment.lower_at is not None:
        case, start = experiment.case, 0
        for number, shape in enumerate(case.shapes):
            part = experiment.lower_at[start : start + shape.numel()].reshape(shape)
            start += shape.numel()
            if bool(part.any()):
                name = "the output" if len(case.shapes) == 1 else f"output {number}"
                at = place(part, torch.ones_like(part), name, case)
                text = f"the forward computes in {lower}, and in float64 elsewhere, at {at}"
                return Finding("precision", "output", text)
    noise = experiment.differences.relative_noise
    text = (
        f"the forward computes in {lower}, a lower precision than its input has: its values "
        f"jump by {noise:.0e} of their size over small steps of the input"
    )
    return Finding("precision", "output", text)
