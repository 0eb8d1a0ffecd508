"""The Functions that a callable runs inside: their own rules for jvp and vmap."""

from __future__ import annotations

from dataclasses import replace

from torch.autograd import Function

from manual_bp.verify.apply import heard_in
from manual_bp.verify.case import Case
from manual_bp.verify.experiment import Experiment
from manual_bp.verify.listen import written_functions
from manual_bp.verify.probes import transforms
from manual_bp.verify.probes.result import Result
from manual_bp.verify.subject import offers_jvp, offers_vmap, subject_of

FUNCTIONS = 8  # at most


def rules(experiment: Experiment) -> Result:
    """Check each inner Function that offers a rule, on what it is given inside the callable.

    Through the callable alone a rule that raises looks like an operation without one.
    """
    case, result = experiment.case, Result("none")
    if not any(_offering(cls) for cls in written_functions(case.graph())):
        return result
    heard = [
        r
        for r in heard_in(case.graph)
        if isinstance(r.target, type) and r.target is not case.subject.function_class and r.own
    ]
    for recorded in heard[:FUNCTIONS]:
        run = next((run for run in recorded.runs.values() if run.grad), None)
        if run is None or not _offering(recorded.target):
            continue
        result.status = "ok" if not result.findings else "finding"
        subject = subject_of(recorded.target, run.args)
        inner = Case(
            subject,
            subject.args,
            [i for i, flag in enumerate(subject.requires_grad) if flag],
            case.seed,
        )
        inner.prepare()
        if not inner.differentiable:
            continue
        own = Experiment(inner, case.seed)
        for part in (transforms.forward_mode(own), transforms.vmap(own)):
            for finding in part.findings:
                name = f"{recorded.name}.{finding.tensor}"
                result.status = "finding"
                result.findings.append(replace(finding, tensor=name))
    return result


def _offering(cls: type[Function]) -> bool:
    """Whether a Function has rules; torch's transforms refuse those of the older style."""
    return cls.setup_context is not Function.setup_context and (offers_jvp(cls) or offers_vmap(cls))
