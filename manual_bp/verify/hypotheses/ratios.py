"""What an elementwise ratio gradient / derivative is: a tensor, a statistic, a grouped index."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from manual_bp.verify.experiment import Experiment
from manual_bp.verify.hypotheses.outputs import rows, span

STATISTICS: dict[str, Callable[[Tensor, tuple[int, ...]], Tensor]] = {
    "norm": lambda x, dims: x.square().sum(dims, keepdim=True).sqrt(),
    "sum": lambda x, dims: x.sum(dims, keepdim=True),
    "standard deviation": lambda x, dims: x.var(dims, correction=0, keepdim=True).sqrt(),
    "mean square": lambda x, dims: x.square().mean(dims, keepdim=True).sqrt(),
    "largest element": lambda x, dims: x.amax(dims, keepdim=True),
    "sum of sizes": lambda x, dims: x.abs().sum(dims, keepdim=True),
}


def meaning_of(experiment: Experiment, position: int, ratio: Tensor, solid: Tensor) -> str | None:
    """The ratio in words, where it is known.

    Args:
        experiment: its arguments and outputs are what a ratio may be made of.
        position: of the argument whose gradient it is.
        ratio: gradient / derivative, in the argument's shape.
        solid: where it is known.
    """
    return (
        _tensor(experiment, ratio, solid)
        or _group(experiment, ratio, solid)
        or _statistic(experiment, position, ratio, solid)
    )


def _named(experiment: Experiment) -> Iterator[tuple[str, Tensor]]:
    case = experiment.case
    for name, a in zip(case.subject.names, case.args, strict=False):
        if isinstance(a, Tensor) and a.is_floating_point() and a.layout == torch.strided:
            yield name, a.detach().to("cpu", torch.float64)
    for number, o in enumerate(case.values()):
        if o.is_floating_point():
            yield f"output {number}", o.detach().to("cpu", torch.float64)


def _is(ratio: Tensor, candidate: Tensor, solid: Tensor) -> bool:
    known = candidate[solid]
    trivial = math.isclose(float((known - 1).abs().max()), 0, abs_tol=1e-9)
    return not trivial and bool(torch.allclose(ratio[solid], known, rtol=1e-4, atol=1e-9))


def _tensor(experiment: Experiment, ratio: Tensor, solid: Tensor) -> str | None:
    """An argument or output that is the ratio or its inverse."""
    for name, tensor in _named(experiment):
        try:
            t = tensor.expand(ratio.shape)
        except RuntimeError:
            continue
        for power, text in ((1.0, "multiplied once too often"), (-1.0, "left out")):
            if _is(ratio, t**power, solid):
                return f"the factor {name} is {text}"
    return None


def _group(experiment: Experiment, ratio: Tensor, solid: Tensor) -> str | None:
    """w[c % G] for w[c // n], or the reverse, with c an index along one dimension."""
    for name, t in _named(experiment):
        groups = t.numel()
        if t.dim() != 1 or groups < 2:
            continue
        for d, channels in enumerate(ratio.shape):
            n = channels // groups
            if n < 2 or channels % groups:
                continue
            c = torch.arange(channels)
            shape = [1] * d + [channels] + [1] * (ratio.dim() - d - 1)
            block, strided = t[c // n].reshape(shape), t[c % groups].reshape(shape)
            for wrong, right, said in (
                (strided, block, f"{name}[c % {groups}] for {name}[c // {n}]"),
                (block, strided, f"{name}[c // {n}] for {name}[c % {groups}]"),
            ):
                for power, place in ((1.0, ""), (-1.0, " in a denominator")):
                    if _is(ratio, ((wrong / right) ** power).expand(ratio.shape), solid):
                        return f"the grouped index {said}{place}, c along dimension {d}"
    return None


def _statistic(experiment: Experiment, position: int, ratio: Tensor, solid: Tensor) -> str | None:
    """A statistic of the argument over one dimension where another one is meant."""
    x = experiment.case.args[position]
    if x.is_complex() or not 2 <= x.dim() <= 4 or x.shape != ratio.shape:
        return None
    x = x.detach().to("cpu", torch.float64)
    sets = [(d,) for d in range(x.dim())] + [tuple(range(x.dim()))]
    for what, statistic in STATISTICS.items():
        over = {dims: statistic(x, dims) for dims in sets}
        for a, b in itertools.permutations(sets, 2):
            for power in (1.0, 2.0, 3.0):
                if _is(ratio, ((over[a] / over[b]) ** power).expand(ratio.shape), solid):
                    # whether it multiplies or divides, the ratio does not say
                    spans = _spans(experiment, position)
                    right, wrong = (a, b) if set(a) <= spans or not set(b) <= spans else (b, a)
                    taken, meant = (
                        f"dimension {s[0]}" if len(s) == 1 else "all dimensions"
                        for s in (wrong, right)
                    )
                    return (
                        f"the {what} of {experiment.case.subject.names[position]} is taken over "
                        f"{taken} where {meant} is meant"
                    )
    return None


def _spans(experiment: Experiment, position: int) -> set[int]:
    """The dimensions along which an output element depends on the argument."""
    measured = rows(experiment, position)
    if measured is None:
        return set()
    true, _ = measured.supports()
    return set(span([mask.reshape(experiment.shape(position)) for mask in true]))
