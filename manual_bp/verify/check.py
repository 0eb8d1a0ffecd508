"""`check`: run the probes in the order in which faults explain one another, and stop where the rest would follow."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from manual_bp.verify import backward, randomness
from manual_bp.verify.case import Case, CrashError, Graph
from manual_bp.verify.diagnose import diagnose
from manual_bp.verify.experiment import Experiment, telling
from manual_bp.verify.probes import batch, layout, needs, partial, precision, repeat, second_order, transforms
from manual_bp.verify.probes.result import Result
from manual_bp.verify.reference import Reference
from manual_bp.verify.report import Finding, Report, Row
from manual_bp.verify.subject import Subject, subject_of
from manual_bp.verify.widths import narrower


def check(
    function: Any,
    inputs: Any,
    *,
    reference: Any = None,
    names: Sequence[str] | None = None,
    compile: bool | str = False,
    seed: int = 0,
) -> Report:
    """Compare a function's gradients, ∂⟨g, f(x)⟩/∂x for random g, with differences of its values; say what is wrong.

    Works in float64 on copies of the inputs where the function takes float64, and looks at rounding in the inputs' own
    dtype. Nothing of the caller's is changed: not the tensors, not their `.grad`, not the random generators.

    Args:
        function: a `torch.autograd.Function` class or its `apply`, an `nn.Module` (its parameters are checked too), or
            any callable.
        inputs: the positional arguments of one call: tensors, integers, None, strings. Checked are the tensors that
            require a gradient; where none does, every floating or complex tensor.
        reference: a callable that computes the same; its values and its gradients by autograd are compared as well. A
            gradient that equals the reference's is accepted even where it is not the derivative (straight-through).
        names: what to call the inputs; by default the parameter names of `forward`.
        compile: also run under `torch.compile(fullgraph=True)`; a string names the backend.
        seed: of the random cotangents and directions.

    Returns:
        A `Report`; `report.ok`, `report.findings` (`kind` is a key of `KINDS`), `report.raise_if_failed()`.

    Raises:
        TypeError: `function` is not callable.
        ValueError: `names` has another length than `inputs`, or the reference itself raises.
    """
    subject = subject_of(function, inputs, names)
    with randomness.kept(), _one_thread(), warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")  # odd sizes are tried on purpose, and would warn
        randomness.reset(seed)
        run = _Check(subject, seed)
        run.run(reference, "inductor" if compile is True else compile or None)
    return Report(subject.name, run.findings, run.rows, run.checks, run.notes)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Thousands of calls on small tensors: a second thread only waits, and makes sums differ in their last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class _Check:
    def __init__(self, subject: Subject, seed: int) -> None:
        self.subject = subject
        self.seed = seed
        self.checked = [i for i, flag in enumerate(subject.requires_grad) if flag]
        self.findings: list[Finding] = []
        self.rows: list[Row] = []
        self.checks: dict[str, str] = {}
        self.notes: list[str] = []
        self.dtype = torch.float64
        self.by_reference = False  # some gradient is accepted though it is not the derivative of the values

    def run(self, reference: Any, backend: str | None) -> None:
        given = Case(self.subject, self.subject.args, self.checked, self.seed)
        self.dtype = given.dtype
        try:
            graph = given.prepare()
        except CrashError as crash:
            self.findings.append(Finding("crash", "forward", f"the forward raises {crash.line}"))
            return
        case, graph = self._double(given, graph)
        if not self._forward(case, graph):
            return
        if not self.checked:
            self.notes.append("no input is a floating tensor: there is nothing to differentiate by")
            return
        if any(case.args[i].is_complex() for i in self.checked):
            self.notes.append("complex inputs are checked as pairs of real numbers: ∂/∂Re and ∂/∂Im")
        experiment = self._experiment(case)
        if experiment is None:
            return
        if case is not given and experiment.differences.relative_noise > 1e-11:
            # float32 inside: on float64 copies its own casts would be judged, which the caller never meets
            self.notes = [n for n in self.notes if "float64 copies" not in n]
            self.notes.append(
                "the function computes in a lower precision than float64: measured in the inputs' own dtype"
            )
            case, graph = given, given.graph()
            experiment = self._experiment(case) or experiment
        twin = self._reference(reference, experiment, given)
        if not self._has_graph(experiment, graph):
            return
        if not self._values(experiment, given, twin):
            skipped = "needs_input_grad, layouts, batch sizes, second backward, double backward, jvp, vmap, precision"
            self.notes.append(f"not looked at, because of the findings above: {skipped}")
            return
        self._behaviour(experiment, given, backend)

    def _double(self, given: Case, graph: Graph) -> tuple[Case, Graph]:
        """The same case in float64, if the function takes it."""
        wide = {torch.complex64: torch.complex128, torch.complex32: torch.complex128}
        args = [
            a.to(wide.get(a.dtype, torch.float64) if a.is_complex() or a.is_floating_point() else a.dtype)
            if isinstance(a, Tensor)
            else a
            for a in given.args
        ]
        if all(a.dtype == b.dtype for a, b in zip(args, given.args, strict=True) if isinstance(a, Tensor)):
            return given, graph
        case = Case(self.subject, args, self.checked, self.seed)
        name = str(given.dtype).removeprefix("torch.") if self.checked else "its own dtype"
        try:
            wide_graph = case.prepare()
            if case.shapes != given.shapes:
                raise CrashError("forward", ValueError("it returns something else"))
        except CrashError as crash:
            self.notes.append(
                f"measured in {name}, with wider tolerances: the function takes no float64 ({crash.line})"
            )
            return given, graph
        self.notes.append(f"measured on float64 copies of the {name} inputs")
        return case, wide_graph

    def _forward(self, case: Case, graph: Graph) -> bool:
        for i in graph.changed:
            flagged = any(isinstance(a, Tensor) and a.requires_grad for a in self.subject.args)
            if i not in self.checked and flagged and case.args[i].is_floating_point():
                self.notes.append(f"the forward writes into {self.subject.names[i]}, which needs no gradient")
                continue
            self.findings.append(
                Finding(
                    "mutates-input",
                    self.subject.names[i],
                    f"the forward changes the values of {self.subject.names[i]} without declaring it: work on a copy, "
                    "or call ctx.mark_dirty and return the tensor itself",
                )
            )
        return self._probe("deterministic", lambda: repeat.forward_twice(case))

    def _experiment(self, case: Case) -> Experiment | None:
        if not case.differentiable or not any(s.numel() for s in case.shapes):
            self.notes.append("no output is a floating tensor with elements: there is nothing to differentiate")
            return None
        experiment = Experiment(case, self.seed)
        missing = int((~experiment.differences.finite).sum())
        if missing:
            self.notes.append(f"{missing} output elements are NaN or infinite; they are left out")
        experiment.measure_truth()
        if experiment.sampled:
            share = ", ".join(
                f"{self.subject.names[i]} {len(c)} of {case.args[i].numel()}"
                for i, c in experiment.columns.items()
                if c is not None
            )
            self.notes.append(
                f"too large for a full Jacobian: measured on a random sample of elements ({share}) and along random "
                "directions"
            )
        for i, truth in experiment.truths.items():
            count = int(truth.rough.sum())
            if count:
                self.notes.append(
                    f"{self.subject.names[i]}: the function is not differentiable (a kink, a tie, a jump) at {count} "
                    f"of {truth.rough.numel()} elements; any gradient is accepted there"
                )
        if experiment.differences.relative_noise > 1e-11:
            noise = experiment.differences.relative_noise
            # float32 inside is a choice that float64 inputs meet often; half is not
            if case.coarse() and torch.finfo(self.dtype).bits > 16 and not self._found("precision"):
                text = (
                    f"its values jump by {noise:.0e} of their size over small steps of the input: the forward computes "
                    "in a lower precision than its input has"
                )
                self.findings.append(Finding("precision", "output", text))
            self.notes.append(
                f"the function's values carry a rounding of {noise:.0e}: tolerances are wider accordingly"
            )
        return experiment

    def _found(self, kind: str) -> bool:
        return any(f.kind == kind for f in self.findings)

    def _reference(self, reference: Any, experiment: Experiment, given: Case) -> Reference | None:
        if reference is None:
            return None
        twin = Reference(reference, experiment, given)
        result = twin.compare_forward()
        self._take("reference", result)
        return twin if result.status == "ok" else None

    def _has_graph(self, experiment: Experiment, graph: Graph) -> bool:
        if any(o.requires_grad for o in graph.outputs):
            return True
        lost = [i for i in self.checked if any(telling(*experiment.expected(i, row)) for row in (0, 1))]
        if self.subject.function_class is not None:
            self.notes.append("every output is marked non-differentiable: there is no gradient to check")
        elif lost:
            for i in lost:
                self.findings.append(
                    Finding(
                        "missing-gradient",
                        self.subject.names[i],
                        "no output requires a gradient, but the outputs depend on it: the graph is cut (detach, "
                        "no_grad, .data, NumPy)",
                    )
                )
        return False

    def _values(self, experiment: Experiment, given: Case, twin: Reference | None) -> bool:
        """What the backward writes and returns, then its numbers. False when there is a finding on these."""
        case, before = experiment.case, len(self.findings)
        heard, crash = backward.listen(case, experiment.cotangents[0])
        self.findings += backward.written(self.subject, heard)
        shapes, shaped = backward.shapes(experiment, heard)
        if crash is not None:
            self.findings += shapes
            if not shaped:
                why = backward.counted(heard)
                text = f"the backward {f'({why}) ' if why else ''}raises {crash.line}"
                self.findings.append(Finding("crash", "backward", text))
            return False
        if not self._probe("backward deterministic", lambda: repeat.backward_twice(experiment)):
            self.findings += shapes
            return False
        cast = backward.dtypes(experiment, heard, given)
        experiment.measure_gradients()
        if twin is not None:
            twin.complete()
        found = []
        for i in self.checked:
            finding, row = diagnose(experiment, i)
            if finding is not None and twin is not None and twin.agrees(i):
                name = self.subject.names[i]
                self.notes.append(f"{name}: the gradient is the reference's, which is not the derivative of the values")
                finding, row = None, Row(row.tensor, row.shape, row.max_abs, row.max_rel, "ok (as the reference)")
                self.by_reference = True
            if i in shaped:
                row = Row(row.tensor, row.shape, row.max_abs, row.max_rel, shaped[i])
            self.rows.append(row)
            if finding is not None:
                found.append(finding)
        # a shape that autograd corrects silently does less harm than a wrong number
        # and a grad_output of ones, which a gradient that ignores it amounts to, may give another tensor a 0
        ignored = any(f.kind == "ignores-grad-output" for f in found)
        self.findings += sorted(
            [*found, *shapes],
            key=lambda f: (f.kind == "wrong-values", f in shapes, ignored and f.kind == "missing-gradient"),
        )
        self.findings += cast
        wrong = len(self.findings) > before
        self.checks["gradient"] = "finding" if wrong else "ok"
        return not wrong

    def _behaviour(self, experiment: Experiment, given: Case, backend: str | None) -> None:
        case = experiment.case
        self._probe("parts of the output", lambda: partial.partial_outputs(experiment))
        self._probe("requires_grad subsets", lambda: needs.needs(experiment))
        self._probe("second backward", lambda: repeat.second_backward(experiment))
        self._probe("interleaved calls", lambda: repeat.interleaved(experiment))
        self._probe("layouts", lambda: layout.layout(experiment))
        positions = batch.batched(case)
        if positions is not None:
            rtol, noise = experiment.rtol, experiment.differences.relative_noise
            self._probe("batch of 0", lambda: batch.empty_batch(case, positions))
            if not self.by_reference:
                self._probe("batch of 1", lambda: batch.batch_of_one(case, positions, rtol, noise))
        bits = torch.finfo(given.dtype).eps
        self._probe("gradient's rounding", lambda: precision.backward_noise(experiment, bits))
        low = narrower(given)
        if low is not None and not self._found("precision"):
            name = str(low.dtype).removeprefix("torch.")
            self._probe(name, lambda: precision.against_double(low, case, experiment))
        self._probe("double backward", lambda: second_order.second_order(experiment))
        self._probe("jvp", lambda: transforms.forward_mode(experiment))
        self._probe("vmap", lambda: transforms.vmap(experiment))
        if backend:
            self._probe("compile", lambda: transforms.compiled(experiment, backend))

    def _probe(self, name: str, probe: Callable[[], Result]) -> bool:
        """Run one probe; True when it found nothing."""
        try:
            result = probe()
        except CrashError as crash:
            result = Result("not possible", notes=[f"{name}: not looked at, the {crash.stage} raises {crash.line}"])
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            # the probe, not the function: one that trips must not take the report with it
            line = str(error).splitlines()[0] if str(error) else type(error).__name__
            result = Result("not possible", notes=[f"{name}: could not be looked at ({line})"])
        return self._take(name, result)

    def _take(self, name: str, result: Result) -> bool:
        self.checks[name] = result.status
        self.findings += result.findings
        self.notes += [n for n in result.notes if n not in self.notes]
        return not result.findings
