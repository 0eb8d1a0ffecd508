"""The first order: what one backward writes and returns, and whether its numbers are right."""

from __future__ import annotations

from dataclasses import replace

from manual_bp.verify import backward
from manual_bp.verify.agreement import telling
from manual_bp.verify.case import Case, Graph
from manual_bp.verify.diagnose import diagnose
from manual_bp.verify.experiment import Experiment
from manual_bp.verify.probes import repeat
from manual_bp.verify.record import Record
from manual_bp.verify.report import Finding


def has_graph(record: Record, experiment: Experiment, graph: Graph) -> bool:
    """Whether any output requires a gradient.

    If none does although the derivative is not 0, the graph is cut, and that is a finding.
    """
    if any(o.requires_grad for o in graph.outputs):
        return True
    subject, checked = experiment.case.subject, experiment.case.checked
    lost = [i for i in checked if any(telling(*experiment.expected(i, row)) for row in (0, 1))]
    if subject.function_class is not None:
        record.incomplete.append("nothing was checked: every output is marked non-differentiable")
    elif not lost:
        record.incomplete.append(
            "nothing was checked: no output requires a gradient, and none depends on the inputs"
        )
    else:
        for i in lost:
            text = (
                "no output requires a gradient, but the outputs depend on it: the graph is cut "
                "(detach, no_grad, "
                ".data, NumPy)"
            )
            record.findings.append(Finding("missing-gradient", subject.names[i], text))
    return False


def first_order(record: Record, experiment: Experiment, given: Case) -> bool:
    """Look at one backward, then at its numbers. False when there is a finding on these."""
    case, before = experiment.case, len(record.findings)
    heard, kept, crash = backward.listen(case, experiment.cotangents[0])
    record.notes += kept
    record.findings += backward.written(case.subject, heard)
    shapes, shaped = backward.shapes(experiment, heard)
    if crash is not None:
        record.findings += shapes
        if not shaped:
            why = backward.counted(heard)
            text = f"the backward {f'({why}) ' if why else ''}raises {crash.line}"
            record.findings.append(Finding("crash", "backward", text))
        return False
    if not record.probe("backward deterministic", lambda: repeat.backward_twice(experiment)):
        record.findings += shapes
        return False
    cast = backward.dtypes(experiment, heard, given)
    experiment.measure_gradients()
    found = []
    for i in case.checked:
        finding, row = diagnose(experiment, i)
        if i in experiment.by_reference:
            name = case.subject.names[i]
            record.notes.append(
                f"{name}: compared with the reference's gradient, which is not the derivative"
            )
            row = replace(row, verdict="ok (as the reference)") if finding is None else row
        record.rows.append(replace(row, verdict=shaped[i]) if i in shaped else row)
        if finding is not None:
            found.append(finding)
    # A shape that autograd corrects silently does less harm than a wrong number: list it later.
    # A gradient that ignores grad_output acts as if it were all ones. For ones another tensor's
    # gradient may rightly be 0: list the former first.
    ignored = any(f.kind == "ignores-grad-output" for f in found)
    record.findings += sorted(
        [*found, *shapes],
        key=lambda f: (
            f.kind == "wrong-values",
            f in shapes,
            ignored and f.kind == "missing-gradient",
        ),
    )
    record.findings += cast
    wrong = len(record.findings) > before
    record.checks["gradient"] = "finding" if wrong else "ok"
    return not wrong
