"""The Functions that a callable runs inside: their own rules for jvp and vmap."""

from __future__ import annotations

from dataclasses import replace

from torch.autograd import Function

from manual_bp.verify.apply import heard_in
from manual_bp.verify.case import Case
from manual_bp.verify.experiment import Experiment
from manual_bp.verify.probes import transforms
from manual_bp.verify.probes.result import Result
from manual_bp.verify.subject import subject_of

FUNCTIONS = 8  # at most


def rules(experiment: Experiment) -> Result:
    """Check each inner Function that offers a rule, on what it is given inside the callable.

    Through the callable alone a rule that raises looks like an operation without one.
    """
    case, result = experiment.case, Result()
    heard = [
        r
        for r in heard_in(case.graph)
        if isinstance(r.target, type) and r.target is not case.subject.function_class and r.own
    ]
    offering = 0
    for recorded in heard[:FUNCTIONS]:
        run = next((run for run in recorded.runs.values() if run.grad), None)
        if run is None:
            continue
        subject = subject_of(recorded.target, run.args)
        if not (subject.offers_vmap or subject.offers_jvp):
            continue
        if recorded.target.setup_context is Function.setup_context:
            continue  # torch's transforms refuse the older style
        offering += 1
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
    if not offering:
        result.status = "none"
    return result
