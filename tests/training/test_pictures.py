"""The pictures of a run: weights, digits, confusions, and summary.png."""

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
from torch import nn

from manual_bp import MLP, backprop
from manual_bp.training import pictures
from manual_bp.training.dataset import Part
from manual_bp.training.result import Result

pytestmark = pytest.mark.usefixtures("drawn_pictures")
LAYERS = backprop.read(MLP([64, 30, 10]))
TEST = {"epoch": 3, "cost/test": 0.0321, "accuracy/test": 0.9712}


def test_weights_are_red_where_positive_and_blue_where_negative() -> None:
    weight = torch.zeros(2, 4)
    weight[0, 0], weight[0, 3], weight[1, 1] = 1.0, -1.0, 0.5
    sheet = pictures.weights(weight, (2, 2)).convert("RGB")
    enlarged = sheet.width // 6  # two tiles of 2 and a line each

    def colour(row: int, column: int) -> object:
        return sheet.getpixel((column * enlarged, row * enlarged))

    assert colour(0, 0) == (255, 0, 0)
    assert colour(1, 1) == (0, 0, 255)
    assert colour(0, 1) == (255, 255, 255)
    assert colour(0, 4) == (255, 128, 128)
    assert colour(0, 2) == (153, 153, 153)  # the line between


def test_weights_that_are_not_finite_are_drawn_all_the_same() -> None:
    weight = torch.tensor([[float("nan"), float("inf"), 0.0, 1.0]])
    assert pictures.weights(weight, (2, 2)).size == (450, 450)


def test_a_sheet_that_units_do_not_fill_ends_in_white() -> None:
    sheet = pictures.weights(torch.ones(17, 4), (2, 2)).convert("RGB")
    enlarged = sheet.width // (16 * 3)
    assert sheet.size == (16 * 3 * enlarged, 2 * 3 * enlarged)
    colours = [sheet.getpixel((3 * k * enlarged, 3 * enlarged)) for k in (0, 1, 15)]
    assert colours == [(255, 0, 0), (255, 255, 255), (255, 255, 255)]


