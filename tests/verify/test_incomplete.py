"""A check that looked at nothing, or at less than it should, is not ok; tensors in lists and dicts
are looked at.
"""

from __future__ import annotations

import pytest
import torch
from gallery_linear import Base
from torch.autograd import Function

from manual_bp.verify import VerificationError, check
from manual_bp.verify.__main__ import main
from manual_bp.verify.probes import needs


class Marked(Function):
    @staticmethod
    def forward(ctx, x):
        y = (x > 0).to(x.dtype)
        ctx.mark_non_differentiable(y)
        return y

    @staticmethod
    def backward(ctx, g):
        return torch.zeros_like(g)


@pytest.mark.parametrize(
    ("function", "inputs", "why"),
    [
        (lambda x: x * 2, (torch.arange(4),), "no argument is a floating tensor"),
        (lambda: torch.ones(3), (), "no argument is a floating tensor"),
        (lambda x: 3.5, (torch.randn(5),), "no output is a floating tensor with elements"),
        (torch.sin, (torch.randn(0, 3),), "no output is a floating tensor with elements"),
        (Marked, (torch.randn(3),), "every output is marked non-differentiable"),
        (lambda x: torch.ones(3), (torch.randn(5),), "none depends on the inputs"),
    ],
)
def test_nothing_checked_is_not_ok(function, inputs, why):
    report = check(function, inputs)
    assert not report.ok
    assert not report.findings
    assert "nothing was checked" in str(report)
    assert why in str(report)
    with pytest.raises(VerificationError, match="nothing was checked"):
        report.raise_if_failed()


def test_a_probe_that_trips_leaves_the_report_incomplete(monkeypatch):
    def trips(experiment):
        raise KeyError("mine")

    monkeypatch.setattr(needs, "needs", trips)
    report = check(Base, (torch.randn(4, 3), torch.randn(5, 3), torch.randn(5)))
    assert not report.ok
    assert not report.findings
    assert report.checks["requires_grad subsets"] == "incomplete"
    assert "requires_grad subsets: could not be looked at (KeyError: 'mine')" in str(report)


def test_the_command_says_incomplete_with_status_3(capsys):
    assert main(["torch:neg", "--inputs", "arange(3)"]) == 3
    assert "incomplete" in capsys.readouterr().out


def test_tensors_in_lists_and_dicts_are_arguments():
    def function(pair, options):
        return pair[0] * pair[1][0] + options["scale"].detach().sin()

    inputs = ([torch.randn(3), (torch.randn(3), "text")], {"scale": torch.randn(3), "mode": "sum"})
    report = check(function, inputs)
    assert [row.tensor for row in report.rows] == ["pair[0]", "pair[1][0]", "options['scale']"]
    (finding,) = report.findings
    assert (finding.kind, finding.tensor) == ("missing-gradient", "options['scale']")
    assert check(lambda pair: pair[0] * pair[1], ([torch.randn(3), torch.randn(3)],)).ok


def test_a_reference_gets_the_lists_too():
    def function(pair):
        return pair[0] * pair[1]

    def off(pair):
        return pair[0] * pair[1] + 1

    inputs = ([torch.randn(3), torch.randn(3)],)
    assert check(function, inputs, reference=function).ok
    assert check(function, inputs, reference=off).findings[0].kind == "forward-wrong"


def test_a_function_gets_no_gradient_through_a_list():
    class Weighted(Function):
        @staticmethod
        def forward(ctx, x, weights):
            ctx.weights = weights
            return x * weights[0]

        @staticmethod
        def backward(ctx, g):
            return g * ctx.weights[0], None

    report = check(Weighted, (torch.randn(3), [torch.randn(3)]))
    assert report.ok, report
    assert [row.tensor for row in report.rows] == ["x"]


def test_a_generator_is_left_as_it_was():
    source = torch.Generator().manual_seed(4)
    before = source.get_state()
    assert check(
        lambda x, source: x * torch.rand(x.shape, generator=source).to(x), (torch.randn(3), source)
    ).ok
    assert torch.equal(source.get_state(), before)
