"""The first order: what one backward writes and returns, and whether its numbers are right."""

from __future__ import annotations

from dataclasses import replace

from manual_bp.verify import backward
from manual_bp.verify.agreement import telling
from manual_bp.verify.case import Case, Graph
from manual_bp.verify.crash import outdated
from manual_bp.verify.diagnose import diagnose
from manual_bp.verify.experiment import Experiment
from manual_bp.verify.hypotheses import meaning
from manual_bp.verify.probes import repeat
from manual_bp.verify.record import Record
from manual_bp.verify.report import Finding, Row


def has_graph(record: Record, experiment: Experiment, graph: Graph) -> bool:
    """Whether any output requires a gradient.

    If none does although the derivative is not 0, the graph is cut, and that is a finding.
    """
    if any(o.requires_grad for o in graph.outputs):
        return True
    subject, checked = experiment.case.subject, experiment.case.checked
    if graph.overwritten:
        text = "the output of one call is overwritten by the next: both are the same tensor"
        record.findings.append(Finding("nondeterministic", "output", text))
        return False
    lost = [i for i in checked if any(telling(*experiment.expected(i, row)) for row in (0, 1))]
    if subject.function_class is not None and lost:
        why = (
            "the forward returns a list: autograd follows the tensors of a tuple alone"
            if graph.in_a_list
            else "every output is marked non-differentiable, but depends on it"
        )
        for i in lost:
            record.findings.append(Finding("missing-gradient", subject.names[i], why))
    elif subject.function_class is not None:
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


def _meant(
    record: Record, experiment: Experiment, i: int, finding: Finding, row: Row, strict: bool
) -> tuple[Finding | None, Row]:
    """A gradient that is not the derivative, and is declared so or may be meant so."""
    name, word = experiment.case.subject.names[i], experiment.case.subject.meant
    if word:
        text = meaning.broken(experiment, i, word)
        if text is not None:
            return Finding("wrong-values", name, text), replace(row, verdict="wrong-values")
        verdict = f"ok ({word}, as declared)"
    else:
        guessed = None if strict else meaning.guess(experiment, i)
        if guessed is None:
            return finding, row
        word, why = guessed
        text = (
            f"{why}. If that is meant, declare it with @verify.meant({word!r}), or give a "
            "reference with this gradient; --strict makes it a finding"
        ).replace("'", '"')
        record.questions.append(Finding(word, name, text))
        verdict = f"{word}?"
    experiment.take_as_meant(i)
    return None, replace(row, verdict=verdict)


def first_order(
    record: Record, experiment: Experiment, given: Case, *, strict: bool = False
) -> bool:
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
            old = outdated(crash)
            text += f".\n{old}" if old else ""
            record.findings.append(Finding("crash", "backward", text))
        return False
    # a backward that writes into what it gets is not the same twice: that follows
    if not record.found("mutates-grad-output") and not record.probe(
        "backward deterministic", lambda: repeat.backward_twice(experiment)
    ):
        record.findings += shapes
        return False
    cast = backward.dtypes(experiment, heard, given)
    experiment.measure_gradients()
    found = []
    for i in case.checked:
        finding, row = diagnose(experiment, i)
        if finding is not None and i not in experiment.by_reference:
            finding, row = _meant(record, experiment, i, finding, row, strict)
        if i in experiment.by_reference and i not in experiment.as_meant:
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
