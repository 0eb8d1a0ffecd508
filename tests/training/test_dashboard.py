"""What TensorBoard finds in a run's folder."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2

from manual_bp import MLP, backprop
from manual_bp.training.charts import curves, explained, layout
from manual_bp.training.command import main
from manual_bp.training.dashboard import formulas, hyperparameters, markdown
from manual_bp.training.result import Result
from tests.training.plans import PLAN
from tests.training.test_event_file import read

EPOCHS = 24
LAYERS = ["layer01", "layer02", "layer03"]
PARAMETERS = [f"{layer}.{kind}" for layer in LAYERS for kind in ("weight", "bias")]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, drawn_pictures: None) -> Result:
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
        "look.html",
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
    beside = {tag.replace("/", "_log10/") for tag in tags if "_norm/" in tag}
    beside |= {"cost/test", "accuracy/test", "perfect/cost", "perfect/accuracy"}
    assert set(events.Tags()["scalars"]) == tags | beside
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
        *((kind, ["total", *PARAMETERS]) for kind in ("grad_norm", "grad_norm_log10")),
        ("perfect", ["accuracy", "cost"]),
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


def found_by(tags: Sequence[str], pattern: str) -> list[str]:
    return [tag for tag in tags if re.match(pattern, tag)]  # as TensorBoard matches


def test_every_line_of_the_custom_scalars_layout_finds_a_curve(events: EventAccumulator) -> None:
    (event,) = events.Tensors("custom_scalars__config__")
    shown = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    assert [category.title for category in shown.category] == list(layout(3))
    assert [category.title for category in shown.category][:2] == ["accuracy", "cost"]
    scalars = events.Tags()["scalars"]
    found = {}
    for category in shown.category:
        for chart in category.chart:
            for pattern in chart.multiline.tag:
                found[chart.title] = found_by(scalars, pattern)
                assert found[chart.title], pattern
            for series in chart.margin.series:
                assert {series.value, series.lower, series.upper} <= set(scalars)
    layers = ", layers 1 to 5"
    assert found[f"log₁₀ ‖δ‖{layers}"] == [f"delta_norm_log10/{layer}" for layer in LAYERS]
    weights = [f"grad_norm_log10/{layer}.weight" for layer in LAYERS]
    assert found[f"log₁₀ ‖∂C/∂W‖{layers}"] == weights
    assert found["learning rate η"] == ["lr"]


def test_the_axes_of_cost_and_accuracy_reach_what_is_perfect(events: EventAccumulator) -> None:
    """At every epoch, or TensorBoard draws an error in place of the chart."""
    charts = layout(3)
    for kind, perfect in (("accuracy", 1), ("cost", 0)):
        assert [chart[1] for chart in charts[kind].values()] == [
            [f"{kind}/{part}", f"perfect/{kind}", f"perfect/{kind}"]
            for part in ("train", "validation")
        ]
        edge = [(event.step, event.value) for event in events.Scalars(f"perfect/{kind}")]
        assert edge == [(epoch, perfect) for epoch in range(1, EPOCHS + 1)]


@pytest.mark.parametrize("layers", [1, 5, 6, 7, 20])
def test_no_chart_has_more_layers_than_tensorboard_has_marks(layers: int) -> None:
    tags = [
        f"{kind}/layer{n:02d}{end}"
        for n in range(1, layers + 1)
        for kind, end in (("delta_norm_log10", ""), ("grad_norm_log10", ".weight"), ("slope", ""))
    ]
    lines = [
        found_by(tags, pattern)
        for category in layout(layers).values()
        for kind, patterns in category.values()
        if kind == "Multiline"
        for pattern in patterns
    ]
    assert sorted(tag for line in lines for tag in line) == sorted(tags)  # each in one chart
    assert max(map(len, lines)) == min(layers, 5)
    assert all(line == sorted(line) for line in lines)


def test_a_shallow_networks_charts_are_among_a_deep_ones() -> None:
    """TensorBoard merges them: another title or pattern would show a curve twice."""
    deep = layout(7)
    for category, charts in layout(2).items():
        assert {title: deep[category].get(title) for title in charts} == charts


def test_curves_say_what_they_are_and_of_which_layer(events: EventAccumulator) -> None:
    written = {
        tag: (metadata.display_name, metadata.summary_description)
        for tag, metadata in events.summary_metadata.items()
        if tag in events.Tags()["scalars"]
    }
    assert set(written) == set(events.Tags()["scalars"])
    layer = "layer 2 (12→7)"
    for tag, name in {
        "delta_norm/layer02": f"‖δ‖ = ‖∂C/∂z‖, {layer}",
        "delta_norm_log10/layer02": f"log₁₀ ‖δ‖ = ‖∂C/∂z‖, {layer}",
        "grad_norm/layer02.weight": f"‖∂C/∂W‖, {layer}",
        "grad_norm_log10/layer02.bias": f"log₁₀ ‖∂C/∂b‖, {layer}",
        "lr": "learning rate η",
        "accuracy/train": "accuracy/train",
    }.items():
        assert written[tag][0] == name
    assert all(meaning for tag, (_, meaning) in written.items() if not tag.startswith("time/"))
    # TensorBoard's data server keeps a name only with these
    metadata = events.summary_metadata["lr"]
    assert (metadata.data_class, metadata.plugin_data.plugin_name) == (1, "scalars")


def test_a_curve_that_nobody_named_is_its_tag() -> None:
    assert explained("mine/layer01", []) == ("mine/layer01", "")
    assert explained("non_finite/delta/layer01", [])[0] == "NaN or infinite: delta/layer01"


def test_hyperparameters_stand_in_the_runs_own_folder(events: EventAccumulator) -> None:
    """And no summary of the experiment, whose columns TensorBoard would sort by name alone."""
    tags = events.summary_metadata
    data = {
        tag: plugin_data_pb2.HParamsPluginData.FromString(tags[tag].plugin_data.content)
        for tag in tags
        if tags[tag].plugin_data.plugin_name == "hparams"
    }
    assert set(data) == {"_hparams_/session_start_info", "_hparams_/session_end_info"}
    start = data["_hparams_/session_start_info"].session_start_info.hparams
    assert set(start) == {"lr", "sizes", "epochs", "seed"}
    assert start["lr"].number_value == 2.5
    assert start["sizes"].string_value == "64-12-7-10"
    assert (start["epochs"].number_value, start["seed"].number_value) == (EPOCHS, 0)
    assert min(events.Tags()["scalars"]) == "accuracy/test"  # metrics are sorted by name
    assert data["_hparams_/session_end_info"].session_end_info.status == 1  # STATUS_SUCCESS


def test_a_flag_that_is_given_is_a_hyperparameter_and_the_engine_is_none() -> None:
    plan = replace(PLAN, momentum=0.9, augment=True, batch_size_asked=64, engine="direct")
    assert hyperparameters(plan) == {
        "lr": 3.0, "sizes": "784-128-10", "epochs": 10, "seed": 0,
        "momentum": 0.9, "augment": True, "batch_size": 64,
    }  # fmt: skip


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


def test_the_result_stands_before_the_configuration_and_trouble_before_the_result(
    events: EventAccumulator,
) -> None:
    tags = [tag for tag in events.Tags()["tensors"] if tag.startswith("run/")]
    assert min(tags) == "run/2 result/text_summary"
    assert min([*tags, "run/1 trouble"]) == "run/1 trouble"
    told = text(events, "2 result")
    assert re.match(r"test: \d+\.\d\d % right, cost 0\.\d{5}; guessing: 1\d %, 0\.45\n", told)
    assert told.endswith("no trouble was noticed")


def test_the_first_card_of_all_tells_what_happened(events: EventAccumulator) -> None:
    tags = [*events.Tags()["scalars"], *events.Tags()["images"], *events.Tags()["histograms"]]
    assert min(tags) == "a first look/accuracy and trouble"
    (card,) = events.Images(min(tags))
    assert (card.step, card.width, card.height) == (EPOCHS, 320, 210)


def test_a_flag_is_code_with_its_value() -> None:
    assert (
        markdown(["a --lr (it is 3)", "--init uniform"]) == "a `--lr` (it is 3)\n\n`--init uniform`"
    )


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
    found = curves({"epoch": 3, "grad_norm/layer01.weight": norm})
    assert found["grad_norm_log10/layer01.weight"] == math.log10(norm)


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
