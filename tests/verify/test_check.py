"""The report's shape, what a check leaves untouched, its speed, and the promises about single
probes.
"""

from __future__ import annotations

import ast
import collections
import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gallery_linear import Base, BiasNotSummed
from seconds import CASES
from torch.autograd import Function

import manual_bp as mbp
from manual_bp.verify import KINDS, Finding, VerificationError, check, cost
from manual_bp.verify.case import Case
from manual_bp.verify.cost import estimate

INPUTS = (torch.randn(4, 3), torch.randn(5, 3), torch.randn(5))


class Doubled(Base):
    @staticmethod
    def backward(ctx, g):
        dx, dw, db = Base.backward(ctx, g)
        return dx, 2 * dw, db


def test_the_finding_names_tensor_worst_element_and_ratio():
    report = mbp.verify.check(Doubled, INPUTS)
    assert not report.ok
    (finding,) = report.findings
    assert (finding.kind, finding.tensor) == ("constant-factor", "weight")
    assert finding.ratio == pytest.approx(2)
    assert finding.analytic == pytest.approx(2 * finding.numeric)
    assert f"weight[{finding.index[0]}, {finding.index[1]}]" in finding.detail
    assert "2 times the derivative" in finding.detail


def test_names_replace_the_parameters():
    report = check(Doubled.apply, INPUTS, names=["a", "theta", "b"])
    assert report.findings[0].tensor == "theta"
    with pytest.raises(ValueError, match="2 names for 3 inputs"):
        check(Doubled, INPUTS, names=["a", "b"])


def test_raise_if_failed_says_what_the_report_says():
    with pytest.raises(VerificationError, match=r"missing-batch-sum  bias") as caught:
        check(BiasNotSummed, INPUTS).raise_if_failed()
    assert isinstance(caught.value, AssertionError)
    check(Base, INPUTS).raise_if_failed()


def test_json_holds_the_findings_and_parses():
    content = json.loads(check(Doubled, INPUTS).to_json())
    assert content["ok"] is False
    assert content["findings"][0]["kind"] == "constant-factor"
    assert content["findings"][0]["index"] == list(check(Doubled, INPUTS).findings[0].index)
    assert [row["verdict"] for row in content["rows"]] == ["ok", "constant-factor", "ok"]


def test_no_colour_outside_a_terminal():
    report = check(Doubled, INPUTS)
    assert "\033" not in str(report)
    assert "\033[31m" in report.render(colour=True)


def test_every_kind_is_described():
    assert all(text and text == text.strip() for text in KINDS.values())
    assert str(Finding("transposed", "W", "why")) == "transposed [W] why"


def test_leaves_tensors_gradients_and_generators_alone():
    class Rude(Function):
        @staticmethod
        def forward(ctx, x):
            x.mul_(2)
            torch.rand(3), random.random(), np.random.rand()
            return x + 0

        @staticmethod
        def backward(ctx, g):
            return g.mul_(2)

    x = torch.randn(3, 2, requires_grad=True)
    x.grad = torch.full_like(x, 7.0)
    before = x.detach().clone()
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    assert not check(Rude, (x,)).ok
    assert torch.equal(x, before)
    assert torch.equal(x.grad, torch.full_like(x, 7.0))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert (np.random.get_state()[1] == states[2]).all()
    assert Rude.backward.__name__ == "backward"


def test_leaves_a_modules_parameters_and_buffers_alone():
    module = torch.nn.BatchNorm1d(3)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    assert check(module, (torch.randn(5, 3),)).ok
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert all(p.grad is None for p in module.parameters())


def test_parameters_of_a_module_are_named():
    class Scaled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.randn(3))

        def forward(self, x):
            return Forgets.apply(x, self.scale)

    class Forgets(Function):
        @staticmethod
        def forward(ctx, x, scale):
            ctx.save_for_backward(x, scale)
            return x * scale

        @staticmethod
        def backward(ctx, g):
            return g * ctx.saved_tensors[1], None

    (finding,) = check(Scaled(), (torch.randn(4, 3),)).findings
    assert (finding.kind, finding.tensor) == ("missing-gradient", "scale")


def test_an_oversized_gradient_inside_a_plain_function_is_seen():
    (finding,) = check(lambda x, w, b: BiasNotSummed.apply(x.sin(), w, b).cos(), INPUTS).findings
    assert (finding.kind, finding.tensor) == ("missing-batch-sum", "BiasNotSummed.bias")


def test_only_what_requires_a_gradient_is_checked():
    class NoneForTarget(Function):
        @staticmethod
        def forward(ctx, a, y):
            ctx.save_for_backward(a, y)
            return (a - y).square().sum()

        @staticmethod
        def backward(ctx, g):
            a, y = ctx.saved_tensors
            return 2 * g * (a - y), None

    a, y = torch.randn(3, 2), torch.randn(3, 2)
    assert check(NoneForTarget, (a.clone().requires_grad_(), y)).ok
    assert check(NoneForTarget, (a, y)).findings[0].kind == "missing-gradient"


