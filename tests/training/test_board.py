"""What TensorBoard finds in a run's folder."""

from __future__ import annotations

import io
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2
from torch import nn

from manual_bp import MLP, MSELoss
from manual_bp.training import histograms, pages, pictures
from manual_bp.training.board import LAYOUT, METRICS, Board
from manual_bp.training.command import main
from manual_bp.training.errors import UserError
from manual_bp.training.run import Result

EPOCHS = 24


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Result:
    logdir = tmp_path_factory.mktemp("board") / "runs"
    flags = (
        f"--dataset digits --hidden 12 7 --epochs {EPOCHS} --histograms 8 --logdir "
        f"{logdir} --run-name seen"
    )
    return main([*flags.split(), "--lr", "2.5"])


@pytest.fixture(scope="module")
def events(run: Result) -> EventAccumulator:
    return read(run.folder)


def read(folder: Path | None) -> EventAccumulator:
    events = EventAccumulator(
        str(folder), size_guidance=dict.fromkeys(("scalars", "images", "tensors", "histograms"), 0)
    )
    events.Reload()
    return events


def text(events: EventAccumulator, name: str) -> str:
    (event,) = events.Tensors(f"run/{name}/text_summary")
    return event.tensor_proto.string_val[0].decode()


def test_the_log_folder_holds_this_run_and_nothing_beside_it(run: Result) -> None:
    assert run.folder is not None
    assert [path.name for path in run.folder.parent.iterdir()] == ["seen"]
    names = sorted(re.sub(r"tfevents\..*", "tfevents", path.name) for path in run.folder.iterdir())
    assert names == [
        "checkpoint.pt",
        "config.json",
        "events.out.tfevents",
        "metrics.jsonl",
        "summary.png",
    ]


def test_every_measure_of_metrics_jsonl_is_a_curve_over_the_epochs(
    run: Result, events: EventAccumulator
) -> None:
    assert run.folder is not None
    *rows, last = [
        json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()
    ]
    tags = set(rows[0]) - {"epoch"}
    logarithms = {f"delta_norm_log10/{layer}" for layer in "024"}
    assert set(events.Tags()["scalars"]) == tags | logarithms | {"cost/test", "accuracy/test"}
    for tag in tags:
        points = events.Scalars(tag)
        assert [point.step for point in points] == list(range(1, EPOCHS + 1))
        assert [point.value for point in points] == pytest.approx(
            [row[tag] for row in rows], rel=1e-6
        )
    for tag in ("cost/test", "accuracy/test"):
        (point,) = events.Scalars(tag)
        assert (point.step, point.value) == (EPOCHS, pytest.approx(last[tag], rel=1e-6))


@pytest.mark.parametrize(
    ("prefix", "names"),
    [
        ("cost", ["train", "validation", "test"]),
        ("accuracy", ["train", "validation", "test"]),
        (
            "grad_norm",
            ["total", *(f"{layer}.{kind}" for layer in "024" for kind in ("weight", "bias"))],
        ),
        ("delta_norm", ["0", "2", "4"]),
        ("slope", ["0", "2", "4"]),
        ("saturated", ["0", "2", "4"]),
        ("update_ratio", [f"{layer}.{kind}" for layer in "024" for kind in ("weight", "bias")]),
        ("check", ["max_rel_error"]),
        ("time", ["train_seconds", "epoch_seconds"]),
    ],
)
def test_the_tags_have_the_names_that_are_relied_on(
    events: EventAccumulator, prefix: str, names: list[str]
) -> None:
    assert {tag for tag in events.Tags()["scalars"] if tag.startswith(f"{prefix}/")} == {
        f"{prefix}/{n}" for n in names
    }


