"""What a check costs is bounded: in calls, in elements, whatever the size of what is checked."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from manual_bp.verify import check, many
from manual_bp.verify.case import Case


@pytest.fixture
def calls(monkeypatch):
    """How many forwards were run, and the most elements that one was given."""
    seen = {"count": 0, "elements": 0}
    plain = Case.copies

    def copies(self, args=None):
        given = self.args if args is None else args
        seen["count"] += 1
        inputs = [a for a in given[: self.subject.inputs] if isinstance(a, torch.Tensor)]
        seen["elements"] = max(seen["elements"], sum(a.numel() for a in inputs))
        return plain(self, args)

    monkeypatch.setattr(Case, "copies", copies)
    return seen


def test_a_call_that_is_too_large_is_never_made(calls):
    report = check(lambda x: x * x.sin(), (torch.randn(2000, 1000),))
    assert report.ok
    assert calls["elements"] < 400_000


def test_a_convolution_shrinks_with_its_output():
    report = check(F.conv2d, (torch.randn(2, 16, 128, 128), torch.randn(8, 16, 3, 3)))
    assert report.ok, report
    assert "checked with smaller dimensions" in str(report)


def test_of_many_parameters_some_are_measured_and_all_looked_at(calls):
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Linear(4, 4) for _ in range(24)])
    report = check(model, (torch.randn(3, 4),))
    assert report.ok, report
    assert len(report.rows) == many.SAMPLE
    assert report.elements == sum(p.numel() for p in model.parameters()) + 12
    assert report.checks["all arguments together"] == "ok"
    assert calls["count"] < 3000


class Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return x * w

    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        return g * w, 2 * (g * x).sum(0)


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.rand(4) + 0.5)

    def forward(self, x):
        return Scaled.apply(x, self.gain)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_one_wrong_parameter_of_many_is_named(seed):
    torch.manual_seed(0)
    layers = [nn.Linear(4, 4) for _ in range(12)]
    report = check(nn.Sequential(*layers[:6], Scale(), *layers[6:]), torch.randn(3, 4), seed=seed)
    assert [(f.kind, f.tensor) for f in report.findings] == [("constant-factor", "6.gain")], report