def test_kinks_and_refusals_are_notes():
    report = check(torch.relu, (torch.tensor([0.0, 1.0, -1.0]),))
    assert report.ok
    assert any("not differentiable" in note and "1 of 3" in note for note in report.notes)


def test_a_wrong_gradient_beside_a_kink_is_still_found():
    class NoMask(Function):
        @staticmethod
        def forward(ctx, x):
            return x.clamp(min=0)

        @staticmethod
        def backward(ctx, g):
            return g

    x = torch.tensor([0.0, 1e-6, -1e-6, 0.0])
    assert check(NoMask, (x,)).findings[0].kind == "wrong-values"


def test_straight_through_is_accepted_with_its_reference_only():
    class Rounds(Function):
        @staticmethod
        def forward(ctx, x):
            return x.round()

        @staticmethod
        def backward(ctx, g):
            return g

    x = torch.randn(4, 3)
    assert check(Rounds, (x,), reference=lambda x: x + (x.round() - x).detach()).ok
    assert not check(Rounds, (x,)).ok


def test_a_reference_that_raises_is_the_callers_error():
    with pytest.raises(ValueError, match="the reference raises TypeError"):
        check(torch.sin, (torch.randn(3),), reference=lambda: None)
    with pytest.raises(TypeError, match="int is not callable"):
        check(3, (torch.randn(3),))


def test_compile_on_request():
    good = check(mbp.functional.sigmoid, (torch.randn(4, 3),), compile="aot_eager")
    assert good.ok
    assert good.checks["compile"] == "ok"

    def breaks(x):
        return x.sin() * (1.0 if x.detach().sum().item() < 1e9 else 2.0)

    report = check(breaks, (torch.randn(4, 3),), compile="aot_eager")
    assert [f.kind for f in report.findings] == ["compile-wrong"], report


def test_too_large_for_a_full_jacobian_is_said_and_still_decided():
    x, w, b = torch.randn(60, 70), torch.randn(50, 70), torch.randn(50)
    good = check(Base, (x, w, b))
    assert good.ok, good
    assert re.fullmatch(r"ok, on [\d,]+ of 7,750 elements", good.verdict)
    assert f"Base: {good.verdict}" in str(good)
    assert any("too large for a full Jacobian" in note for note in good.notes)
    assert check(Doubled, (x, w, b)).findings[0].kind == "constant-factor"


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.soak if i % 2 else ()) for i, name in enumerate(CASES)],
)
def test_a_check_runs_the_function_so_often_at_most(name, monkeypatch):
    """What a check takes, by `cost`'s count: seconds.py in this folder looks at the clock."""
    function, inputs = CASES[name]
    runs = collections.Counter()

    def counted(method):
        original = getattr(Case, method)

        def run(*args, **options):
            runs[method] += 1
            return original(*args, **options)

        monkeypatch.setattr(Case, method, run)

    counted("values")
    counted("graph")
    assert check(function, inputs).ok
    call = function.apply if isinstance(function, type) else function
    assert 0 < runs["values"] + runs["graph"] < 12_000
    assert (runs["values"] + 3 * runs["graph"]) * estimate(lambda: call(*inputs)) < 3


def test_a_check_that_looked_at_little_is_not_plain_ok():
    x = torch.randn(400, 500)
    report = check(lambda x: x * x, (x,))
    assert report.ok
    assert re.fullmatch(r"nothing found, but only on [\d,]+ of 200,000 elements", report.verdict)


def test_a_call_that_is_too_large_is_cut_or_not_looked_at():
    linear = check(F.linear, (torch.randn(8, 1024), torch.randn(1024, 1024)))
    assert linear.ok
    assert linear.elements < 20_000
    assert "checked with smaller dimensions (1024 to 64)" in str(linear)
    fixed = check(lambda x: x.reshape(1000, 500).sin(), (torch.randn(500_000),))
    assert not fixed.ok
    assert "500,000 elements are more than 400,000" in str(fixed)


def test_the_same_seed_gives_the_same_report():
    inputs = (torch.randn(30, 40), torch.randn(50, 40), torch.randn(50))
    assert check(Doubled, inputs, seed=4).to_json() == check(Doubled, inputs, seed=4).to_json()


def test_no_clock_is_read():
    folder = Path(cost.__file__).parent
    imported = [
        path.name
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        and {"time", "timeit", "datetime"}
        & {getattr(node, "module", ""), *(a.name for a in node.names)}
    ]
    assert not imported


def test_work_that_is_not_torchs_own_is_counted():
    def looped(count):
        x = [0.5] * 40
        for _ in range(count):
            np.sin(x)

    few, many = (estimate(lambda n=n: looped(n), 40) for n in (100, 10_000))
    assert many - cost.CALL == pytest.approx(100 * (few - cost.CALL), rel=0.05)
    assert estimate(lambda: looped(100), 40) == few
    assert estimate(lambda: torch.randn(3) * 2) == estimate(lambda: torch.randn(3) * 2)
