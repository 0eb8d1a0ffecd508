"""What TensorBoard finds in a run's folder."""

from __future__ import annotations

import io
import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2

from manual_bp import MLP, backprop
from manual_bp.training.command import main
from manual_bp.training.dashboard import LAYOUT, METRICS, curves, formulas
from manual_bp.training.run import Result
from tests.training.plans import PLAN
from tests.training.test_event_file import read

EPOCHS = 24
LAYERS = ["layer01", "layer02", "layer03"]
PARAMETERS = [f"{layer}.{kind}" for layer in LAYERS for kind in ("weight", "bias")]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Result:
    logdir = tmp_path_factory.mktemp("dashboard") / "runs"
    flags = (
        f"--dataset digits --hidden 12 7 --epochs {EPOCHS} --histograms 8 --logdir "
        f"{logdir} --run-name seen"
    )
    return main([*flags.split(), "--lr", "2.5"])


@pytest.fixture(scope="module")
def events(run: Result) -> EventAccumulator:
    return read(run.folder)


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
    logarithms = {f"delta_norm_log10/{layer}" for layer in LAYERS}
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
        ("grad_norm", ["total", *PARAMETERS]),
        *((kind, LAYERS) for kind in ("delta_norm", "slope", "saturated", "passed")),
        *((kind, LAYERS) for kind in ("dead", "stuck", "delta_norm_log10")),
        ("update_ratio", PARAMETERS),
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


def test_the_learning_rate_is_a_curve(events: EventAccumulator) -> None:
    rates = [event.value for event in events.Scalars("lr")]
    assert rates[0] == 2.5
    assert rates == sorted(rates, reverse=True)
    assert 0 < rates[-1] < 0.1


def test_every_line_of_the_custom_scalars_layout_finds_a_curve(events: EventAccumulator) -> None:
    (event,) = events.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    assert [category.title for category in layout.category] == list(LAYOUT)
    assert list(LAYOUT) == ["cost", "accuracy", "gradient norms", "δ per layer", "slope × error"]
    scalars = events.Tags()["scalars"]
    found = {}
    for category in layout.category:
        for chart in category.chart:
            for pattern in chart.multiline.tag:  # matched as TensorBoard does
                found[pattern] = [tag for tag in scalars if re.match(pattern, tag)]
                assert found[pattern], pattern
    assert found["delta_norm/.*"] == [f"delta_norm/{layer}" for layer in LAYERS]
    assert found["delta_norm_log10/.*"] == [f"delta_norm_log10/{layer}" for layer in LAYERS]
    assert found[r"grad_norm/.*\.weight"] == [f"grad_norm/{layer}.weight" for layer in LAYERS]


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
    assert set(start) == set(PLAN.as_dict()) - {"data_dir", "data_fingerprint"}
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
    shown = events.Images("weights/layer01")
    assert [image.step for image in shown] == [0, 5, 10, 15, 20, EPOCHS]
    first, last = (
        Image.open(io.BytesIO(image.encoded_image_string)) for image in (shown[0], shown[-1])
    )
    assert first.size == last.size
    assert first.tobytes() != last.tobytes()
    assert first.size[0] >= 400  # an 8 × 8 image is enlarged


def test_the_test_images_are_shown_once_at_the_end(events: EventAccumulator) -> None:
    for tag in ("test/confusion matrix", "test/worst digits, label → answer"):
        (image,) = events.Images(tag)
        assert image.step == EPOCHS
        assert Image.open(io.BytesIO(image.encoded_image_string)).size == (500, 500)


