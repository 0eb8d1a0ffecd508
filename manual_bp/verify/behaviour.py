"""After the numbers: how the function behaves in other calls, and what is worth a note."""

from __future__ import annotations

import torch

from manual_bp.verify.agreement import same
from manual_bp.verify.case import Case
from manual_bp.verify.experiment import Experiment
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
from manual_bp.verify.widths import narrower


def measured(record: Record, experiment: Experiment) -> None:
    """Note what could be measured less exactly than usual, and why."""
    notes, names = record.notes, experiment.case.subject.names
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
            "and along random directions"
        )
    for i, truth in experiment.truths.items():
        count = int(truth.rough.sum())
        if count:
            notes.append(
                f"{names[i]}: the function is not differentiable (a kink, a tie, a jump) at "
                f"{count} of {truth.rough.numel()} elements; any gradient but NaN is accepted there"
            )
    noise = experiment.differences.relative_noise
    if noise > 1e-11:
        notes.append(
            f"the function's values carry a rounding of {noise:.0e}: tolerances are wider "
            "accordingly"
        )


def beside_a_fault(record: Record, experiment: Experiment) -> str:
    """After a wrong gradient: what compares the function with itself. Returns the rest."""
    probe, rest = record.probe, "larger batches, precision, double backward, jvp, vmap"
    # a crash, or another gradient in each call, has no numbers to compare
    follows = {"crash", "wrong-shape", "not-linear-in-grad-output", "mutates-grad-output"}
    if record.checks.get("gradient") != "finding" or any(
        f.kind in follows for f in record.findings
    ):
        return f"requires_grad subsets, second backward, layouts, batches, {rest}"
    probe("requires_grad subsets", lambda: needs.needs(experiment))
    if not record.found("mutates-saved"):
        probe("second backward", lambda: repeat.second_backward(experiment))
    probe("layouts", lambda: layout.layout(experiment))
    sets = [] if "batch-sizes" in record.skip else batch.batched(experiment.case)
    if sets:
        case = experiment.case
        probe("batch of 0", lambda: batch.each(sets, lambda p: batch.empty_batch(case, p)))
    return rest


def behaviour(record: Record, experiment: Experiment, given: Case, backend: str | None) -> None:
    """All probes, from causes to consequences."""
    case, probe = experiment.case, record.probe
    _marked(record, experiment)
    probe("parts of the output", lambda: partial.partial_outputs(experiment))
    recomputes = case.fills_grad
    if not recomputes:
        probe("requires_grad subsets", lambda: needs.needs(experiment))
    probe("buffers", lambda: repeat.buffers(experiment))
    probe("second backward", lambda: repeat.second_backward(experiment))
    if not probe("interleaved calls", lambda: repeat.interleaved(experiment)):
        record.notes.append(
            "not looked at, because state is kept outside ctx: what follows from it"
        )
        return
    probe("layouts", lambda: layout.layout(experiment))
    sets = [] if "batch-sizes" in record.skip else batch.batched(case)
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
    if low is not None and not record.found("precision"):
        name = str(low.dtype).removeprefix("torch.")
        probe(name, lambda: precision.against_double(low, case, experiment), "precision")
    if given.dtype == torch.float32:
        probe("autocast", lambda: autocast.autocast(given))
    why = "torch's reentrant checkpoint" if recomputes else ""
    why = why or ("right for symmetric changes" if experiment.symmetric else "")
    why = why or ("it iterates to a tolerance" if experiment.iterating else "")
    if why:
        record.checks["double backward"] = f"not measured ({why})"
    else:
        probe("double backward", lambda: second_order.second_order(experiment))
    # a jvp is measured by the values, and the reference's gradient is not theirs
    if experiment.by_reference:
        record.checks["jvp"] = "not looked at (the gradient is not the values' own)"
    else:
        probe("jvp", lambda: transforms.forward_mode(experiment))
    probe("vmap", lambda: transforms.vmap(experiment))
    probe("rules of the Functions inside", lambda: inside.rules(experiment))
    if backend:
        probe("compile", lambda: transforms.compiled(experiment, backend))


def _marked(record: Record, experiment: Experiment) -> None:
    """Note each floating output that autograd does not follow although it depends on x."""
    case = experiment.case
    for number, output in enumerate(case.values()):
        if number in case.differentiable or not output.is_floating_point():
            continue
        moved = [a * (1 + 1e-4) if i in case.checked else a for i, a in enumerate(case.args)]
        if not same(output, case.values(moved)[number]):
            record.notes.append(
                f"output {number} depends on the inputs and requires no gradient: whatever is "
                "built on it gets none. If that is not meant, do not mark it non-differentiable"
            )
