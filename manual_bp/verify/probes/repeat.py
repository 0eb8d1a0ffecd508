"""Calling twice: forward, backward, a second backward over one graph, two interleaved graphs."""

from __future__ import annotations

from torch import Tensor

from manual_bp.verify import randomness
from manual_bp.verify.agreement import alike, same
from manual_bp.verify.case import Case, Gradients
from manual_bp.verify.crash import CrashError
from manual_bp.verify.experiment import Experiment
from manual_bp.verify.probes.result import Result


def forward_twice(case: Case) -> Result:
    """The same inputs and the same seed must give the same values."""
    result = Result()
    first, second = case.values(), case.values()
    third = case.values()
    for other in (second, third):
        if len(first) != len(other) or any(
            not same(a, b) for a, b in zip(first, other, strict=True)
        ):
            result.add(
                "nondeterministic",
                "output",
                "the forward gives different values in two calls on the same inputs with every "
                "random generator reset: "
                "it depends on something that is not among its arguments (a counter, the time, a "
                "cache)",
            )
            break
    if case.random:
        result.notes.append(
            "the function draws random numbers; every call was made from the same seed"
        )
    return result


def backward_twice(experiment: Experiment) -> Result:
    """Fresh graphs must give the same gradient, whatever the seed before each backward.

    If they do not, the backward draws random numbers, or it uses state outside ctx.
    """
    case, result = experiment.case, Result()
    row = case.split(experiment.cotangents[0])
    found = []
    for seed in (101, 202):
        graph = case.graph()
        randomness.reset(seed)
        found.append(graph.gradients(row))
    for i in case.checked:
        if not alike(found[0][i], found[1][i], experiment.rtol, experiment.floor(i)):
            result.add(
                "nondeterministic",
                case.subject.names[i],
                "two backwards from the same forward give different gradients: random numbers are "
                "drawn in the "
                "backward instead of being saved by the forward, or state is kept outside ctx",
            )
    return result


def buffers(experiment: Experiment) -> Result:
    """A later call must not write into what an earlier one returned."""
    case, result = experiment.case, Result()
    moved = [
        a * 1.25 + 0.125 if isinstance(a, Tensor) and i in case.checked else a
        for i, a in enumerate(case.args)
    ]
    outputs = case.values()
    before = [o.clone() for o in outputs]
    try:
        case.values(moved)
    except CrashError:
        return result
    if any(not same(a, b) for a, b in zip(outputs, before, strict=True)):
        text = "the output of one call is overwritten by the next: both share one buffer"
        result.add("nondeterministic", "output", text)
    return result


def second_backward(experiment: Experiment) -> Result:
    """A second backward over a retained graph must give the same gradient.

    A third one, for another cotangent, must leave the first gradient as it is.
    """
    case, result = experiment.case, Result()
    row, other = case.split(experiment.cotangents[0]), case.split(experiment.cotangents[1])
    graph = case.graph()
    if case.random:
        randomness.reset(case.seed + 1)
    first = graph.gradients([r.clone() for r in row], retain=True)
    kept: Gradients = {i: None if g is None else g.detach().clone() for i, g in first.items()}
    try:
        if case.random:
            randomness.reset(case.seed + 1)
        second = graph.gradients([r.clone() for r in row], retain=True)
        graph.gradients([r.clone() for r in other], retain=True)
    except CrashError as crash:
        result.add(
            "second-backward", "ctx", f"a second backward over a retained graph raises {crash.line}"
        )
        return result
    for i in case.checked:
        name = case.subject.names[i]
        if not alike(kept[i], second[i], experiment.rtol, experiment.floor(i)):
            result.add(
                "second-backward",
                name,
                "a second backward over a retained graph gives another gradient than the first",
            )
        elif not alike(kept[i], first[i], 0.0):
            result.add(
                "second-backward",
                name,
                "the gradient returned by one backward is overwritten by the next: both share one "
                "buffer",
            )
    return result


def interleaved(experiment: Experiment) -> Result:
    """Two forwards, then the first one's backward: this shows state kept outside ctx."""
    case, result = experiment.case, Result()
    row = case.split(experiment.cotangents[0])
    moved = [
        a * 1.25 + 0.125 if isinstance(a, Tensor) and i in case.checked else a
        for i, a in enumerate(case.args)
    ]
    plain = case.graph().gradients(row)
    graph = case.graph()
    try:
        case.graph(moved)
    except CrashError:
        return result
    if case.random:
        randomness.reset(case.seed + 1)
    try:
        after = graph.gradients(row)
    except CrashError as crash:
        result.add(
            "nondeterministic",
            "ctx",
            f"after a second forward, the first one's backward raises {crash.line}",
        )
        return result
    for i in case.checked:
        if not alike(plain[i], after[i], experiment.rtol, experiment.floor(i)):
            result.add(
                "nondeterministic",
                case.subject.names[i],
                "the gradient changes when the function is called once more before the backward: "
                "what the forward kept "
                "is stored outside ctx, and the later call overwrites it",
            )
    return result
