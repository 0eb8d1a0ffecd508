"""Kinds of Functions that public projects showed, one test a kind."""

from __future__ import annotations

import torch
from torch.autograd import Function

from manual_bp.verify import check


class Freed(Function):
    """x w. The memory of x is given back in the forward and filled again in the backward."""

    @staticmethod
    def forward(ctx, x, w):
        ctx.x, ctx.w = x, w
        with torch.no_grad():
            ctx.out = (x * w).detach_()
        x.untyped_storage().resize_(0)
        return ctx.out

    @staticmethod
    def backward(ctx, g):
        if not torch.autograd._is_checkpoint_valid():
            raise RuntimeError("use .backward()")
        x, w = (ctx.out / ctx.w).detach().requires_grad_(), ctx.w
        with torch.enable_grad():
            out = x * w
        return torch.autograd.grad(out, (x, w), g)


def test_an_input_whose_memory_is_given_back():
    w = torch.full((4, 3), 2.0).requires_grad_()
    report = check(Freed, (torch.randn(4, 3, requires_grad=True), w))
    assert [(f.kind, f.tensor) for f in report.findings] == [("mutates-input", "x")], report
    assert [row.verdict for row in report.rows] == ["ok", "ok"]


class OfDtype(Function):
    """sin x, for a caller who names the dtype."""

    @staticmethod
    def forward(ctx, x, dtype):
        if x.dtype != dtype:
            raise TypeError(f"{x.dtype} is not {dtype}")
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[0].cos(), None


def test_a_dtype_among_the_arguments_follows_the_tensors():
    report = check(
        OfDtype, (torch.randn(3), torch.float32), skip=("batch-sizes", "double-backward")
    )
    assert report.ok, report
    assert report.notes == ["measured on float64 copies of the float32 inputs"]


def test_what_is_as_it_was_is_not_put_back(monkeypatch):
    # a program with a profile.py of its own beside it: torch's compiler cannot be imported there
    monkeypatch.delattr(torch, "use_deterministic_algorithms")
    assert check(torch.sin, torch.zeros(1), skip=("batch-sizes", "double-backward")).ok