class Identity(nn.Module):
    """Says what its first ten inputs are."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :10]


def test_answers_count_confusions_and_rank_by_cost() -> None:
    images = torch.zeros(4, 16, dtype=torch.uint8)
    images[0, 3] = 255  # says 3, rightly
    images[1, 4] = 255  # says 4 for a 9
    images[2, 4] = 100  # says 4, faintly, for a 9
    images[3, 3] = 200  # says 3, rightly, not quite surely
    part = Part(images, torch.tensor([3, 9, 9, 3]))
    answers = pictures.Answers.of(Identity(), part, torch.float32)
    assert answers.worst(3).tolist() == [1, 2, 3]
    expected = torch.zeros(10, 10, dtype=torch.int64)
    expected[3, 3], expected[9, 4] = 2, 2
    assert torch.equal(answers.confusion, expected)
    drawn = pictures.figure(4, 4)
    pictures.draw_worst(drawn.subplots(), answers, shape=(4, 4), rows=1, columns=3, font=8)
    assert [t.get_text() for t in drawn.axes[0].texts] == ["9 → 4", "9 → 4", "3 → 3"]
    sheet = torch.tensor(drawn.axes[0].images[0].get_array().tolist())
    shown = [sheet[:4, k : k + 4].flatten().tolist() for k in (0, 5, 10)]  # a pixel between two
    assert shown == images[[1, 2, 3]].tolist()
    drawn = pictures.figure(4, 4)
    pictures.draw_confusion(drawn.subplots(), answers)
    assert {(*t.get_position(), t.get_text()) for t in drawn.axes[0].texts} == {
        (3, 3, "2"),
        (4, 9, "2"),
    }


def row(epoch: int, **changed: float | None) -> dict[str, Any]:
    values: dict[str, Any] = {
        "epoch": epoch,
        "cost/train": 0.4 / epoch,
        "cost/validation": 0.5 / epoch,
    }
    values |= {"accuracy/train": 0.9, "accuracy/validation": 0.8, "grad_norm/total": 1.0}
    for n in (1, 2):
        values |= {f"grad_norm/layer0{n}.weight": 0.1 * n, f"grad_norm/layer0{n}.bias": 7.0}
        values |= {f"delta_norm/layer0{n}": 10.0 ** (n - 2), f"slope/layer0{n}": 0.2}
    return values | changed


@pytest.fixture
def answers() -> pictures.Answers:
    labels = torch.arange(40) % 10
    said = labels.clone()
    said[7] = 2
    error = torch.full((40,), 0.1)
    error[7] = 3.0
    return pictures.Answers(
        torch.zeros(40, 64, dtype=torch.uint8), labels, said, error, tuple("0123456789")
    )


def summary(rows: list[dict[str, Any]], answers: pictures.Answers) -> Figure:
    return pictures.summary(rows, LAYERS, answers, (8, 8), "the run")


def curves(axes: Axes) -> dict[str, list[float]]:
    for line in axes.lines:
        assert list(line.get_xdata()) == [1, 2, 3]
    return {str(line.get_label()): list(map(float, line.get_ydata())) for line in axes.lines}


def test_the_panels_of_the_summary_show_the_rows(answers: pictures.Answers) -> None:
    rows = [row(1), row(2), row(3)]
    figure = summary([*rows, TEST], answers)
    shown = {axes.get_title(): axes for axes in figure.axes}
    assert curves(shown["cost C"]) == {
        "train": [r["cost/train"] for r in rows],
        "validation": [r["cost/validation"] for r in rows],
    }
    assert curves(shown["accuracy"]) == {"train": [0.9] * 3, "validation": [0.8] * 3}
    norms = shown["gradient norm ‖∂C/∂W‖ by layer"]
    deltas = shown["error signal ‖δ‖ = ‖∂C/∂z‖ by layer"]
    slopes = shown["mean slope σ′(z) by layer, at most ¼"]
    first, last = "layer 1 (64→30)", "layer 2 (30→10)"
    assert curves(norms) == {first: [0.1] * 3, last: [0.2] * 3}
    assert curves(deltas) == {first: [0.1] * 3, last: [1.0] * 3}
    assert curves(slopes) == {first: [0.2] * 3, last: [0.2] * 3}
    scales = [axes.get_yscale() for axes in (norms, deltas, slopes)]
    assert scales == ["log", "log", "linear"]
    (legend,) = figure.legends
    assert [entry.get_text() for entry in legend.get_texts()] == [first, last]
    colours = [handle.get_color() for handle in legend.legend_handles]
    assert all([line.get_color() for line in axes.lines] == colours for axes in (norms, deltas))
    digits = shown["the worst test images: label → answer"]
    assert [t.get_text() for t in digits.texts][:2] == ["7 → 2", "0 → 0"]
    assert len(digits.texts) == 32
    assert figure.get_suptitle() == "the run"
    assert shown["accuracy"].get_ylim() == (0, 1.03)
    bottom, top = shown["cost C"].get_ylim()
    assert bottom == 0
    assert top > 0.5  # the largest cost


@pytest.mark.parametrize(
    "changed",
    [
        {"cost/train": math.nan, "grad_norm/layer01.weight": math.inf},
        {"cost/train": None, "grad_norm/layer01.weight": None},
        {
            "grad_norm/layer01.weight": 0.0,
            "grad_norm/layer02.weight": 0.0,
            "delta_norm/layer01": 0.0,
            "delta_norm/layer02": 0.0,
        },
    ],
)
def test_the_summary_is_drawn_whatever_the_numbers_are(
    answers: pictures.Answers, changed: dict[str, float | None]
) -> None:
    drawn = summary([row(1, **changed), TEST], answers)
    assert Image.open(io.BytesIO(pictures.png(drawn))).size == (1200, 640)


def test_the_summary_of_a_run_without_epochs_has_no_lines(answers: pictures.Answers) -> None:
    figure = summary([TEST], answers)
    assert pictures.rendered(figure).size == (1200, 640)
    assert all(len(line.get_xdata()) == 0 for axes in figure.axes for line in axes.lines)


def test_the_layers_of_a_deep_network_have_room_below_the_panels(
    answers: pictures.Answers,
) -> None:
    layers = backprop.read(MLP([64, *[30] * 29, 10]))
    figure = pictures.summary([row(1), TEST], layers, answers, (8, 8), "the run")
    pictures.rendered(figure)
    (legend,) = figure.legends
    top = legend.get_window_extent().y1
    renderer: Any = None
    below = [axes.get_tightbbox(renderer).y0 for axes in figure.axes[3:]]
    assert len(legend.get_texts()) == 30
    assert top < min(below)


def test_the_summary_says_trouble_in_red_above_the_panels(answers: pictures.Answers) -> None:
    troubles = ["trouble after epoch 1: " + "--a-word " * 60, "trouble after epoch 2: it is worse"]
    figure = pictures.summary([row(1), TEST], LAYERS, answers, (8, 8), "the\nrun", troubles)
    image = pictures.rendered(figure)
    (told,) = [text for text in figure.texts if text.get_text().startswith("trouble")]
    assert told.get_text().split() == " ".join(troubles).split()
    assert told.get_color() == "tab:red"
    box = told.get_window_extent()
    assert box.x1 < image.width
    renderer: Any = None
    assert box.y0 > max(axes.get_tightbbox(renderer).y1 for axes in figure.axes[:3])
    title: Any = figure._suptitle  # type: ignore[attr-defined]
    assert box.y1 < title.get_window_extent().y0


def test_a_verdict_is_red_where_there_was_trouble() -> None:
    red, green = (214, 39, 40), (44, 160, 44)

    def near(image: Image.Image, colour: tuple[int, int, int]) -> bool:
        pixels: Any = image.convert("RGB").getcolors(1 << 20)
        return any(max(abs(a - b) for a, b in zip(p, colour, strict=True)) < 40 for _, p in pixels)

    rows = [row(1), row(2), TEST]
    bad, good = (pictures.verdict(rows, "result", told) for told in (["it is stuck " * 99], []))
    assert (near(bad, red), near(bad, green)) == (True, False)
    assert (near(good, red), near(good, green)) == (False, True)
    assert bad.size == good.size == (320, 210)


def test_a_run_leaves_a_summary_behind(train: Callable[..., Result]) -> None:
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
