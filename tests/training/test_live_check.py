"""The comparison that a run makes once an epoch: silent while the formulas are right, the end of the run when not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from manual_bp import direct
from manual_bp.ops import LinearFunction
from manual_bp.training.run import Result

Train = Callable[..., Result]


@pytest.mark.parametrize("engine", ["autograd", "direct"])
@pytest.mark.parametrize(("dtype", "limit"), [("float32", 1e-5), ("float64", 1e-13)])
def test_a_right_formula_is_off_by_rounding_alone(train: Train, engine: str, dtype: str, limit: float) -> None:
    rows = train("--epochs", "3", "--engine", engine, "--dtype", dtype, "--hidden", "20", "15").metrics[:-1]
    assert all(row["check/max_rel_error"] < limit for row in rows)


def test_a_wrong_function_ends_the_run_with_a_table(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
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
    assert torch.load(tmp_path / "runs" / "wrong" / "checkpoint.pt", weights_only=True)["epoch"] == 0


def test_a_wrong_direct_pass_ends_the_run(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = direct.one_pass

    def wrong(*args: Any) -> direct.Pass:
        done = real(*args)
        (weight, gradient), *others = done.gradients
        return replace(done, gradients=[(weight, -gradient), *others])

    monkeypatch.setattr(direct, "one_pass", wrong)
    with pytest.raises(SystemExit) as stopped:
        train("--epochs", "1", "--engine", "direct")
    assert stopped.value.code == 1
    assert "2.weight     max abs" in capsys.readouterr().err
