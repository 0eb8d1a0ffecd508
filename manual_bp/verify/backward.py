"""What one backward writes and returns, seen below autograd's engine."""

from __future__ import annotations

import torch
from torch import Tensor

from manual_bp.verify.case import Case, Graph
from manual_bp.verify.crash import CrashError
from manual_bp.verify.experiment import Experiment
from manual_bp.verify.hypotheses.shapes import wrong_shape
from manual_bp.verify.listen import Heard, listening
from manual_bp.verify.report import Finding
from manual_bp.verify.subject import Subject


def listen(case: Case, row: Tensor) -> tuple[list[Heard], list[str], CrashError | None]:
    """Run one backward for a flat cotangent.

    Returns:
        What each Function in the graph got and returned, notes, and the error if it raised one.
    """
    graph = case.graph()
    crashed = None
    with listening(graph) as heard:
        try:
            graph.gradients(case.split(row))
        except CrashError as crash:
            crashed = crash
    return heard, _kept_on_ctx(graph, heard), crashed


def _kept_on_ctx(graph: Graph, heard: list[Heard]) -> list[str]:
    """Inputs and outputs that a Function keeps as attributes."""
    places = {
        t.data_ptr(): "input" for t in graph.passed if isinstance(t, Tensor) and _has_place(t)
    }
    places |= {t.data_ptr(): "output" for t in graph.returned if _has_place(t)}
    return [
        f"{event.cls.__name__} keeps an {places[t.data_ptr()]} as ctx.{name}: with "
        f"ctx.save_for_backward autograd "
        "would notice a later change in place, and an output would not keep its own graph alive"
        for event in heard
        for name, t in event.attributes.items()
        if _has_place(t) and t.data_ptr() in places
    ]


def _has_place(t: Tensor) -> bool:
    return t.layout == torch.strided and t.numel() > 0


def counted(heard: list[Heard]) -> str:
    """Which Function returns fewer or more gradients than it takes arguments, or ""."""
    for event in heard:
        if event.returned is not None and len(event.returned) != len(event.needs):
            return (
                f"{event.cls.__name__} returns {len(event.returned)} gradients for "
                f"{len(event.needs)} arguments"
            )
    return ""


def written(subject: Subject, heard: list[Heard]) -> list[Finding]:
    """Writing into grad_output, or into what the forward saved."""
    found = []
    for event in heard:
        inside = "" if event.cls is subject.function_class else f" of {event.cls.__name__}"
        if event.written_gradients:
            text = (
                f"the backward{inside} writes into the gradient it receives (argument "
                f"{event.written_gradients[0]}): "
                "autograd may still need it; use out-of-place operations"
            )
            found.append(Finding("mutates-grad-output", "grad_output", text))
        if event.written_saved:
            text = (
                f"the backward{inside} writes into what the forward saved "
                f"({', '.join(event.written_saved)}): a second "
                "backward, and whoever holds the tensor, sees other values"
            )
            found.append(Finding("mutates-saved", event.written_saved[0], text))
    return found


def shapes(experiment: Experiment, heard: list[Heard]) -> tuple[list[Finding], dict[int, str]]:
    """Findings on shapes, and their kinds by the argument's position.

    An inner Function's argument i has the position −1 − i.
    """
    subject, case = experiment.case.subject, experiment.case
    found, kinds = [], {}
    for event in heard:
        mine = event.cls is subject.function_class and sum(h.cls is event.cls for h in heard) == 1
        for i, raw in enumerate(event.returned or ()):
            if not isinstance(raw, Tensor) or i >= len(event.needs) or not event.needs[i]:
                continue
            name = event.tensor_name(subject, i)
            if mine and i in case.checked:
                if raw.shape != case.args[i].shape:
                    kinds[i], text = wrong_shape(experiment, i, raw)
                    found.append(Finding(kinds[i], name, text))
            elif i in event.expected and raw.shape != event.expected[i][0]:
                shape = event.expected[i][0]
                kinds[-1 - i] = _oversized(raw.shape, shape)
                text = f"its shape is {tuple(raw.shape)}, its input's is {tuple(shape)}"
                found.append(Finding(kinds[-1 - i], name, text))
    return sorted(found, key=lambda f: f.kind == "wrong-shape"), kinds


def _oversized(raw: torch.Size, shape: torch.Size) -> str:
    try:
        silent = torch.broadcast_shapes(raw, shape) == raw
    except RuntimeError:
        return "wrong-shape"
    return "missing-batch-sum" if silent and raw.numel() > shape.numel() else "wrong-shape"


def dtypes(experiment: Experiment, heard: list[Heard], given: Case) -> list[Finding]:
    """Findings on gradients whose dtype is not their input's.

    The float64 copies count only if the forward keeps float64: float32 inside is no fault.
    """
    kept = all(o.dtype == torch.float64 for o in experiment.case.graph().outputs)
    calls = list(heard) if kept or given is experiment.case else []
    if given is not experiment.case:
        calls += listen(given, experiment.cotangents[0])[0]
    found: dict[str, Finding] = {}
    for event in calls:
        for i, raw in enumerate(event.returned or ()):
            if (
                not isinstance(raw, Tensor)
                or i not in event.expected
                or raw.dtype == event.expected[i][1]
            ):
                continue
            name = event.tensor_name(experiment.case.subject, i)
            seen, wanted = (
                str(d).removeprefix("torch.") for d in (raw.dtype, event.expected[i][1])
            )
            text = f"its dtype is {seen}, its input's is {wanted}; autograd casts it silently"
            found.setdefault(name, Finding("wrong-dtype", name, text))
            if event.cls is experiment.case.subject.function_class and raw.is_floating_point():
                # the gradient's error is now of the size of that dtype's rounding
                experiment.rtols[i] = max(experiment.rtol, 20 * torch.finfo(raw.dtype).eps)
    return list(found.values())
