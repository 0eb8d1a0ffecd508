"""Kinds of tensors and of code that a check must take: each once, right, and where it can be wrong,
wrong.
"""

from __future__ import annotations

import dataclasses
import sys
import threading
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gallery import make
from torch import nn
from torch.autograd import Function
from torch.utils.checkpoint import checkpoint

from manual_bp.verify import check
from manual_bp.verify.probes import second_order


def saving(f):
    def forward(ctx, *args):
        ctx.save_for_backward(*(a for a in args if isinstance(a, torch.Tensor)))
        return f(*args)

    return forward


def kinds(report):
    return [f.kind for f in report.findings]


def c128(*shape):
    return torch.randn(*shape, dtype=torch.complex128)


@dataclasses.dataclass
class Pair:
    first: torch.Tensor
    second: torch.Tensor


OWN = [torch.randn(3)]
OWN.append(OWN)
RIGHT = {
    "complex128": (torch.abs, (c128(2, 3),)),
    "a phase": (torch.angle, (c128(2, 3),)),
    "complex inside": (lambda x: torch.fft.fft(x).abs(), (torch.randn(4),)),
    "complex to real": (lambda x: torch.fft.fft(x).abs(), (c128(4),)),
    "a conjugated output": (torch.conj, (c128(3),)),
    "a conjugated input": (lambda x: (x * x).real, (c128(3).conj(),)),
    "a negative view": (lambda x: x * 2, (c128(3).conj().imag,)),
    "a sparse constant": (torch.sparse.mm, (torch.eye(3).to_sparse(), torch.randn(3, 2))),
    "a sparse output": (lambda x: x.to_sparse(), (torch.randn(3, 2),)),
    "float8": (
        lambda x, s: s.float().to(x) * x,
        (torch.randn(3), torch.ones(3).to(torch.float8_e4m3fn)),
    ),
    "a dataclass": (lambda x: Pair(x * 2, x.sin()), (torch.randn(3),)),
    "a list that holds itself": (lambda x, own: x * 2, (torch.randn(3), OWN)),
    "a lazy module": (nn.LazyLinear(3), (torch.randn(4, 5),)),
    "an index for the backward alone": (
        make(
            "Permuted",
            saving(lambda x, order: x * 2),
            lambda ctx, g: (2 * g[ctx.saved_tensors[1]], None),
        ),
        (torch.randn(4, 3), torch.arange(4)),
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_ones_are_ok(name):
    report = check(*RIGHT[name])
    assert report.ok, report


def test_a_csr_constant():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls CSR a beta
        constant = torch.eye(3).to_sparse_csr()
    report = check(lambda s, x: s @ x, (constant, torch.randn(3, 2)))
    assert report.ok, report


@pytest.mark.parametrize("seed", range(4))
def test_a_wrong_phase_is_found_with_every_seed(seed):
    def backward(ctx, g):
        (z,) = ctx.saved_tensors
        return g * torch.complex(z.imag, -z.real) / z.abs() ** 2

    report = check(make("Phase", saving(torch.angle), backward), (c128(3),), seed=seed)
    assert kinds(report) == ["sign-flip"], report


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.randn(3, device="meta"), "x has no values (meta)"),
        (
            torch.nested.nested_tensor([torch.randn(2, 3), torch.randn(4, 3)], layout=torch.jagged),
            "x is a nested tensor",
        ),
    ],
)
def test_what_cannot_be_looked_at_is_said(value, said):
    report = check(lambda x: x * 2, (value,))
    assert not report.ok
    assert said in str(report)


def test_an_error_in_the_check_itself_is_told(monkeypatch):
    def breaks(*_):
        raise KeyError("mine")

    monkeypatch.setattr(sys.modules["manual_bp.verify.checker"], "has_graph", breaks)
    report = check(torch.sin, (torch.randn(3),))
    assert "the check itself could not go on: KeyError: 'mine'" in str(report)


def test_a_list_is_not_followed():
    lists = make("Lists", lambda ctx, x: [x * 2], lambda ctx, g: g * 2)
    report = check(lists, (torch.randn(3),))
    assert kinds(report) == ["missing-gradient"]
    assert "the forward returns a list" in str(report)


