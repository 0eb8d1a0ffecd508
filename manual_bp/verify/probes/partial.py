"""Several outputs, of which only one is used: the others' gradients arrive as zeros, or as None."""

from __future__ import annotations

from manual_bp.verify.agreement import alike
from manual_bp.verify.crash import CrashError
from manual_bp.verify.experiment import Experiment
from manual_bp.verify.probes.result import Result


def partial_outputs(experiment: Experiment) -> Result:
    """A gradient for one output alone must equal the gradient with explicit zeros for the rest."""
    case = experiment.case
    if len(case.shapes) < 2:
        return Result()
    result = Result()
    for o in range(len(case.shapes)):
        row = case.split(experiment.cotangents[3 + o])
        try:
            found = case.graph().gradients([g if k == o else None for k, g in enumerate(row)])
        except CrashError as crash:
            result.add(
                "crash",
                "grad_output",
                f"when only output {o} is used, the {crash.stage} raises {crash.line}",
            )
            continue
        expected = case.graph().gradients(row)
        for i in case.checked:
            if not alike(found[i], expected[i], experiment.rtol, experiment.floor(i)):
                text = (
                    f"when only output {o} is used, the gradient differs from the one "
                    "with zeros for the others"
                )
                result.add("wrong-values", case.subject.names[i], text)
    return result
