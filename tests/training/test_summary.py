"""summary.png: a run on one page."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from manual_bp.training import pictures, summary
from manual_bp.training.run import Result

TEST = {"epoch": 3, "cost/test": 0.0321, "accuracy/test": 0.9712}


def row(epoch: int, **changed: float | None) -> dict[str, Any]:
    values: dict[str, Any] = {
        "epoch": epoch,
        "cost/train": 0.4 / epoch,
        "cost/validation": 0.5 / epoch,
    }
    values |= {"accuracy/train": 0.9, "accuracy/validation": 0.8, "grad_norm/total": 1.0}
    for layer in (0, 2):
        values |= {f"grad_norm/{layer}.weight": 0.1 * (layer + 1), f"grad_norm/{layer}.bias": 7.0}
        values |= {f"delta_norm/{layer}": 10.0**-layer, f"slope/{layer}": 0.2}
    return values | changed


@pytest.fixture
def answers() -> pictures.Answers:
    labels = torch.arange(40) % 10
    said = labels.clone()
    said[7] = 2
    error = torch.full((40,), 0.1)
    error[7] = 3.0
    return pictures.Answers(torch.zeros(40, 64, dtype=torch.uint8), labels, said, error)


def panels(figure: Figure) -> dict[str, Axes]:
    return {axes.get_title(): axes for axes in figure.axes}


def curves(axes: Axes) -> dict[str, list[float]]:
    for line in axes.lines:
        assert list(line.get_xdata()) == [1, 2, 3]
    return {str(line.get_label()): list(map(float, line.get_ydata())) for line in axes.lines}


def test_its_panels_show_the_rows(answers: pictures.Answers) -> None:
    rows = [row(1), row(2), row(3)]
    figure = summary.draw([*rows, TEST], answers, 8, "the run")
    shown = panels(figure)
    assert curves(shown["cost C"]) == {
        "train": [r["cost/train"] for r in rows],
        "validation": [r["cost/validation"] for r in rows],
    }
    assert curves(shown["accuracy"]) == {"train": [0.9] * 3, "validation": [0.8] * 3}
    norms, deltas = (
        shown["gradient norm ‖∂C/∂W‖ by layer"],
        shown["error signal ‖δ‖ = ‖∂C/∂z‖ by layer"],
    )
    assert curves(norms) == {"0": [0.1] * 3, "2": pytest.approx([0.3] * 3)}
    assert curves(deltas) == {"0": [1.0] * 3, "2": [0.01] * 3}
    assert (norms.get_yscale(), deltas.get_yscale()) == ("log", "log")
    digits = shown["the worst test digits: label → answer"]
    assert [t.get_text() for t in digits.texts][:2] == ["7 → 2", "0 → 0"]
    assert len(digits.texts) == 32
    title = figure.get_suptitle()
    assert "the run" in title
    assert "accuracy 97.12 %" in title


@pytest.mark.parametrize(
    "changed",
    [
        {"cost/train": math.nan, "grad_norm/0.weight": math.inf},
        {"cost/train": None, "grad_norm/0.weight": None},
        {
            "grad_norm/0.weight": 0.0,
            "grad_norm/2.weight": 0.0,
            "delta_norm/0": 0.0,
            "delta_norm/2": 0.0,
        },
    ],
)
def test_it_is_drawn_whatever_the_numbers_are(
    answers: pictures.Answers, changed: dict[str, float | None]
) -> None:
    image = Image.open(io.BytesIO(summary.png([row(1, **changed), TEST], answers, 8, "the run")))
    assert image.size == (1200, 640)


def test_it_is_drawn_for_a_run_without_epochs(answers: pictures.Answers) -> None:
    figure = summary.draw([TEST], answers, 8, "the run")
    assert pictures.rendered(figure).size == (1200, 640)
    assert all(len(line.get_xdata()) == 0 for axes in figure.axes for line in axes.lines)


def test_a_run_leaves_it_behind(train: Callable[..., Result]) -> None:
    result = train("--epochs", "2", "--hidden", "5")
    assert result.folder is not None
    file = result.folder / "summary.png"
    assert file.stat().st_size < 150_000
    image = Image.open(file)
    assert image.size == (1200, 640)
    assert len(image.convert("RGB").getcolors(1 << 20) or []) > 20  # not an empty sheet


def test_a_dry_run_leaves_nothing(train: Callable[..., Result], tmp_path: Any) -> None:
    train("--dry-run")
    assert list(tmp_path.iterdir()) == []