class Marked(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        second = x.exp()
        ctx.mark_non_differentiable(second)
        return x.sin(), second

    @staticmethod
    def backward(ctx, g, _):
        return g * ctx.saved_tensors[0].cos()


def test_an_output_wrongly_marked_is_noted_and_found_with_a_reference():
    x = (torch.randn(3),)
    report = check(Marked, x)
    assert report.ok
    assert "output 1 depends on the inputs and requires no gradient" in str(report)
    report = check(Marked, x, reference=lambda x: (x.sin(), x.exp()))
    assert kinds(report) == ["missing-gradient"], report
    assert check(Marked, x, reference=lambda x: (x.sin(), x.exp().detach())).ok


def test_an_only_output_wrongly_marked_is_found():
    def forward(ctx, x):
        y = x.exp()
        ctx.mark_non_differentiable(y)
        return y

    report = check(make("Only", forward, lambda ctx, g: g), (torch.randn(3),))
    assert kinds(report) == ["missing-gradient"], report


def test_an_output_in_a_buffer_is_overwritten():
    room = torch.zeros(4, dtype=torch.float64)

    def forward(ctx, x):
        ctx.save_for_backward(x.clone())
        return room.copy_(x.detach().sin()) if x.dtype == room.dtype else x.sin()

    report = check(
        make("Buffered", forward, lambda ctx, g: g * ctx.saved_tensors[0].cos()), (torch.randn(4),)
    )
    assert report.findings
    assert any("overwritten by the next" in f.detail for f in report.findings), report


def test_a_gradient_in_a_buffer_is_not_called_nonlinear():
    room = {}

    def backward(ctx, g):
        own = room.setdefault(g.dtype, torch.zeros(4, dtype=g.dtype))
        if g.shape != own.shape:
            return g * ctx.saved_tensors[0].cos()
        return own.copy_((g * ctx.saved_tensors[0].cos()).detach())

    report = check(make("Sine", saving(torch.sin), backward), (torch.randn(4),))
    assert "not-linear-in-grad-output" not in kinds(report)
    assert kinds(report)[0] == "second-backward", report


@pytest.mark.parametrize("rows", [64, 32])
def test_a_rule_that_breaks_past_a_block_is_found(rows):
    def backward(ctx, g):
        dx = g * ctx.saved_tensors[0].cos()
        dx[rows:] = 0
        return dx

    report = check(make("Blocks", saving(torch.sin), backward), (torch.randn(4, 3),))
    assert kinds(report) == ["wrong-values"], report
    assert "for a batch of size" in report.findings[0].detail


def test_under_autocast_a_backward_that_raises_is_noted():
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        return g @ w.t(), x.t() @ g

    product = make("Product", saving(lambda x, w: x @ w), backward)
    report = check(product, (torch.randn(4, 3), torch.randn(3, 2)))
    assert report.ok, report
    assert "under torch.autocast the backward raises" in str(report)
    assert "autocast" not in str(check(torch.mm, (torch.randn(4, 3), torch.randn(3, 2))).notes)


def test_what_follows_from_a_write_into_grad_output_is_not_told():
    report = check(
        make("Doubles", lambda ctx, x: x * 2, lambda ctx, g: g.mul_(2)), (torch.ones(3),)
    )
    assert kinds(report) == ["mutates-grad-output"], report


def test_another_gradient_with_a_graph_is_named():
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * x.cos() * (2 if torch.is_grad_enabled() else 1)

    (finding,) = check(make("Two", saving(torch.sin), backward), (torch.randn(3),)).findings
    assert finding.kind == "double-backward-wrong"
    assert "under create_graph=True the backward gives another gradient" in finding.detail


def test_probes_can_be_left_out():
    def backward(ctx, g):
        return g * ctx.saved_tensors[0].detach().cos()

    function = make("Detached", saving(torch.sin), backward)
    assert kinds(check(function, (torch.randn(3),))) == ["double-backward-wrong"]
    report = check(function, (torch.randn(3),), skip=("double-backward", "batch-sizes"))
    assert report.ok, report
    assert report.checks["double backward"] == "left out, as asked"
    with pytest.raises(ValueError, match="skip 'nothing': expected some of"):
        check(function, (torch.randn(3),), skip=("nothing",))


def settings():
    return {
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "anomaly": torch.is_anomaly_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "grad": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
        "filters": list(warnings.filters),
        "numpy": np.geterr(),
    }


def rude(x, fail):
    torch.set_default_dtype(torch.float64)
    torch.use_deterministic_algorithms(True)
    torch.autograd.set_detect_anomaly(True, check_nan=False)
    torch.set_autocast_enabled("cpu", True)
    torch.set_grad_enabled(False)
    torch.set_num_threads(2)
    torch.set_default_device("meta")
    warnings.simplefilter("error")
    np.seterr(all="raise")
    if fail:
        raise KeyboardInterrupt
    return x * 2


@pytest.mark.parametrize("fail", [False, True])
def test_what_is_the_callers_is_put_back(fail):
    before = settings()
    try:
        check(rude, (torch.randn(3), fail))
    except KeyboardInterrupt:
        assert fail
    assert settings() == before


def test_the_callers_own_settings_are_put_back_and_do_no_harm():
    threads = torch.get_num_threads()
    with torch.inference_mode(), torch.autocast("cpu"):
        assert check(torch.sin, (torch.randn(3),)).ok
        assert torch.is_inference_mode_enabled()
        assert torch.is_autocast_enabled("cpu")
    with torch.no_grad(), torch.autograd.set_detect_anomaly(True):
        assert check(torch.sin, (torch.randn(3),)).ok
        assert not torch.is_grad_enabled()
        assert torch.is_anomaly_enabled()
    assert torch.get_num_threads() == threads


def test_four_checks_in_four_threads():
    reports, before = {}, settings()

    def run(number):
        reports[number] = check(F.linear, (torch.ones(2, 3), torch.ones(2, 3)), seed=1).to_json()

    threads = [threading.Thread(target=run, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(reports.values())) == 1
    assert len(reports) == 4
    assert settings() == before


def test_a_modules_modes_and_buffers_are_put_back():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.BatchNorm1d(3)
            self.register_buffer("count", torch.zeros(()))

        def forward(self, x):
            self.eval()
            self.count = self.count + 1
            return self.inner(x) * 2

    module = Counting()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    check(module, (torch.randn(5, 3),))
    assert module.training
    assert module.inner.training
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())


@pytest.mark.parametrize("slope", [0.0, 0.4, 1.0])
def test_at_a_kink_any_slope_between_the_sides_will_do(slope):
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * torch.where(x == 0, slope, (x > 0).to(x))

    x = torch.tensor([0.0, 1.0, -1.0])
    assert check(make("Relu", saving(torch.relu), backward), (x,)).ok


@pytest.mark.parametrize("slope", [-0.5, 1.7, float("inf")])
def test_at_a_kink_a_slope_beyond_the_sides_is_wrong(slope):
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * torch.where(x == 0, slope, (x > 0).to(x))

    x = torch.tensor([0.0, 1.0, -1.0])
    (finding,) = check(make("Relu", saving(torch.relu), backward), (x,)).findings
    assert finding.kind == "wrong-values"
    assert "at a kink, input 0[0]" in finding.detail


def test_a_second_derivative_lost_in_one_column_is_found():
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        slope = x.cos()
        return g * torch.cat([slope[:, :1], slope[:, 1:2].detach(), slope[:, 2:]], 1)

    report = check(make("Column", saving(torch.sin), backward), (torch.randn(8, 3),))
    assert kinds(report) == ["double-backward-wrong"], report


def test_what_was_not_measured_is_not_called_ok(monkeypatch):
    def unknown(function, noise, *more):
        start = function(0.0)
        return start, torch.full_like(start, torch.inf)

    monkeypatch.setattr(second_order, "slope", unknown)
    report = check(torch.sin, (torch.randn(4, 3),))
    assert report.checks["double backward"].startswith("not measured")


def test_a_wrong_gradient_does_not_hide_another_fault():
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        dw = g * x if ctx.needs_input_grad[1] and ctx.needs_input_grad[0] else None
        return 2 * g * w, dw

    report = check(
        make("Both", saving(lambda x, w: x * w), backward), (torch.randn(3), torch.randn(3))
    )
    assert kinds(report) == ["constant-factor", "needs-input-grad"], report


class Recomputing(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.linear, self.reentrant = nn.Linear(3, 3), reentrant

    def forward(self, x):
        return checkpoint(lambda x: self.linear(x).tanh(), x, use_reentrant=self.reentrant)


def symmetric():
    m = torch.randn(4, 4)
    return m @ m.mT + torch.eye(4)


REAL = {
    "recomputed": (Recomputing(False), (torch.randn(4, 3),)),
    "recomputed by backward()": (Recomputing(True), (torch.randn(4, 3),)),
    "an infinite output": (torch.log, (torch.tensor([0.0, 1.0, 2.0]),)),
    "an infinite gradient": (torch.sqrt, (torch.tensor([0.0, 1.0, 2.0]),)),
    "a zero row": (lambda x: x.norm(dim=1), (torch.cat([torch.zeros(1, 3), torch.randn(3, 3)]),)),
    "underflow": (torch.prod, (torch.rand(60) * 0.1,)),
    "a symmetric argument": (torch.linalg.eigvalsh, (symmetric(),)),
    "a triangle of it": (torch.linalg.cholesky, (symmetric(),)),
    "a batch of one": (lambda x, b: x * b, (torch.randn(1, 3), torch.randn(1, 3))),
}


@pytest.mark.parametrize("name", REAL)
def test_right_ones_of_real_code_are_ok(name):
    report = check(*REAL[name])
    assert report.ok, report
