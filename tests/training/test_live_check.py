"""The comparison that a run makes once an epoch: silent while the formulas are right, the end of
the run when not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from manual_bp import MLP, MSELoss
from manual_bp.direct import eager, native
from manual_bp.ops import LinearFunction
from manual_bp.training import live_check
from manual_bp.training.errors import UserError
from manual_bp.training.run import Result

Train = Callable[..., Result]


@pytest.mark.parametrize("engine", ["autograd", "direct"])
@pytest.mark.parametrize(("dtype", "limit"), [("float32", 1e-5), ("float64", 1e-13)])
def test_a_right_formula_is_off_by_rounding_alone(
    train: Train, engine: str, dtype: str, limit: float
) -> None:
    rows = train(
        "--epochs", "3", "--engine", engine, "--dtype", dtype, "--hidden", "20", "15"
    ).metrics[:-1]
    assert all(row["check/max_rel_error"] < limit for row in rows)


def test_a_wrong_function_ends_the_run_with_a_table(
    train: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real = LinearFunction.backward

    def wrong(ctx: Any, delta: torch.Tensor) -> Any:
        dx, dW, db = real(ctx, delta)
        return dx, dW, None if db is None else 1.01 * db

    monkeypatch.setattr(LinearFunction, "backward", staticmethod(wrong))
    with pytest.raises(SystemExit) as stopped:
        train("--epochs", "3", "--engine", "autograd", "--run-name", "wrong")
    assert stopped.value.code == 1
    lines = capsys.readouterr().err.splitlines()
    assert "differ from autograd's through torch.nn by more than 2.4e-04" in lines[0]
    figures = {line.split()[0]: float(line.split()[-1]) for line in lines[1:]}
    assert list(figures) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert figures["2.bias"] == pytest.approx(0.01, rel=1e-2)
    assert figures["2.weight"] < 1e-5
    assert (
        torch.load(tmp_path / "runs" / "wrong" / "checkpoint.pt", weights_only=True)["epoch"] == 0
    )


@pytest.mark.parametrize("module", [native, eager])
def test_a_wrong_direct_loop_ends_the_run(
    module: ModuleType,
    train: Train,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if module is eager:
        monkeypatch.setattr(native, "load", unavailable)
    real = module.scale
    monkeypatch.setattr(module, "scale", lambda *args: 1.01 * real(*args))
    with pytest.raises(SystemExit) as stopped:
        train("--epochs", "1", "--engine", "direct")
    assert stopped.value.code == 1
    rows = [line.split() for line in capsys.readouterr().err.splitlines() if "max rel" in line]
    assert [row[0] for row in rows] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert [float(row[-1]) for row in rows] == pytest.approx([0.01] * 4, rel=1e-2)


def unavailable() -> None:
    raise native.NativeUnavailableError("left out")


def test_a_gradient_that_is_no_number_is_wrong_where_the_true_one_is_finite() -> None:
    torch.manual_seed(0)
    model, x, y = MLP([3, 2]), torch.rand(4, 3), torch.rand(4, 2)
    right = torch.autograd.grad(MSELoss()(model(x), y), list(model.parameters()))
    wrong = [right[0].clone().index_fill_(0, torch.tensor(1), torch.nan), right[1]]
    compared = live_check.compare(model, wrong, x, y, "mean")
    assert compared.max_rel.tolist() == [math.inf, pytest.approx(0, abs=1e-6)]
    with pytest.raises(UserError, match=r"0\.weight"):
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


@pytest.mark.parametrize("flags", SICK)
def test_gradients_that_are_rounding_alone_are_no_fault(train: Train, flags: str) -> None:
    """Saturated, vanishing, cancelling gradients: a float32 holds few digits of them, or none."""
    rows = train("--epochs", "3", *flags.split()).metrics[:-1]
    assert len(rows) == 3
    assert all(row["check/max_rel_error"] < 2.4e-4 for row in rows)


@pytest.mark.parametrize("flags", SICK[:1])
def test_a_wrong_formula_shows_in_a_sick_network_too(
    train: Train, flags: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = native.scale
    monkeypatch.setattr(native, "scale", lambda *args: -real(*args))
    with pytest.raises(SystemExit):
        train("--epochs", "1", *flags.split())
    assert "max rel" in capsys.readouterr().err