def test_every_line_of_the_custom_scalars_layout_finds_a_curve(events: EventAccumulator) -> None:
    (event,) = events.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    assert [category.title for category in layout.category] == list(LAYOUT)
    assert list(LAYOUT) == ["cost", "accuracy", "gradient norms", "δ per layer", "slope × error"]
    scalars = events.Tags()["scalars"]
    found = {}
    for category in layout.category:
        for chart in category.chart:
            for pattern in chart.multiline.tag:
                found[pattern] = [
                    tag for tag in scalars if re.match(pattern, tag)
                ]  # as TensorBoard does
                assert found[pattern], pattern
    assert found["delta_norm/.*"] == ["delta_norm/0", "delta_norm/2", "delta_norm/4"]
    assert found["delta_norm_log10/.*"] == [
        "delta_norm_log10/0",
        "delta_norm_log10/2",
        "delta_norm_log10/4",
    ]
    assert found[r"grad_norm/.*\.weight"] == [
        "grad_norm/0.weight",
        "grad_norm/2.weight",
        "grad_norm/4.weight",
    ]


def test_hyperparameters_stand_in_the_runs_own_folder_with_its_metrics(
    events: EventAccumulator,
) -> None:
    tags = events.summary_metadata
    data = {
        tag: plugin_data_pb2.HParamsPluginData.FromString(tags[tag].plugin_data.content)
        for tag in tags
        if tags[tag].plugin_data.plugin_name == "hparams"
    }
    start = data["_hparams_/session_start_info"].session_start_info.hparams
    assert start["lr"].number_value == 2.5
    assert start["sizes"].string_value == "64-12-7-10"
    assert start["cost"].string_value == "half_per_example"
    assert start["augment"].string_value == "no"
    metrics = {info.name.tag for info in data["_hparams_/experiment"].experiment.metric_infos}
    assert metrics == set(METRICS)
    assert metrics <= set(events.Tags()["scalars"])
    assert data["_hparams_/session_end_info"].session_end_info.status == 1  # STATUS_SUCCESS


def test_weights_are_shown_at_the_first_the_last_and_about_five_epochs_between(
    events: EventAccumulator,
) -> None:
    shown = events.Images("weights/first layer")
    assert [image.step for image in shown] == [0, 5, 10, 15, 20, EPOCHS]
    first, last = (
        Image.open(io.BytesIO(image.encoded_image_string)) for image in (shown[0], shown[-1])
    )
    assert first.size == last.size
    assert first.tobytes() != last.tobytes()
    assert min(first.size[0], 400) == 400  # an 8 × 8 image is enlarged


def test_the_test_images_are_shown_once_at_the_end(events: EventAccumulator) -> None:
    for tag in ("test/confusion matrix", "test/worst digits, label → answer"):
        (image,) = events.Images(tag)
        assert image.step == EPOCHS
        assert Image.open(io.BytesIO(image.encoded_image_string)).size == (500, 500)


def test_text_tells_configuration_environment_formulas_and_an_example(
    run: Result, events: EventAccumulator
) -> None:
    configuration = text(events, "configuration")
    assert "| `--lr` | `2.5` |" in configuration
    assert "| `sizes` | `[64, 12, 7, 10]` |" in configuration
    assert f"| `torch` | `{torch.__version__}` |" in text(events, "environment")
    formulas = text(events, "formulas")
    assert "`s = 1/(2m)`" in formulas
    assert "| `4` | `δ = ∂C/∂z = 2s (a[4] − y) ⊙ a ⊙ (1 − a)` | `(10)` |" in formulas
    assert "| `2` | `δ = ∂C/∂z = δ[4] W[4] ⊙ a ⊙ (1 − a)` | `(7)` |" in formulas
    assert "| `2` | `∂C/∂W = δᵀ a[0]` | `(7, 12)` |" in formulas
    assert "64-12-7-10 network, one example" in text(events, "trace of one validation image")


def test_the_logarithm_of_a_delta_is_there_where_there_is_one(
    run: Result, events: EventAccumulator
) -> None:
    logarithms = [event.value for event in events.Scalars("delta_norm_log10/2")]
    assert logarithms == pytest.approx(
        [math.log10(row["delta_norm/2"]) for row in run.metrics[:-1]], abs=1e-6
    )


