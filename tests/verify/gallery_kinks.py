"""Points without a derivative: any slope between the two sides' is right there, NaN is not."""

from __future__ import annotations

import torch
from gallery import correct, faulty, make
from torch.autograd import Function
from torch.autograd.function import once_differentiable


def at(*values):
    return lambda g, d: torch.tensor(values, dtype=d)


def saves(f):
    return lambda ctx, x: (ctx.save_for_backward(x), f(x))[1]


NORM, ABS = saves(torch.norm), saves(torch.abs)
faulty("wrong-values", at(0.0, 0.0, 0.0))(
    make("NormOverZero", NORM, lambda ctx, g: g * ctx.saved_tensors[0] / 0.0)
)
faulty("wrong-values", at(0.0, 1.0, -2.0))(
    make("AbsByDivision", ABS, lambda ctx, g: g * ctx.saved_tensors[0] / ctx.saved_tensors[0].abs())
)
faulty("wrong-values", at(0.0, 1.0, 2.0))(lambda x: (x * x).sqrt())
correct(at(0.0, 1.0, -2.0))(make("AbsBySign", ABS, lambda ctx, g: g * ctx.saved_tensors[0].sign()))
correct(at(0.0, 1.0, 2.0))(
    make("RootInfinite", saves(torch.sqrt), lambda ctx, g: g / 2 / ctx.saved_tensors[0].sqrt())
)

ROWS = (at([1.0, 2.0], [0.5, -1.0], [3.0, 3.0]), at([1.0, 2.0], [2.0, 1.0], [0.0, 1.0]))


@faulty("wrong-values", *ROWS)
class Distance(Function):
    """Two rows are equal."""

    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        return (a - b).square().sum(-1).sqrt()

    @staticmethod
    def backward(ctx, g):
        a, b = ctx.saved_tensors
        u = (g / (a - b).square().sum(-1).sqrt()).unsqueeze(-1) * (a - b)
        return u, -u


@correct(*ROWS)
class DistanceGuarded(Distance):
    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        return tuple(d.nan_to_num(0.0) for d in Distance.backward(ctx, g))
