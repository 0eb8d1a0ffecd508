"""The check of an epoch: silent while the formulas are right, the end of the run if not."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from manual_bp import MLP, LinearFunction, MSELoss, MSELossFunction, SigmoidFunction, backprop
from manual_bp.direct import library, native, task
from manual_bp.training import live_check
from manual_bp.training.errors import UserError
from manual_bp.training.result import Result

Train = Callable[..., Result]
PARAMETERS = ["layer01.weight", "layer01.bias", "layer02.weight", "layer02.bias"]


@pytest.mark.parametrize("engine", ["autograd", "direct"])
@pytest.mark.parametrize(("dtype", "limit"), [("float32", 1e-5), ("float64", 1e-13)])
def test_a_right_formula_is_off_by_rounding_alone(
    train: Train, engine: str, dtype: str, limit: float
) -> None:
    rows = train(
        "--epochs", "3", "--engine", engine, "--dtype", dtype, "--hidden", "20", "15"
    ).metrics[:-1]
    assert all(row["check/max_rel_error"] < limit for row in rows)


def _wrong_linear(ctx: Any, delta: torch.Tensor) -> Any:
    dx, dW, db = LINEAR(ctx, delta)
    return dx, dW, None if db is None else 1.01 * db


def _wrong_sigmoid(ctx: Any, da: torch.Tensor) -> Any:
    (a,) = ctx.saved_tensors
    return da * a  # without (1 − a)


def _wrong_cost(ctx: Any, g: torch.Tensor) -> Any:
    da, dy, none = COST(ctx, g)
    return 0.5 * da, dy, none


LINEAR, COST = LinearFunction.backward, MSELossFunction.backward
WRONG: dict[str, tuple[Any, Any, set[str]]] = {  # with the parameters whose gradient it spoils
    "linear": (LinearFunction, _wrong_linear, {"layer01.bias", "layer02.bias"}),
    "sigmoid": (SigmoidFunction, _wrong_sigmoid, set(PARAMETERS)),
    "cost": (MSELossFunction, _wrong_cost, set(PARAMETERS)),
}


@pytest.mark.parametrize("which", WRONG)
def test_a_wrong_line_in_a_function_ends_a_default_run_with_a_table(
    which: str,
    train: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    function, backward, spoilt = WRONG[which]
    monkeypatch.setattr(function, "backward", staticmethod(backward))
    with pytest.raises(SystemExit) as stopped:
        train("--epochs", "3", "--run-name", "wrong")
    assert stopped.value.code == 1
    message, *table = capsys.readouterr().err.splitlines()
    assert "differ from autograd's through torch.nn by more than 2.4e-04" in message
    figures = {line.split()[0]: float(line.split()[-1]) for line in table}
    assert list(figures) == PARAMETERS
    assert {name for name, figure in figures.items() if figure > 2.4e-4} == spoilt
    if which == "linear":
        assert figures["layer02.bias"] == pytest.approx(0.01, rel=1e-2)
    checkpoint = torch.load(tmp_path / "runs" / "wrong" / "checkpoint.pt", weights_only=True)
    assert checkpoint["epoch"] == 0


def make_wrong(
    function: type[torch.autograd.Function], factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Multiply every gradient that `function` gives."""
    real: Any = function.backward

    def wrong(ctx: Any, gradient: torch.Tensor) -> Any:
        found = real(ctx, gradient)
        if isinstance(found, torch.Tensor):
            return factor * found
        return tuple([None if g is None else factor * g for g in found])

    monkeypatch.setattr(function, "backward", staticmethod(wrong))


