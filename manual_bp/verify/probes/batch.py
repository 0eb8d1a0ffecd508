"""Batches of other sizes: none, one row, and more rows than were given.

The arguments that carry the batch are found by doubling: a set is right if the function accepts its
arguments doubled.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from manual_bp.verify import size
from manual_bp.verify.agreement import close
from manual_bp.verify.case import Case, flat
from manual_bp.verify.crash import CrashError
from manual_bp.verify.experiment import Experiment
from manual_bp.verify.probes.result import Result
from manual_bp.verify.steps import length, some, unit
from manual_bp.verify.truth import Differences

EVALUATIONS = 2000
SIZES = (1, 37, 130)  # odd, and past the block sizes 32, 64 and 128
SETS = 4  # of arguments that are tried as the batch
LARGE = 40_000  # elements of a larger batch, at most


def batched(case: Case) -> list[tuple[int, ...]]:
    """Sets of arguments that may carry the batch in dimension 0, the smallest first.

    What only the backward reads, an index or a mask, is in a larger set alone.
    """
    sized = [
        i
        for i, a in enumerate(case.args)
        if isinstance(a, Tensor) and a.dim() > 0 and a.shape[0] > 0 and a.layout == torch.strided
    ]
    if not sized:
        return []
    first = sized[0]
    rows = case.args[first].shape[0]
    others = [i for i in sized[1:] if case.args[i].shape[0] == rows][:5]
    found = []
    for count in range(len(others) + 1):
        for chosen in itertools.combinations(others, count):
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
                found.append(positions)
    return found[:SETS]


def each(sets: list[tuple[int, ...]], probe: Callable[[tuple[int, ...]], Result]) -> Result:
    """The first set for which nothing is found, or the result for the smallest."""
    results = []
    for positions in sets:
        results.append(probe(positions))
        if not results[-1].findings:
            return results[-1]
    return results[0]


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


def batch_of(experiment: Experiment, positions: tuple[int, ...], rows: int) -> Result:
    """Compare the gradients at another size with differences; the forward may refuse the size.

    A few rows are measured at single elements; more rows along random directions.
    """
    case, rtol = experiment.case, experiment.rtol
    result = Result()
    names = case.subject.names
    generator = torch.Generator().manual_seed(3)
    args = resized(case, positions, rows)
    points = any(
        isinstance(a, Tensor)
        and not (a.is_floating_point() or a.is_complex() or a.dtype == torch.bool)
        and a.dim() > 0
        and a.numel()
        and 1 <= int(a.max()) < _rows(case)
        for a in case.args
    )
    if points and rows > 1:
        return Result("not measured (an index may point into the batch)")
    if rows > 1:
        if size.elements(args, case.shapes) > LARGE:
            return Result("not measured (too large)")
        args = [_varied(a, generator) if i in case.checked else a for i, a in enumerate(args)]
    one = Case(case.subject, args, case.checked, case.seed)
    try:
        one.prepare()
        one.random = case.random
        cotangent = unit(sum(s.numel() for s in one.shapes), generator)
        differences = Differences(one, cotangent.unsqueeze(0))
    except CrashError as crash:
        result.notes += [f"the forward takes no batch of size 1: {crash.line}"] if rows == 1 else []
        result.status = "refused"
        return result
    noise = experiment.differences.relative_noise
    differences.noise = torch.maximum(differences.noise, noise * differences.magnitude)
    differences.measure_noise(one.checked, generator)
    if not bool(torch.isfinite(differences.start).all()):
        result.status = "not finite"
        return result
    try:
        found = one.gradients(cotangent)
    except CrashError as crash:
        if points and isinstance(crash.error, IndexError | RuntimeError):
            return Result("not measured (an index may point into the batch)")
        text = f"for a batch of size {rows} the {crash.stage} raises {crash.line}"
        result.add("crash", "grad_output", text)
        return result
    for i in one.checked:
        n = args[i].numel()
        gradient = found[i]
        length_ = length(args[i])
        own = torch.zeros(length_).double() if gradient is None else flat([gradient])
        if rows > 1:
            off = _along(differences, i, own, max(rtol, 1e-5), generator)
        else:
            off = _at(differences, i, own, n, max(rtol, 1e-5), len(one.checked))
        if off > 0:
            what = (
                f"for a batch of size {rows} the gradient is wrong (off by {off:.3g}); "
                f"for {_rows(case)} rows it is right"
            )
            result.add("wrong-values", names[i], what)
    return result


def _at(
    differences: Differences, i: int, own: Tensor, n: int, rtol: float, arguments: int
) -> float:
    """How far off single elements are, or 0."""
    truth = differences.truth(i, some(n, 24 if n < 1000 else 8), EVALUATIONS // arguments)
    value = torch.where(truth.known, truth.value[0], torch.nan)
    if truth.value.shape[1] != own.numel() or close(own, value, truth.error[0], rtol):
        return 0.0
    return float((own - value).abs().nan_to_num().max())


def _along(
    differences: Differences, i: int, own: Tensor, rtol: float, generator: torch.Generator
) -> float:
    """How far off the slope is along random directions, or 0."""
    for _ in range(2):
        v = unit(own.numel(), generator)
        size_ = float((own * v).square().sum().sqrt())
        for h in (1e-5, 1e-6, 1e-4):
            try:
                slope, error = differences.stencil(i, v, h)
            except CrashError:
                continue
            around = float((8 * differences.noise / h).max())
            scale = max(size_, float(slope.abs().max()))
            if float(error.max()) > 1e-4 * scale + around:
                continue  # a kink on the way
            off = float((own @ v - slope[0]).abs())
            if not off <= max(rtol, 1e-4) * scale + 3 * (float(error.max()) + around):
                return off
            break
    return 0.0


def _varied(a: Tensor, generator: torch.Generator) -> Tensor:
    """Repeated rows made different: equal ones would be ties."""
    factor = 1 + 0.1 * torch.rand(a.shape, generator=generator, dtype=torch.float64)
    return a * factor.to(a.device, a.real.dtype)


def _rows(case: Case) -> int:
    return next(int(a.shape[0]) for a in case.args if isinstance(a, Tensor) and a.dim())


def _named_in(line: str, case: Case) -> str | None:
    """Autograd's messages name a gradient by its index."""
    for i in case.checked:
        if f"index {i} " in line:
            return case.subject.names[i]
    return None
