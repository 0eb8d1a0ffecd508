"""`check`: run the checks from causes to consequences; stop at the first stage with a finding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from manual_bp.verify import many, randomness, size, surroundings
from manual_bp.verify.behaviour import behaviour, beside_a_fault, measured
from manual_bp.verify.case import Case, Graph
from manual_bp.verify.crash import CrashError, outdated
from manual_bp.verify.experiment import Experiment
from manual_bp.verify.gradient import first_order, has_graph
from manual_bp.verify.prepare import forward, in_double, lower, on_copies, without_values
from manual_bp.verify.record import Record
from manual_bp.verify.reference import Reference, UsageError
from manual_bp.verify.report import Finding, Report
from manual_bp.verify.steps import length
from manual_bp.verify.subject import Subject, subject_of

PROBES = (
    "requires_grad-subsets",
    "second-backward",
    "interleaved-calls",
    "layouts",
    "batch-sizes",
    "precision",
    "autocast",
    "double-backward",
    "jvp",
    "vmap",
)
"""What `skip` can leave out."""


def check(
    function: Any,
    inputs: Any,
    *,
    reference: Any = None,
    names: Sequence[str] | None = None,
    compile: bool | str = False,
    seed: int = 0,
    skip: Sequence[str] = (),
    strict: bool = False,
    tell: Callable[[Report, str], None] | None = None,
) -> Report:
    """Compare a function's gradients, ∂⟨g, f(x)⟩/∂x for random g, with differences of its values.

    A wrong gradient is reported with what is wrong about it. The check works on float64 copies of
    the inputs if the function takes float64, and looks at rounding in the inputs' own dtype. The
    caller's tensors, their `.grad` and the random generators stay as they are.

    Args:
        function: a `torch.autograd.Function` class or its `apply`, an `nn.Module` (its parameters
            are checked too), or any callable.
        inputs: the positional arguments of one call: tensors, integers, None, strings. The tensors
            that require a gradient are checked; if none does, every floating or complex tensor is.
        reference: a callable that computes the same; its values and its gradients by autograd are
            compared too. A gradient that equals the reference's is accepted even if it is not the
            derivative (straight-through).
        names: what to call the inputs; by default the parameter names of `forward`.
        compile: also run under `torch.compile(fullgraph=True)`; a string names the backend.
        seed: of the random cotangents and directions.
        strict: take a gradient that may be meant, such as a straight-through one, for a finding.
        tell: is given the report so far, and the probe that begins: a crash may end the process.
        skip: probes to leave out, such as ("double-backward", "jvp"); see `PROBES`.

    Returns:
        A `Report`; `report.ok`, `report.findings` (`kind` is a key of `KINDS`),
        `report.raise_if_failed()`.

    Raises:
        TypeError: `function` is not callable.
        ValueError: `names` has another length than `inputs`, `skip` names no probe, or the
            reference itself raises.

        >>> check(torch.sigmoid, torch.zeros(2)).ok
        True
    """
    unknown = [name for name in skip if name not in PROBES]
    if unknown:
        raise ValueError(f"check: skip {unknown[0]!r}: expected some of {', '.join(PROBES)}")
    with surroundings.kept(function), randomness.kept():
        subject = subject_of(function, inputs, names)
        randomness.reset(seed)
        run = _Check(subject, seed)
        run.strict = strict
        run.record.tell = tell or run.record.tell
        run.record.skip = frozenset(skip)
        try:
            run.run(reference, "inductor" if compile is True else compile or None)
        except UsageError:
            raise
        except CrashError as crash:
            run.record.incomplete.append(f"the {crash.stage} raises {crash.line}")
        except Exception as error:  # of the check, not the function: what was found is told
            line = CrashError("check", error).line
            run.record.incomplete.append(f"the check itself could not go on: {line}")
    return run.record.report()


class _Check:
    def __init__(self, subject: Subject, seed: int) -> None:
        self.subject = subject
        self.seed = seed
        self.strict = False
        self.every = [i for i, flag in enumerate(subject.requires_grad) if flag]
        self.checked = many.sampled(subject, self.every, seed)
        self.record = Record(subject.name)
        if len(self.checked) < len(self.every):
            self.record.notes.append(
                f"of {len(self.every)} arguments {len(self.checked)}, drawn at random, were "
                "measured one by one, and all of them along random directions"
            )

    def run(self, reference: Any, backend: str | None) -> None:
        record, why = self.record, without_values(self.subject)
        if why:
            record.incomplete.append(f"nothing was checked: {why}")
            return
        found = self._affordable()
        if found is None:
            return
        given, graph = found
        case, graph = in_double(record, given, graph)
        if not forward(record, case, graph):
            return
        nothing = self._nothing(case)
        if nothing:
            record.incomplete.append(f"nothing was checked: {nothing}")
            return
        if any(case.args[i].is_complex() for i in self.checked):
            record.notes.append(
                "complex inputs are checked as pairs of real numbers: ∂/∂Re and ∂/∂Im"
            )
        experiment = Experiment(case, self.seed)
        if case is not given and experiment.lower is not None:
            # float32 inside: on float64 copies the check would judge casts that the caller never
            # meets
            record.notes.remove(on_copies(given))
            record.notes.append(
                "the function computes in a lower precision than float64: measured in the inputs' "
                "own dtype"
            )
            case, graph = given, given.graph()
            experiment = Experiment(case, self.seed)
        if experiment.lower_at is not None:
            record.findings.append(lower(experiment))
            record.notes.append("not looked at, because of the finding above: the gradient")
            return
        experiment.measure_truth()
        self._reference(reference, experiment, given)
        record.looked_at, record.elements = experiment.looked_at()
        if not has_graph(record, experiment, graph):
            return
        if not first_order(record, experiment, given, strict=self.strict):
            skipped = beside_a_fault(record, experiment)
            record.notes.append(f"not looked at, because of the findings above: {skipped}")
            return
        if len(self.checked) < len(self.every):
            record.elements = sum(length(case.args[i]) for i in self.every)
            together = "all arguments together"
            if not record.probe(together, lambda: many.together(experiment, self.every)):
                return
        behaviour(record, experiment, given, backend)

    def _affordable(self) -> tuple[Case, Graph] | None:
        """The first call, with smaller dimensions where the given ones are too large."""
        inputs = self.subject.args[: self.subject.inputs]
        shapes = None
        if size.elements(inputs) <= size.LIMIT:
            given = Case(self.subject, self.subject.args, self.checked, self.seed)
            try:
                graph = given.prepare()
            except CrashError as crash:
                advice = outdated(crash) or self.subject.called()
                text = f"the forward raises {crash.line}.\n{advice}"
                self.record.findings.append(Finding("crash", "forward", text))
                return None
            shapes = given.shapes
            if size.elements(inputs, shapes) <= size.LIMIT:
                return given, graph
        count = f"{size.elements(inputs, shapes or ()):,} elements"
        subject, cut = size.smaller(self.subject, self.checked, self.seed, shapes)
        if subject is None:
            self.record.incomplete.append(
                f"nothing was checked: {count} are more than {size.LIMIT:,}, and the function "
                "takes no smaller dimensions: give smaller inputs"
            )
            return None
        self.record.notes.append(
            f"the call has {count}, more than {size.LIMIT:,}: checked with smaller dimensions "
            f"({cut})"
        )
        self.subject = subject
        given = Case(subject, subject.args, self.checked, self.seed)
        return given, given.prepare()

    def _nothing(self, case: Case) -> str:
        """Why there is nothing to check, or ""."""
        if not self.checked:
            return "no argument is a floating tensor to differentiate by"
        if not case.differentiable or not any(s.numel() for s in case.shapes):
            return "no output is a floating tensor with elements"
        return ""

    def _reference(self, reference: Any, experiment: Experiment, given: Case) -> None:
        """Compare the values with a reference's, and take its gradient where they are equal."""
        record = self.record
        twin = None if reference is None else Reference(reference, experiment, given)
        compared = None if twin is None else twin.compare_forward()
        same_values = compared is not None and not compared.findings
        half = experiment.lower is not None and torch.finfo(experiment.lower).bits <= 16
        # float32 inside is often meant, half precision is not
        if half and torch.finfo(given.dtype).bits > 16 and not same_values:
            record.findings.append(lower(experiment))
        if compared is not None:
            record.take("reference", compared)
        measured(record, experiment)
        if twin is not None and same_values:
            twin.adopt()
            if twin.not_compared:
                text = f"the reference's gradient is not compared: {twin.not_compared}"
                record.notes.append(text)
