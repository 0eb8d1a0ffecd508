"""Batches of size 0 and 1.

The arguments that carry the batch are found by doubling: a set is right if the function accepts its
arguments doubled.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from manual_bp.verify.agreement import close
from manual_bp.verify.case import Case, CrashError
from manual_bp.verify.probes.result import Result
from manual_bp.verify.truth import Differences, some, unit

EVALUATIONS = 2000


def batched(case: Case) -> tuple[int, ...] | None:
    """The positions of the arguments that carry the batch in dimension 0, or None."""
    sized = [
        i
        for i, a in enumerate(case.args)
        if isinstance(a, Tensor) and a.dim() > 0 and a.shape[0] > 0
    ]
    if not sized:
        return None
    first = sized[0]
    rows = case.args[first].shape[0]
    others = [i for i in sized[1:] if case.args[i].shape[0] == rows][:5]
    for size in range(len(others) + 1):
        for chosen in itertools.combinations(others, size):
            positions = (first, *chosen)
            try:
                doubled = case.values(resized(case, positions, 2 * rows))
                original = case.values()
            except CrashError:
                continue
            if len(doubled) == len(original) and all(
                d.dim() == o.dim() and (d.shape == o.shape or d.shape[0] == 2 * o.shape[0])
                for d, o in zip(doubled, original, strict=True)
            ):
                return positions
    return None


def resized(case: Case, positions: Sequence[int], rows: int) -> list[Any]:
    """The arguments with the first dimension of those in `positions` repeated or cut to `rows`."""
    args = list(case.args)
    for i in positions:
        a = args[i]
        args[i] = a.repeat(rows // a.shape[0] + 1, *[1] * (a.dim() - 1))[:rows].clone()
    return args


def empty_batch(case: Case, positions: tuple[int, ...]) -> Result:
    """A forward that takes size 0 needs a backward that does; empty outputs give gradient 0."""
    result = Result()
    args = resized(case, positions, 0)
    names = case.subject.names
    try:
        graph = case.graph(args)
    except CrashError as crash:
        result.status = "refused"
        result.notes.append(f"the forward takes no empty batch: {crash.line}")
        return result
    try:
        found = graph.gradients([torch.ones(o.shape).double() for o in graph.outputs])
    except CrashError as crash:
        if any(bool(torch.isnan(o).any()) for o in graph.outputs):
            # 0/0 already in the forward, as in a mean over nothing: neither the value nor its
            # gradient has a meaning
            result.status = "not defined"
            result.notes.append(
                f"for an empty batch the forward is NaN and the backward raises {crash.line}"
            )
            return result
        what = f"for a batch of size 0 the forward works and the backward raises {crash.line}"
        result.add("empty-batch", _named_in(crash.line, case) or "grad_output", what)
        return result
    nothing = all(o.numel() == 0 for o in graph.outputs)
    for i, gradient in found.items():
        if (
            nothing
            and gradient is not None
            and gradient.numel()
            and not bool((gradient == 0).all())
        ):
            result.add(
                "empty-batch",
                names[i],
                f"for a batch of size 0 the gradient of {names[i]} is not 0",
            )
    return result


def batch_of_one(case: Case, positions: tuple[int, ...], rtol: float, noise: float) -> Result:
    """Compare the gradients at size 1 with differences; a forward that raises at 1 may do so."""
    result = Result()
    args = resized(case, positions, 1)
    names = case.subject.names
    one = Case(case.subject, args, case.checked, case.seed)
    try:
        one.prepare()
        one.random = case.random
        generator = torch.Generator().manual_seed(3)
        cotangent = unit(sum(s.numel() for s in one.shapes), generator)
        differences = Differences(one, cotangent.unsqueeze(0))
    except CrashError as crash:
        result.notes.append(f"the forward takes no batch of size 1: {crash.line}")
        result.status = "refused"
        return result
    differences.noise = torch.maximum(differences.noise, noise * differences.magnitude)
    differences.measure_noise(one.checked, generator)
    if not bool(torch.isfinite(differences.start).all()):
        result.status = "not finite"
        return result
    try:
        found = one.gradients(cotangent)
    except CrashError as crash:
        result.add(
            "crash", "grad_output", f"for a batch of size 1 the {crash.stage} raises {crash.line}"
        )
        return result
    for i in one.checked:
        n = args[i].numel()
        truth = differences.truth(
            i, some(n, 24 if n < 1000 else 8), EVALUATIONS // len(one.checked)
        )
        gradient = found[i]
        own = (
            torch.zeros(truth.value.shape[1]).double()
            if gradient is None
            else gradient.detach().reshape(-1).cpu()
        )
        value = torch.where(truth.known, truth.value[0], torch.nan)
        if truth.value.shape[1] == own.numel() and not close(
            own.double(), value, truth.error[0], max(rtol, 1e-5)
        ):
            off = float((own - value).abs().nan_to_num().max())
            what = (
                f"for a batch of size 1 the gradient is wrong (off by {off:.3g}); "
                f"for {_rows(case)} rows it is right"
            )
            result.add("wrong-values", names[i], what)
    return result


def _rows(case: Case) -> int:
    return next(int(a.shape[0]) for a in case.args if isinstance(a, Tensor) and a.dim())


def _named_in(line: str, case: Case) -> str | None:
    """Autograd's messages name a gradient by its index."""
    for i in case.checked:
        if f"index {i} " in line:
            return case.subject.names[i]
    return None