@pytest.mark.parametrize("backend", ["native", "torch"])
def test_a_wrong_direct_loop_ends_the_run(
    backend: str,
    train: Train,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if backend == "torch":
        monkeypatch.setattr(native, "load", unavailable)
    real = task.scale
    monkeypatch.setattr(task, "scale", lambda *args: 1.01 * real(*args))
    with pytest.raises(SystemExit) as stopped:
        train("--epochs", "1", "--engine", "direct")
    assert stopped.value.code == 1
    rows = [line.split() for line in capsys.readouterr().err.splitlines() if "max rel" in line]
    assert [row[0] for row in rows] == PARAMETERS
    assert [float(row[-1]) for row in rows] == pytest.approx([0.01] * 4, rel=1e-2)


def unavailable() -> None:
    raise library.NativeUnavailableError("left out")


def test_a_gradient_that_is_no_number_is_wrong_where_the_true_one_is_finite() -> None:
    torch.manual_seed(0)
    model, x, y = MLP([3, 2]), torch.rand(4, 3), torch.rand(4, 2)
    right = torch.autograd.grad(MSELoss()(model(x), y), list(model.parameters()))
    wrong = [right[0].clone().index_fill_(0, torch.tensor(1), torch.nan), right[1]]
    compared = live_check.compare(model, wrong, x, y, "mean")
    assert compared.max_rel.tolist() == [math.inf, pytest.approx(0, abs=1e-6)]
    with pytest.raises(UserError, match=r"layer01\.weight"):
        compared.judge(compared.worst.item())


def test_a_diverged_network_is_not_blamed_on_the_formulas() -> None:
    model, x, y = MLP([3, 2], output="linear"), torch.full((4, 3), torch.inf), torch.rand(4, 2)
    gradients = [torch.full_like(p, torch.nan) for p in model.parameters()]
    compared = live_check.compare(model, gradients, x, y, "mean")
    compared.judge(compared.worst.item())


SICK = [
    "--lr 50",
    "--momentum 0.9 --lr 2",
    "--hidden 30 30 30 30 30 30 30 30 30 30 --init uniform --init-epsilon 1e-4",
    "--init equal --output linear --lr 0.05",
    "--init uniform --init-epsilon 30",
]


@pytest.mark.parametrize("engine", ["autograd", "direct"])
@pytest.mark.parametrize("flags", SICK)
def test_gradients_that_are_rounding_alone_are_no_fault(
    train: Train, flags: str, engine: str
) -> None:
    """Saturated, vanishing, cancelling gradients: a float32 holds few digits of them, or none."""
    rows = train("--epochs", "3", *flags.split(), "--engine", engine).metrics[:-1]
    assert len(rows) == 3
    assert all(row["check/max_rel_error"] < 2.4e-4 for row in rows)


def test_terms_that_cancel_are_no_fault() -> None:
    """Half the targets lie above the outputs and half as far below: float32 keeps few digits."""
    torch.manual_seed(0)
    model = MLP([8, 30, 10])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 1e-4  # every output is near ½
    x, d = torch.rand(50, 8), 0.4 * torch.rand(50, 10)
    x, y = torch.cat([x, x]), 0.5 + torch.cat([d, -d])
    exact = copy.deepcopy(model).double()
    cost = MSELoss()(exact(x.double()), y.double())
    right = [g.float() for g in torch.autograd.grad(cost, list(exact.parameters()))]
    compared = live_check.compare(model, right, x, y, "mean")
    largest = torch.stack([g.abs().max() for g in right])
    assert (compared.max_abs / largest).min() > 1e-3  # four times the tolerance
    compared.judge(compared.worst.item())


@pytest.mark.parametrize("engine", ["autograd", "direct"])
def test_a_wrong_formula_shows_in_a_sick_network_too(
    train: Train, engine: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if engine == "autograd":
        make_wrong(MSELossFunction, -1.0, monkeypatch)
    else:
        real = task.scale
        monkeypatch.setattr(task, "scale", lambda *args: -real(*args))
    with pytest.raises(SystemExit):
        train("--epochs", "1", *SICK[0].split(), "--engine", engine)
    assert "max rel" in capsys.readouterr().err


@pytest.mark.parametrize("output", ["sigmoid", "linear"])
@pytest.mark.parametrize("bias", [True, False])
def test_the_rounding_bound_is_the_backward_pass_over_absolute_values(
    output: Any, bias: bool
) -> None:
    torch.manual_seed(0)
    model = MLP([3, 4, 2], output=output, bias=bias, dtype=torch.float64)
    x, y = torch.randn(5, 3, dtype=torch.float64), torch.rand(5, 2, dtype=torch.float64)
    seen = live_check._rounding(backprop.read(model), x, y, "mean")
    W1, W2 = (model[i].weight.detach().abs() for i in (0, 2))
    b1, b2 = (model[i].bias.detach().abs() if bias else 0.0 for i in (0, 2))
    a0, a1 = x.abs(), model[:2](x).detach().abs()
    last = 1.0 if output == "linear" else 0.25
    delta2 = 2 / 10 * (model(x).detach() - y).abs() * last * (1 + a1 @ W2.T + b2)
    delta1 = delta2 @ W2 * 0.25 * (1 + a0 @ W1.T + b1)
    largest = [delta1.T @ a0, delta1.sum(0), delta2.T @ a1, delta2.sum(0)]
    expected = torch.stack([g.max() for g in (largest if bias else largest[::2])]) * 16 / 2000
    torch.testing.assert_close(seen, expected)


def test_where_products_are_in_tf32_more_rounding_is_allowed() -> None:
    """2⁻¹¹ of each factor; a wrong formula is off by far more."""
    on_cuda = SimpleNamespace(is_cuda=True, dtype=torch.float32)
    compared = live_check.Compared(["layer01.weight"], torch.ones(1), on_cuda)  # type: ignore[arg-type]
    on_cuda.tolist = lambda: [1e-3]
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        compared.judge(1e-3)
        with pytest.raises(UserError, match="by more than"):
            compared.judge(2e-2)
        torch.set_float32_matmul_precision("highest")
        with pytest.raises(UserError, match="by more than"):
            compared.judge(1e-3)
    finally:
        torch.set_float32_matmul_precision(before)
