"""`check`: run the checks from causes to consequences; stop at the first stage with a finding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from manual_bp.verify import randomness, size, surroundings
from manual_bp.verify.agreement import same
from manual_bp.verify.case import Case, Graph
from manual_bp.verify.crash import CrashError, outdated
from manual_bp.verify.experiment import Experiment
from manual_bp.verify.gradient import first_order, has_graph
from manual_bp.verify.hypotheses.where import place
from manual_bp.verify.probes import (
    autocast,
    batch,
    inside,
    layout,
    needs,
    partial,
    precision,
    repeat,
    second_order,
    transforms,
)
from manual_bp.verify.record import Record
from manual_bp.verify.reference import Reference, UsageError
from manual_bp.verify.report import Finding, Report
from manual_bp.verify.subject import Subject, subject_of
from manual_bp.verify.widths import narrower

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


def _wide(a: Any) -> Any:
    """A floating or complex tensor in double precision; anything else, float8 too, as it is."""
    if not isinstance(a, Tensor):
        return a
    if a.is_complex():
        return a.to(torch.complex128)
    return a.double() if a.is_floating_point() and a.itemsize > 1 else a


class _Check:
    def __init__(self, subject: Subject, seed: int) -> None:
        self.subject = subject
        self.seed = seed
        self.strict = False
        self.checked = [i for i, flag in enumerate(subject.requires_grad) if flag]
        self.record = Record(subject.name)

    def run(self, reference: Any, backend: str | None) -> None:
        for name, a in zip(self.subject.names, self.subject.args, strict=True):
            if isinstance(a, Tensor) and (a.is_meta or a.is_nested):
                what = "has no values (meta)" if a.is_meta else "is a nested tensor"
                self.record.incomplete.append(f"nothing was checked: {name} {what}")
                return
        given = Case(self.subject, self.subject.args, self.checked, self.seed)
        try:
            graph = given.prepare()
        except CrashError as crash:
            text = f"the forward raises {crash.line}.\n{outdated(crash) or self.subject.called()}"
            self.record.findings.append(Finding("crash", "forward", text))
            return
        if size.elements(given.args, given.shapes) > size.LIMIT:
            found = self._smaller(given)
            if found is None:
                return
            given, graph = found
        case, graph = self._double(given, graph)
        if not self._forward(case, graph):
            return
        if not self.checked:
            self.record.incomplete.append(
                "nothing was checked: no argument is a floating tensor to differentiate by"
            )
            return
        if not case.differentiable or not any(s.numel() for s in case.shapes):
            self.record.incomplete.append(
                "nothing was checked: no output is a floating tensor with elements"
            )
            return
        if any(case.args[i].is_complex() for i in self.checked):
            self.record.notes.append(
                "complex inputs are checked as pairs of real numbers: ∂/∂Re and ∂/∂Im"
            )
        experiment = Experiment(case, self.seed)
        if case is not given and experiment.lower is not None:
            # float32 inside: on float64 copies the check would judge casts that the caller never
            # meets
            self.record.notes = [n for n in self.record.notes if "float64 copies" not in n]
            self.record.notes.append(
                "the function computes in a lower precision than float64: measured in the inputs' "
                "own dtype"
            )
            case, graph = given, given.graph()
            experiment = Experiment(case, self.seed)
        if experiment.lower_at is not None:
            self.record.findings.append(self._lower(experiment))
            self.record.notes.append("not looked at, because of the finding above: the gradient")
            return
        experiment.measure_truth()
        twin = None if reference is None else Reference(reference, experiment, given)
        compared = None if twin is None else twin.compare_forward()
        same_values = compared is not None and not compared.findings
        half = experiment.lower is not None and torch.finfo(experiment.lower).bits <= 16
        # float32 inside is often meant, half precision is not
        if half and torch.finfo(given.dtype).bits > 16 and not same_values:
            self.record.findings.append(self._lower(experiment))
        if compared is not None:
            self.record.take("reference", compared)
        self._notes(experiment)
        if twin is not None and same_values:
            twin.adopt()
            if twin.not_compared:
                text = f"the reference's gradient is not compared: {twin.not_compared}"
                self.record.notes.append(text)
        self.record.looked_at, self.record.elements = experiment.looked_at()
        if not has_graph(self.record, experiment, graph):
            return
        if not first_order(self.record, experiment, given, strict=self.strict):
            skipped = self._beside(experiment)
            self.record.notes.append(f"not looked at, because of the findings above: {skipped}")
            return
        self._behaviour(experiment, given, backend)

    def _smaller(self, given: Case) -> tuple[Case, Graph] | None:
        count = f"{size.elements(given.args, given.shapes):,} elements"
        subject, cut = size.smaller(given)
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
        case = Case(subject, subject.args, self.checked, self.seed)
        return case, case.prepare()

    def _double(self, given: Case, graph: Graph) -> tuple[Case, Graph]:
        """The same case in float64, if the function takes it."""
        args = [_wide(a) for a in given.args]
        if all(
            a.dtype == b.dtype
            for a, b in zip(args, given.args, strict=True)
            if isinstance(a, Tensor)
        ):
            return given, graph
        case = Case(self.subject, args, self.checked, self.seed)
        name = str(given.dtype).removeprefix("torch.") if self.checked else "its own dtype"
        try:
            wide_graph = case.prepare()
            if case.shapes != given.shapes:
                raise CrashError("forward", ValueError("it returns something else"))
        except CrashError as crash:
            self.record.notes.append(
                f"measured in {name}, with wider tolerances: the function takes no float64 "
                f"({crash.line})"
            )
            return given, graph
        self.record.notes.append(f"measured on float64 copies of the {name} inputs")
        return case, wide_graph

    def _forward(self, case: Case, graph: Graph) -> bool:
        for i in graph.changed:
            flagged = any(isinstance(a, Tensor) and a.requires_grad for a in self.subject.args)
            name = self.subject.names[i]
            if i not in self.checked and flagged and case.args[i].is_floating_point():
                self.record.notes.append(f"the forward writes into {name}, which needs no gradient")
                continue
            text = (
                f"the forward changes the values of {name} without declaring it: work on a copy, "
                f"or call "
                "ctx.mark_dirty and return the tensor itself"
            )
            self.record.findings.append(Finding("mutates-input", name, text))
        return self.record.probe("deterministic", lambda: repeat.forward_twice(case))

    def _lower(self, experiment: Experiment) -> Finding:
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
            f"jump by {noise:.0e} of "
            "their size over small steps of the input"
        )
        return Finding("precision", "output", text)

    def _notes(self, experiment: Experiment) -> None:
        """Note what could be measured less exactly than usual, and why."""
        notes, names = self.record.notes, self.subject.names
        missing = int((~experiment.differences.finite).sum())
        if missing:
            notes.append(f"{missing} output elements are NaN or infinite; they are left out")
        if experiment.sampled:
            sampled = [(i, c) for i, c in experiment.columns.items() if c is not None]
            share = ", ".join(
                f"{names[i]} {len(c)} of {experiment.case.args[i].numel()}" for i, c in sampled
            )
            notes.append(
                f"too large for a full Jacobian: measured on a random sample of elements ({share}) "
                f"and along random "
                "directions"
            )
        for i, truth in experiment.truths.items():
            count = int(truth.rough.sum())
            if count:
                notes.append(
                    f"{names[i]}: the function is not differentiable (a kink, a tie, a jump) at "
                    f"{count} of "
                    f"{truth.rough.numel()} elements; any gradient but NaN is accepted there"
                )
        noise = experiment.differences.relative_noise
        if noise > 1e-11:
            notes.append(
                f"the function's values carry a rounding of {noise:.0e}: tolerances are wider "
                f"accordingly"
            )

    def _marked(self, experiment: Experiment) -> None:
        """Note each floating output that autograd does not follow although it depends on x."""
        case = experiment.case
        for number, output in enumerate(case.values()):
            if number in case.differentiable or not output.is_floating_point():
                continue
            moved = [a * (1 + 1e-4) if i in case.checked else a for i, a in enumerate(case.args)]
            if not same(output, case.values(moved)[number]):
                self.record.notes.append(
                    f"output {number} depends on the inputs and requires no gradient: whatever is "
                    "built on it gets none. If that is not meant, do not mark it non-differentiable"
                )

    def _beside(self, experiment: Experiment) -> str:
        """After a wrong gradient: what compares the function with itself. Returns the rest."""
        probe, rest = self.record.probe, "larger batches, precision, double backward, jvp, vmap"
        # a crash, or another gradient in each call, has no numbers to compare
        follows = {"crash", "wrong-shape", "not-linear-in-grad-output", "mutates-grad-output"}
        if self.record.checks.get("gradient") != "finding" or any(
            f.kind in follows for f in self.record.findings
        ):
            return f"requires_grad subsets, second backward, layouts, batches, {rest}"
        probe("requires_grad subsets", lambda: needs.needs(experiment))
        if not self.record.found("mutates-saved"):
            probe("second backward", lambda: repeat.second_backward(experiment))
        probe("layouts", lambda: layout.layout(experiment))
        sets = [] if "batch-sizes" in self.record.skip else batch.batched(experiment.case)
        if sets:
            case = experiment.case
            probe("batch of 0", lambda: batch.each(sets, lambda p: batch.empty_batch(case, p)))
        return rest

    def _behaviour(self, experiment: Experiment, given: Case, backend: str | None) -> None:
        case, probe = experiment.case, self.record.probe
        self._marked(experiment)
        probe("parts of the output", lambda: partial.partial_outputs(experiment))
        recomputes = case.fills_grad
        if not recomputes:
            probe("requires_grad subsets", lambda: needs.needs(experiment))
        probe("buffers", lambda: repeat.buffers(experiment))
        probe("second backward", lambda: repeat.second_backward(experiment))
        if not probe("interleaved calls", lambda: repeat.interleaved(experiment)):
            self.record.notes.append(
                "not looked at, because state is kept outside ctx: what follows from it"
            )
            return
        probe("layouts", lambda: layout.layout(experiment))
        sets = [] if "batch-sizes" in self.record.skip else batch.batched(case)
        if sets:
            probe("batch of 0", lambda: batch.each(sets, lambda p: batch.empty_batch(case, p)))
            if not experiment.by_reference:
                for rows in batch.SIZES:
                    right = probe(
                        f"batch of {rows}",
                        lambda rows=rows: batch.each(  # type: ignore[misc]
                            sets, lambda p: batch.batch_of(experiment, p, rows)
                        ),
                    )
                    if not right:
                        break
        eps = torch.finfo(given.dtype).eps
        probe("gradient's rounding", lambda: precision.backward_noise(experiment, eps), "precision")
        low = narrower(given)
        if low is not None and not self.record.found("precision"):
            name = str(low.dtype).removeprefix("torch.")
            probe(name, lambda: precision.against_double(low, case, experiment), "precision")
        if given.dtype == torch.float32:
            probe("autocast", lambda: autocast.autocast(given))
        why = "torch's reentrant checkpoint" if recomputes else ""
        why = why or ("right for symmetric changes" if experiment.symmetric else "")
        why = why or ("it iterates to a tolerance" if experiment.iterating else "")
        if why:
            self.record.checks["double backward"] = f"not measured ({why})"
        else:
            probe("double backward", lambda: second_order.second_order(experiment))
        # a jvp is measured by the values, and the reference's gradient is not theirs
        if experiment.by_reference:
            self.record.checks["jvp"] = "not looked at (the gradient is not the values' own)"
        else:
            probe("jvp", lambda: transforms.forward_mode(experiment))
        probe("vmap", lambda: transforms.vmap(experiment))
        probe("rules of the Functions inside", lambda: inside.rules(experiment))
        if backend:
            probe("compile", lambda: transforms.compiled(experiment, backend))
