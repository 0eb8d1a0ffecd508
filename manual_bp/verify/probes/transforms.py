"""Forward mode, vmap and torch.compile: the same function seen by PyTorch's transforms."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from manual_bp.verify import randomness
from manual_bp.verify.agreement import alike, same
from manual_bp.verify.case import Case, flat, real, tensors
from manual_bp.verify.crash import CrashError, stage
from manual_bp.verify.experiment import Experiment
from manual_bp.verify.probes.result import Result
from manual_bp.verify.steps import slope, spread, unit

COPIES = 3


def forward_mode(experiment: Experiment) -> Result:
    """Compare the jvp, for tangents on each argument and on all, with differences."""
    case, result = experiment.case, Result()
    offered = case.subject.offers_jvp
    if case.subject.function_class is not None and not offered:
        return Result("not offered")
    if any(case.args[i].is_complex() for i in case.checked):
        return Result("not looked at (complex)")
    directions = {
        i: (unit(case.args[i].numel(), experiment.generator) * spread(case.args[i])).reshape(
            case.args[i].shape
        )
        for i in case.checked
    }
    sets = [(i,) for i in case.checked] + ([tuple(case.checked)] if len(case.checked) > 1 else [])
    truths = experiment.truths  # none, if only the rules are looked at
    smooth = {i for i in case.checked if i not in truths or bool(truths[i].known.any())}
    for subset in sets:
        who = ", ".join(case.subject.names[i] for i in subset)
        if not smooth.issuperset(subset):  # nothing was found to be differentiable
            continue
        try:
            own, carried, written = _jvp(case, {i: directions[i] for i in subset})
        except CrashError as crash:
            if not offered or isinstance(crash.error, NotImplementedError):
                return Result("not offered")
            result.add("crash", who, f"the jvp with a tangent on {who} raises {crash.line}")
            continue

        for i in written:
            text = "the jvp writes into the tangent it receives: the caller's own tangent changes"
            result.add("jvp-disagrees", case.subject.names[i], text)

        def along(t: float, subset: tuple[int, ...] = subset) -> Tensor:
            moved = [
                a + (t * directions[i]).to(a) if i in subset else a for i, a in enumerate(case.args)
            ]
            return case.vector(moved)

        value, error = slope(along, experiment.differences.relative_noise)
        if not offered and not carried and bool((value.abs() > 10 * error).any()):
            # an operator of torch.library drops the tangent silently: torch offers it no rule
            return Result("not offered")
        if own.shape != value.shape:
            result.add(
                "jvp-disagrees",
                who,
                f"the jvp with a tangent on {who} has another shape than the output",
            )
            continue
        finite = torch.isfinite(value) & torch.isfinite(error)
        scale = float(value[finite].abs().max()) if bool(finite.any()) else 0.0
        usable = finite & (error <= 1e-3 * scale + 1e-12)
        off = (own - value).abs()
        bad = usable & ~(off <= max(1e-5, experiment.rtol) * scale + 10 * error)
        if bool(bad.any()):
            k = int(torch.where(bad, off.nan_to_num(torch.inf), -1.0).argmax())
            below = float(value[usable] @ value[usable])
            factor = float(own[usable] @ value[usable]) / below if below else 0.0
            constant = bool(((own - factor * value)[usable].abs() <= 1e-4 * scale).all())
            hint = f": {factor:.4g} times it" if constant else ""
            result.add(
                "jvp-disagrees",
                who,
                f"the jvp with a tangent on {who} is not the directional derivative{hint}. At "
                f"output element {k}: "
                f"jvp {float(own[k]):.6g}, numeric {float(value[k]):.6g}",
            )
    return result


def _jvp(case: Case, tangents: dict[int, Tensor]) -> tuple[Tensor, bool, list[int]]:
    """The directional derivative of the outputs, flat, and how it came about.

    Also: whether any output carries a tangent, and the arguments whose tangent was written to.
    """
    with stage("jvp"), torch.no_grad(), forward_ad.dual_level():
        passed = case.copies()
        sent = {i: tangent.to(passed[i], copy=True) for i, tangent in tangents.items()}
        before = {i: tangent.clone() for i, tangent in sent.items()}
        for i, tangent in sent.items():
            passed[i] = forward_ad.make_dual(passed[i], tangent)
        if case.random:
            randomness.reset(case.seed)
        outputs = tensors(case.subject.call(*passed))
        in_place = any(o is a for o in outputs for a in passed)  # then the tangent is written to
        written = [i for i, t in sent.items() if not in_place and not same(t, before[i])]
        parts, carried = [], False
        for k in case.differentiable:
            primal, tangent = forward_ad.unpack_dual(outputs[k])
            carried = carried or tangent is not None
            part = torch.zeros_like(primal) if tangent is None else tangent
            parts.append(real(part))
        return flat(parts), carried, written


def vmap(experiment: Experiment) -> Result:
    """Compare vmap over dimension 0 of all arguments, and of each alone, with a loop.

    Values and gradients must be equal.
    """
    case = experiment.case
    offered = case.subject.offers_vmap
    if case.subject.function_class is not None and not offered:
        return Result("not offered")
    result = Result()
    if case.random:
        return Result("not looked at (random)")
    generator = torch.Generator().manual_seed(5)
    stacked: dict[int, Tensor] = {}
    for i, a in enumerate(case.args):
        if isinstance(a, Tensor) and a.layout == torch.strided:
            copies = [a] * COPIES
            if i in case.checked:
                noise = [
                    torch.rand(a.shape, generator=generator, dtype=torch.float64).to(a.device)
                    for _ in copies
                ]
                copies = [
                    c * (1 + 0.1 * n.to(a.real.dtype)) for c, n in zip(copies, noise, strict=True)
                ]
            stacked[i] = torch.stack(copies)
    sets = [tuple(stacked)] + [(i,) for i in case.checked if len(stacked) > 1]
    for subset in sets:
        for dim in (0, -1) if subset == sets[0] else (0,):
            try:
                _one_vmap(experiment, stacked, subset, dim, result)
            except CrashError as crash:
                if not offered:  # a plain function with operations that vmap refuses
                    return Result("not offered")
                who = ", ".join(case.subject.names[i] for i in subset)
                result.add("vmap-wrong", who, f"{crash.stage} raises {crash.line}")
    return result


def _one_vmap(
    experiment: Experiment,
    stacked: dict[int, Tensor],
    subset: tuple[int, ...],
    dim: int,
    result: Result,
) -> None:
    case, rtol = experiment.case, max(1e-6, experiment.rtol)
    names = case.subject.names
    where = f"vmap over dimension {dim} of {', '.join(names[i] for i in subset)}"
    batch = {i: stacked[i].movedim(0, dim).contiguous() for i in subset}
    checked = [i for i in case.checked if i in subset]
    loop = [
        case.graph(
            [stacked[i][k] if i in subset else a for i, a in enumerate(case.args)], needs=checked
        )
        for k in range(COPIES)
    ]
    generator = torch.Generator().manual_seed(6)
    cotangents = [
        [unit(s.numel(), generator).reshape(s) for s in case.shapes] for _ in range(COPIES)
    ]
    expected = [graph.gradients(c) for graph, c in zip(loop, cotangents, strict=True)]
    leaves = {i: batch[i].detach().requires_grad_() for i in checked}

    def call(*values: Tensor) -> tuple[Tensor, ...]:
        inside = iter(values)
        outputs = tensors(
            case.subject.call(
                *[next(inside) if i in subset else a for i, a in enumerate(case.args)]
            )
        )
        return tuple(outputs[k] for k in case.differentiable)

    with stage(where), torch.enable_grad():
        mapped = torch.vmap(call, in_dims=dim)(*(leaves.get(i, batch[i]).clone() for i in subset))
    outputs = [real(o) for o in mapped]
    for k, number in itertools.product(range(COPIES), range(len(outputs))):
        if not alike(outputs[number][k], loop[k].outputs[number], rtol):
            result.add(
                "vmap-wrong", f"output {number}", f"{where} gives another output than a loop"
            )
    together = [
        torch.stack([c[number] for c in cotangents]).to(o) for number, o in enumerate(outputs)
    ]
    usable = [(o, g) for o, g in zip(outputs, together, strict=True) if o.requires_grad]
    with stage(f"the backward of {where}"):
        found = torch.autograd.grad(
            [o for o, _ in usable], list(leaves.values()), [g for _, g in usable], allow_unused=True
        )
    for i, gradient in zip(leaves, found, strict=True):
        for k in range(COPIES):
            own = None if gradient is None else gradient.movedim(dim, 0)[k]
            own = None if own is None else real(own)
            if not alike(own, expected[k][i], rtol, experiment.floor(i)):
                result.add(
                    "vmap-wrong",
                    names[i],
                    f"{where} gives another gradient of {names[i]} than a loop",
                )


def compiled(experiment: Experiment, backend: str) -> Result:
    """Compare values and gradients under torch.compile(fullgraph=True) with the plain call."""
    case, result = experiment.case, Result()
    if case.random:
        return Result("not looked at (random)")
    subject = case.subject
    torch.compiler.reset()

    def call(*values: Any) -> Any:
        return subject.call(*values)

    faster = torch.compile(call, fullgraph=True, backend=backend)
    graph = case.graph()
    expected = graph.gradients(case.split(experiment.cotangents[0]))
    passed = case.copies()
    leaves = {i: passed[i].detach().requires_grad_() for i in case.checked}
    passed = [leaves[i].clone() if i in leaves else a for i, a in enumerate(passed)]
    try:
        with stage("torch.compile(fullgraph=True)"), torch.enable_grad():
            outputs = tensors(faster(*passed))
            outputs = [real(o) for o in (outputs[k] for k in case.differentiable)]
            parts = zip(outputs, case.split(experiment.cotangents[0]), strict=True)
            pairs = [(o, g.to(o)) for o, g in parts if o.requires_grad]
            found = torch.autograd.grad(
                [o for o, _ in pairs],
                list(leaves.values()),
                [g for _, g in pairs],
                allow_unused=True,
            )
    except CrashError as crash:
        result.add("compile-wrong", "forward or backward", f"{crash.stage} raises {crash.line}")
        return result
    if not all(
        alike(a, b, max(1e-6, experiment.rtol)) for a, b in zip(outputs, graph.outputs, strict=True)
    ):
        result.add(
            "compile-wrong", "output", "compiled with fullgraph=True, it gives another output"
        )
    for i, gradient in zip(leaves, found, strict=True):
        own = None if gradient is None else real(gradient)
        if not alike(own, expected[i], max(1e-6, experiment.rtol), experiment.floor(i)):
            name = subject.names[i]
            result.add(
                "compile-wrong",
                name,
                f"compiled with fullgraph=True, it gives another gradient of {name}",
            )
    return result