@pytest.mark.parametrize("value", [0.0, math.inf, math.nan])
def test_no_logarithm_of_nothing(value: float, tmp_path: Path) -> None:
    board = Board(tmp_path)
    board.scalars({"delta_norm/0": value}, 1)
    board.close()
    assert read(tmp_path).Tags()["scalars"] == ["delta_norm/0"]


def test_formulas_of_a_linear_output_have_no_slope() -> None:
    formulas = pages.formulas(MLP([4, 3, 2], output="linear"), "mean", 0.5, 0.01)
    assert "| `2` | `a = z` | `(2)` |" in formulas
    assert "| `2` | `δ = ∂C/∂z = 2s (a[2] − y)` | `(2)` |" in formulas


@pytest.mark.parametrize(
    ("momentum", "weight_decay", "update"),
    [
        (0.0, 0.0, "`W ← W − η ∂C/∂W`"),
        (0.0, 0.01, "`W ← W − η (∂C/∂W + 0.01 W)`"),
        (0.5, 0.0, "`v ← 0.5 v + ∂C/∂W`, `W ← W − η v`"),
        (0.5, 0.01, "`v ← 0.5 v + ∂C/∂W + 0.01 W`, `W ← W − η v`"),
    ],
)
def test_the_update_is_the_one_that_is_made(
    momentum: float, weight_decay: float, update: str
) -> None:
    assert update in pages.formulas(MLP([4, 2]), "mean", momentum, weight_decay)


def test_histograms_are_written_every_n_epochs(events: EventAccumulator) -> None:
    parameters = [f"{layer}.{kind}" for layer in "024" for kind in ("weight", "bias")]
    expected = {f"{kind}/{name}" for kind in ("weights", "gradients") for name in parameters}
    expected |= {f"{kind}/{layer}" for kind in ("activations", "delta") for layer in "024"}
    assert set(events.Tags()["histograms"]) == expected
    for tag in expected:
        assert [event.step for event in events.Histograms(tag)] == [0, 8, 16, 24]
    assert events.Histograms("weights/2.weight")[0].histogram_value.num == 7 * 12
    assert events.Histograms("activations/2")[0].histogram_value.num == 300 * 7
    assert events.Histograms("delta/4")[0].histogram_value.num == 300 * 10
    assert events.Histograms("activations/0")[-1].histogram_value.max <= 1


def test_histogram_values_satisfy_the_formulas_of_backpropagation() -> None:
    torch.manual_seed(0)
    model = MLP([5, 4, 3], dtype=torch.float64)
    x, y = torch.rand(6, 5, dtype=torch.float64), torch.rand(6, 3, dtype=torch.float64)
    found = histograms.values(model, MSELoss("half_per_example"), x, y)
    assert all(p.grad is None for p in model.parameters())
    a0, a2 = found["activations/0"], found["activations/2"]
    torch.testing.assert_close(a2, model(x).detach())
    delta2 = (a2 - y) / 6 * a2 * (1 - a2)
    torch.testing.assert_close(found["delta/2"], delta2)
    delta0 = delta2 @ found["weights/2.weight"] * a0 * (1 - a0)
    torch.testing.assert_close(found["delta/0"], delta0)
    torch.testing.assert_close(found["gradients/0.weight"], delta0.T @ x)
    torch.testing.assert_close(found["gradients/2.bias"], delta2.sum(0))


def test_entries_that_are_not_finite_are_counted_and_left_out_of_a_histogram(
    tmp_path: Path,
) -> None:
    board = Board(tmp_path)
    board.histogram("some", torch.tensor([1.0, float("nan"), 2.0, float("inf"), -float("inf")]), 3)
    board.histogram("none", torch.full((2, 2), float("nan")), 3)
    board.close()
    events = read(tmp_path)
    (some,) = events.Histograms("some")
    assert (some.step, some.histogram_value.num, some.histogram_value.sum) == (3, 2, 3)
    assert events.Tags()["histograms"] == ["some"]
    counts = {tag: events.Scalars(tag)[0].value for tag in events.Tags()["scalars"]}
    assert counts == {"non_finite/some": 3, "non_finite/none": 4}


