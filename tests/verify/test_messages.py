"""The words: what a finding says is the cause, where several faults have the same kind."""

from __future__ import annotations

import torch
from gallery import make
from torch.autograd import Function

from manual_bp.verify import check


def saving(f):
    return lambda ctx, *args: (ctx.save_for_backward(*args), f(*args))[1]


def first(function, *inputs):
    report = check(function, inputs)
    return report.findings[0], report


def test_an_assignment_where_contributions_add_up():
    def assigns(ctx, g):
        index, table = ctx.saved_tensors
        out = torch.zeros_like(table)
        out[index] = g
        return None, out

    embedding = make("Embedding", saving(lambda index, table: table[index]), assigns)
    finding, _ = first(embedding, torch.tensor([1, 2, 1, 0, 2]), torch.randn(5, 3))
    assert "what comes from 6 of 15 output elements is lost" in finding.detail


def test_counts_that_are_left_out():
    rows = torch.tensor([0, 1, 1, 2, 2, 2])

    def mean(x):
        count = torch.bincount(rows).to(x)
        return x.new_zeros(3, x.shape[1]).index_add(0, rows, x) / count.unsqueeze(-1)

    finding, _ = first(make("ScatterMean", saving(mean), lambda ctx, g: g[rows]), torch.randn(6, 3))
    assert "a count that is left out" in finding.detail


def test_another_code_path_for_float32_is_not_called_rounding():
    def slope(ctx, g):
        (x,) = ctx.saved_tensors
        s = x.sigmoid()
        sign = -1 if x.dtype == torch.float32 else 1
        return g * s * (1 + sign * x * (1 - s))

    finding, _ = first(make("Silu", saving(lambda x: x * x.sigmoid()), slope), torch.randn(4, 5))
    assert finding.kind == "precision"
    assert "look for another code path for float32" in finding.detail


def test_a_hand_written_second_backward_is_named():
    class CubeBackward(Function):
        @staticmethod
        def forward(ctx, g, x):
            ctx.save_for_backward(g, x)
            return 3 * g * x * x

        @staticmethod
        def backward(ctx, h):
            g, x = ctx.saved_tensors
            return 3 * h * x * x, h * g * 5 * x

    backward = lambda ctx, g: CubeBackward.apply(g, ctx.saved_tensors[0])  # noqa: E731
    finding, _ = first(make("Cube", saving(lambda x: x**3), backward), torch.randn(4, 3))
    assert finding.kind == "double-backward-wrong"
    assert "calls a Function of its own" in finding.detail


def test_state_outside_ctx_is_reported_once():
    class Cached(Function):
        @staticmethod
        def forward(ctx, x):
            Cached.kept = x.detach().clone()
            return x**3

        @staticmethod
        def backward(ctx, g):
            return g * 3 * Cached.kept**2

    _, report = first(Cached, torch.randn(4, 3))
    assert [f.kind for f in report.findings] == ["nondeterministic"]


def test_a_factor_is_a_symbol_and_what_it_is():
    total = make("Sum", saving(lambda x: x.sum(0)), lambda ctx, g: g.expand(5, 3) / 10)
    finding, _ = first(total, torch.randn(5, 3))
    assert (
        "1/(2·m): a factor 2 is missing, and a division by m too much, where m = 5 is the first"
        in finding.detail
    )


def test_no_sentence_ends_twice():
    def frozen(ctx, g):
        return ctx.saved_tensors[0].cos()

    finding, _ = first(make("Frozen", saving(torch.sin), frozen), torch.randn(4, 3))
    assert finding.kind == "ignores-grad-output"
    assert ".." not in finding.detail


def test_tensors_kept_on_ctx_are_a_note():
    def keeps(ctx, x):
        ctx.x, ctx.mask, ctx.y = x, x > 0, x.exp()
        return ctx.y

    report = check(make("Keeps", keeps, lambda ctx, g: g * ctx.x.exp()), (torch.randn(4, 3),))
    assert report.ok, report
    notes = " ".join(report.notes)
    assert "Keeps keeps an input as ctx.x" in notes
    assert "Keeps keeps an output as ctx.y" in notes
    assert "ctx.mask" not in notes