def test_text_tells_configuration_environment_formulas_and_an_example(
    events: EventAccumulator,
) -> None:
    configuration = text(events, "configuration")
    assert "| `lr` | `2.5` |" in configuration
    assert "| `sizes` | `[64, 12, 7, 10]` |" in configuration
    assert all(f"| `{name}` |" in configuration for name in PLAN.as_dict())
    assert f"| `torch` | `{torch.__version__}` |" in text(events, "environment")
    told = text(events, "formulas")
    assert "`s = 1/(2m)`: `--cost half_per_example` (documents 1 and 2)" in told
    assert "| `layer 3 (7→10)` | `δ = ∂C/∂z = 2s (a[3] − y) ⊙ a ⊙ (1 − a)` | `(m, 10)` |" in told
    assert "| `layer 2 (12→7)` | `δ = ∂C/∂z = δ[3] W[3] ⊙ a ⊙ (1 − a)` | `(m, 7)` |" in told
    assert "| `layer 2 (12→7)` | `∂C/∂W = δᵀ a[1]` | `(7, 12)` |" in told
    assert "| `layer 1 (64→12)` | `z = x Wᵀ + b` | `(m, 12)` |" in told
    assert "64-12-7-10 network, one example" in text(events, "trace of one validation image")


@pytest.mark.parametrize("norm", [1e-30, 0.02, 3.0])
def test_a_delta_is_a_curve_and_so_is_its_logarithm(norm: float) -> None:
    found = curves({"epoch": 3, "cost/train": 0.5, "delta_norm/layer02": norm})
    logarithm = {"delta_norm_log10/layer02": math.log10(norm)}
    assert found == {"cost/train": 0.5, "delta_norm/layer02": norm} | logarithm


@pytest.mark.parametrize("norm", [0.0, math.inf, math.nan])
def test_no_logarithm_of_nothing(norm: float) -> None:
    assert list(curves({"epoch": 1, "delta_norm/layer01": norm})) == ["delta_norm/layer01"]


def test_formulas_of_a_linear_output_have_no_slope() -> None:
    told = formulas(backprop.read(MLP([4, 3, 2], output="linear")), PLAN)
    assert "| `layer 2 (3→2)` | `a = z` | `(m, 2)` |" in told
    assert "| `layer 2 (3→2)` | `δ = ∂C/∂z = 2s (a[2] − y)` | `(m, 2)` |" in told


@pytest.mark.parametrize(
    ("cost", "line"),
    [
        ("half_per_element", "`s = 1/(2 m n_out)`: `--cost half_per_element` (document 3)"),
        ("mean", "`s = 1/(m n_out)`: `--cost mean` (torch.nn.MSELoss)"),
        ("sum", '(torch.nn.MSELoss(reduction="sum")); curves show it divided by m'),
    ],
)
def test_the_cost_is_the_one_that_is_taken(cost: str, line: str) -> None:
    assert line in formulas(backprop.read(MLP([4, 2])), replace(PLAN, cost=cost))


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
    plan = replace(PLAN, momentum=momentum, weight_decay=weight_decay)
    assert update in formulas(backprop.read(MLP([4, 2])), plan)


def test_histograms_are_written_every_n_epochs(events: EventAccumulator) -> None:
    expected = {f"{kind}/{name}" for kind in ("weights", "gradients") for name in PARAMETERS}
    expected |= {f"{kind}/{layer}" for kind in ("activations", "delta") for layer in LAYERS}
    assert set(events.Tags()["histograms"]) == expected
    for tag in expected:
        assert [event.step for event in events.Histograms(tag)] == [0, 8, 16, 24]
    assert events.Histograms("weights/layer02.weight")[0].histogram_value.num == 7 * 12
    assert events.Histograms("activations/layer02")[0].histogram_value.num == 300 * 7
    assert events.Histograms("delta/layer03")[0].histogram_value.num == 300 * 10
    assert events.Histograms("activations/layer01")[-1].histogram_value.max <= 1


def test_a_run_imports_tensorboard_and_matplotlib_when_it_uses_them_and_not_before() -> None:
    code = """
import sys
from manual_bp.training.command import main
main(["--dataset", "digits", "--dry-run"])
print(sorted({name.split(".")[0] for name in sys.modules} & {"tensorboard", "matplotlib", "PIL"}))
"""
    command = [sys.executable, "-c", code]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