@pytest.mark.parametrize("step", ["scalars", "flush", "close"])
def test_a_full_disk_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    board = Board(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    calls = {
        "scalars": lambda: board.scalars({"cost/train": 1.0}, 1),
        "flush": board.flush,
        "close": board.close,
    }
    with monkeypatch.context() as patched:
        if step == "scalars":
            patched.setattr(board._writer._get_file_writer(), "add_summary", full)
        else:
            patched.setattr(board._writer, step, full)
        with pytest.raises(
            UserError, match=r"events cannot be written \(No space left on device\): make room"
        ):
            calls[step]()
    board.close()


def test_weights_are_red_where_positive_and_blue_where_negative() -> None:
    weight = torch.zeros(2, 4)
    weight[0, 0], weight[0, 3], weight[1, 1] = 1.0, -1.0, 0.5
    sheet = pictures.weights(weight, 2).convert("RGB")
    enlarged = sheet.width // 6  # two tiles of 2 and a line each

    def colour(row: int, column: int) -> object:
        return sheet.getpixel((column * enlarged, row * enlarged))

    assert colour(0, 0) == (255, 0, 0)
    assert colour(1, 1) == (0, 0, 255)
    assert colour(0, 1) == (255, 255, 255)
    assert colour(0, 4) == (255, 128, 128)
    assert colour(0, 2) == (153, 153, 153)  # the line between


def test_weights_that_are_not_finite_are_drawn_all_the_same() -> None:
    assert pictures.weights(torch.tensor([[float("nan"), float("inf"), 0.0, 1.0]]), 2).size == (
        450,
        450,
    )


class Identity(nn.Module):
    """Says what its first ten inputs are."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :10]


def test_answers_count_confusions_and_rank_by_cost() -> None:
    from manual_bp.training.data import Part

    images = torch.zeros(4, 16, dtype=torch.uint8)
    images[0, 3] = 255  # says 3, rightly
    images[1, 4] = 255  # says 4 for a 9
    images[2, 4] = 100  # says 4, faintly, for a 9
    images[3, 3] = 200  # says 3, rightly, not quite surely
    answers = pictures.Answers.of(
        Identity(), Part(images, torch.tensor([3, 9, 9, 3])), torch.float32
    )
    assert answers.worst(3).tolist() == [1, 2, 3]
    expected = torch.zeros(10, 10, dtype=torch.int64)
    expected[3, 3], expected[9, 4] = 2, 2
    assert torch.equal(answers.confusion, expected)
    drawn = pictures.figure(4, 4)
    pictures.draw_worst(drawn.subplots(), answers, side=4, rows=1, columns=3, font=8)
    assert [t.get_text() for t in drawn.axes[0].texts] == ["9 → 4", "9 → 4", "3 → 3"]
    drawn = pictures.figure(4, 4)
    pictures.draw_confusion(drawn.subplots(), answers)
    assert {(*t.get_position(), t.get_text()) for t in drawn.axes[0].texts} == {
        (3, 3, "2"),
        (4, 9, "2"),
    }


def python(code: str, *path: Path) -> subprocess.CompletedProcess[str]:
    env: dict[str, Any] = {"PYTHONPATH": ":".join(map(str, path))}
    return subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120
    )


def test_a_board_does_not_import_tensorflow(tmp_path: Path) -> None:
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text(
        "raise SystemExit('tensorflow was imported')"
    )
    code = f"""
from pathlib import Path
from manual_bp.training.board import Board
board = Board(Path({str(tmp_path / "run")!r}))
board.scalars({{"cost/train": 1.0}}, 1)
board.close()
"""
    done = python(code, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert read(tmp_path / "run").Scalars("cost/train")[0].value == 1


def test_a_run_imports_tensorboard_and_matplotlib_when_it_uses_them_and_not_before() -> None:
    done = python("""
import sys
from manual_bp.training.command import main
main(["--dataset", "digits", "--dry-run"])
print(sorted({name.split(".")[0] for name in sys.modules} & {"tensorboard", "matplotlib", "PIL"}))
""")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
