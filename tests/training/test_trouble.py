"""A run that goes wrong says so after its first epoch, and a good one says nothing."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from manual_bp import MLP, backprop
from manual_bp.training.dataset import Part
from manual_bp.training.result import Result
from manual_bp.training.trouble import Watch
from tests.training.plans import PLAN

Train = Callable[..., Result]


def lines(text: str, word: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(word)]


def texts(folder: Path | None, tag: str) -> list[tuple[int, str]]:
    events = EventAccumulator(str(folder))
    events.Reload()
    if f"run/{tag}/text_summary" not in events.Tags()["tensors"]:
        return []
    found = events.Tensors(f"run/{tag}/text_summary")
    texts = [event.tensor_proto.string_val[0].decode().replace("`", "") for event in found]
    return [(event.step, text) for event, text in zip(found, texts, strict=True)]


FREEZE = [
    "--lr 20",
    "--momentum 0.9 --lr 5",
    "--lr 8 --batch-size 16",
    "--hidden 300 --lr 6",
    "--init equal --lr 8",
]


@pytest.mark.parametrize("flags", FREEZE)
def test_a_run_that_freezes_is_caught_in_its_first_epoch(
    train: Train, capsys: pytest.CaptureFixture[str], flags: str
) -> None:
    result = train(*flags.split(), "--epochs", "1")
    assert result.metrics[0]["accuracy/validation"] < 0.2
    (line,) = lines(capsys.readouterr().out, "trouble  layer 2 (")
    assert "saturated" in line
    assert (
        f"{result.metrics[0]['cost/validation']:.5g} on the validation images, guessing costs 0.45"
        in line
    )
    assert "try a smaller --lr" in line
    assert ("--momentum 0.9" in line) == ("momentum" in flags)
    ((step, text),) = texts(result.folder, "1 trouble")
    assert step == 1
    assert line.removeprefix("trouble  ") in text


def test_weights_that_are_too_large_are_caught(
    train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    train("--init", "uniform", "--init-epsilon", "20", "--epochs", "1")
    assert lines(capsys.readouterr().out, "trouble  layer 2 (128→10) is saturated")


@pytest.mark.parametrize(("seed", "engine"), [("3", "autograd"), ("4", "direct")])
def test_the_default_run_gives_no_alarm(
    train: Train, capsys: pytest.CaptureFixture[str], seed: str, engine: str
) -> None:
    result = train("--seed", seed, "--engine", engine, "--epochs", "10")
    assert result.test_accuracy > 0.9
    assert lines(capsys.readouterr().out, "trouble") == []
    assert texts(result.folder, "1 trouble") == []


def test_a_trouble_is_said_once_and_again_by_a_resumed_run(
    train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    result = train("--lr", "10", "--epochs", "3")
    assert len(lines(capsys.readouterr().out, "trouble")) == 1
    train("--resume", str(result.folder), "--epochs", "5")
    assert len(lines(capsys.readouterr().out, "trouble")) == 1
    assert [step for step, _ in texts(result.folder, "1 trouble")] == [1, 4]
    results = texts(result.folder, "2 result")
    assert [(step, re.findall(r"trouble after epoch (\d)", told)) for step, told in results] == [
        (3, ["1"]),
        (5, ["1"]),
    ]


def test_the_error_signal_vanishes_layer_by_layer_in_a_deep_sigmoid_network(
    train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    result = train("--hidden", *["30"] * 6, "--epochs", "2")
    for row in result.metrics[:-1]:
        deltas = [row[f"delta_norm/layer{layer:02d}"] for layer in range(1, 8)]
        ratios = [before / after for before, after in pairwise(deltas)]
        assert all(ratio < 0.5 for ratio in ratios), ratios
        assert deltas[0] < 1e-4 * deltas[-1]
    (line,) = lines(capsys.readouterr().out, "trouble")
    assert line.startswith(
        "trouble  layer 3 (30→30), layer 4 (30→30), layer 5 (30→30), layer 6 (30→30): 100 % of the "
        "units give the same output for every image"
    )
    assert "--init uniform --init-epsilon 1" in line


def test_the_remedy_for_a_deep_network_helps(
    train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    remedy = "--init uniform --init-epsilon 1 --lr 1 --epochs 30 --engine direct"
    result = train("--hidden", *["30"] * 6, *remedy.split())
    assert result.test_accuracy > 0.8
    assert lines(capsys.readouterr().out, "trouble") == []


@pytest.mark.parametrize("engine", ["direct", "autograd"])
def test_a_run_stops_when_its_numbers_are_none_and_keeps_the_last_good_checkpoint(
    train: Train, capsys: pytest.CaptureFixture[str], tmp_path: Path, engine: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        train("--output", "linear", "--lr", "3", "--engine", engine, "--run-name", "bad")
    assert stopped.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "train.py: error: epoch 1: cost/train is nan, and layer 1 (64→128), layer 2 (128→10) are "
        "not finite: try a smaller --lr"
    )
    assert line.endswith("checkpoint.pt is that of epoch 0")
    folder = tmp_path / "runs" / "bad"
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    assert state["epoch"] == 0
    assert all(value.isfinite().all() for value in state["model"].values())
    (row,) = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
    assert (row["epoch"], row["cost/train"]) == (1, None)
    ((step, text),) = texts(folder, "1 trouble")
    assert (step, text) == (1, line.removeprefix("train.py: error: "))


# As measured on MNIST, 784-128-10, after the first epoch. Only layer 2's measures matter here.
GOOD = {
    "cost/train": 0.1007,
    "cost/validation": 0.0376,
    "slope/layer02": 0.013,
    "saturated/layer02": 0.81,
    "passed/layer02": 0.15,
}
FROZEN = {
    "cost/train": 0.5006,
    "cost/validation": 0.5,
    "slope/layer02": 4e-7,
    "saturated/layer02": 1.0,
    "passed/layer02": 1e-6,
    "stuck/layer02": 1.0,
}
HALF = {
    "cost/train": 0.4771,
    "cost/validation": 0.4164,
    "slope/layer02": 1e-3,
    "saturated/layer02": 0.98,
    "passed/layer02": 0.016,
    "stuck/layer02": 0.7,
}


LAYERS = backprop.read(MLP(PLAN.sizes))


def measured(**changed: float) -> dict[str, Any]:
    row: dict[str, Any] = {
        "epoch": 1,
        "accuracy/train": 0.9,
        "accuracy/validation": 0.9,
        "grad_norm/total": 0.1,
    }
    for layer in LAYERS:
        row |= {f"{kind}/{layer.tag}": 0.0 for kind in ("saturated", "dead", "stuck")}
        row |= {f"{kind}/{layer.tag}": 0.1 for kind in ("slope", "passed", "delta_norm")}
        row |= {f"{k}/{p}": 0.1 for k in ("update_ratio", "grad_norm") for p in layer.parameters}
    return row | {"time/epoch_seconds": 1.0} | GOOD | changed


@pytest.fixture
def watch() -> Callable[..., Watch]:
    def make(**changed: Any) -> Watch:
        return Watch(
            replace(PLAN, **changed), LAYERS, Part(torch.zeros(1000, 0), torch.arange(1000) % 10)
        )

    return make


def test_measured_rows_of_good_and_frozen_runs(watch: Callable[..., Watch]) -> None:
    assert watch().look(measured(), []) == []
    (frozen,) = watch().look(measured(**FROZEN), [])
    assert frozen.startswith(
        "layer 2 (128→10) is saturated: its slope σ′(z) is 4e-07 on average and lets 1e-06 of the "
        "error through"
    )
    (half,) = watch().look(measured(**HALF), [])
    assert half.startswith("layer 2 (128→10): 7 of 10 output units hardly move")
    early = watch(steps=240)  # an epoch of the digits
    assert early.look(measured(**HALF), []) == []
    assert early.look(measured(**HALF, epoch=5), [measured()])[0].startswith(
        "layer 2 (128→10): 7 of 10"
    )
    assert watch(steps=240).look(measured(**FROZEN), []) == [frozen]


def test_a_trouble_that_has_passed_is_told_so(watch: Callable[..., Watch]) -> None:
    seen = watch()
    frozen, good = measured(**FROZEN), measured(epoch=2)
    (line,) = seen.look(frozen, [])
    assert seen.told() == [(1, line)]
    assert seen.look(good, [frozen]) == []
    assert seen.told() == [(1, f"{line}; by epoch 2 this has passed")]


@pytest.mark.parametrize(
    ("cost", "factor"),
    [("half_per_example", 1), ("half_per_element", 0.1), ("mean", 0.2), ("sum", 2)],
)
def test_divergence_is_measured_in_the_runs_own_cost(
    watch: Callable[..., Watch], cost: str, factor: float
) -> None:
    first = measured(**{"cost/train": 0.5 * factor, "cost/validation": 0.4 * factor})
    seen = watch(cost=cost)
    assert (
        seen.look(
            measured(**{"cost/train": 0.5 * factor, "cost/validation": 0.6 * factor}), [first]
        )
        == []
    )
    worse = measured(
        **{
            "cost/train": 0.5 * factor,
            "cost/validation": 0.7 * factor,
            "update_ratio/layer02.weight": 9.0,
        }
    )
    (line,) = seen.look(worse, [first])
    assert line.startswith(
        f"the cost diverges: {0.7 * factor:.3g} on the validation images, it was {0.4 * factor:.3g}"
    )
    assert "layer 2 (128→10) changed most, by 9 times its own size" in line
    (line,) = watch(cost=cost).look(
        measured(**{"cost/train": 6 * factor, "cost/validation": 6 * factor}), []
    )
    assert f"more than any answer between 0 and 1 can cost ({5 * factor:.3g})" in line


def test_a_slow_start_is_no_divergence(watch: Callable[..., Watch]) -> None:
    assert watch().look(measured(**{"cost/train": 1.25, "cost/validation": 1.2}), []) == []


@pytest.mark.parametrize(
    ("tag", "value"),
    [
        ("cost/train", math.nan),
        ("cost/validation", math.inf),
        ("grad_norm/layer01.weight", math.nan),
        ("update_ratio/layer02.weight", math.inf),
    ],
)
def test_what_is_not_finite_is_named(watch: Callable[..., Watch], tag: str, value: float) -> None:
    (line,) = watch().not_finite(measured(**{tag: value}))
    assert line.startswith(f"epoch 1: {tag} is {value}")
    assert (", and layer 1 (784→128) is not finite" in line) == (tag == "grad_norm/layer01.weight")
    assert watch().not_finite(measured()) == []


def test_steps_that_gradient_scaling_leaves_out_are_no_fault(watch: Callable[..., Watch]) -> None:
    row = measured(**{"grad_norm/total": math.nan, "delta_norm/layer01": math.nan})
    assert watch(amp="fp16").not_finite(row) == []
    assert len(watch().not_finite(row)) == 1
    assert len(watch(amp="fp16").not_finite(measured(**{"cost/train": math.nan}))) == 1


@pytest.mark.parametrize(
    ("flags", "remedy"),
    [
        ("--lr 1e-6 --epochs 6", "try a larger --lr (it is 1e-06)"),
        ("--weight-decay 0.03 --epochs 6", "try a smaller --weight-decay (it is 0.03)"),
    ],
)
def test_a_run_that_learns_nothing_says_so(
    train: Train, capsys: pytest.CaptureFixture[str], flags: str, remedy: str
) -> None:
    result = train("--engine", "direct", *flags.split())
    assert result.metrics[-2]["cost/validation"] > 0.44
    said = lines(capsys.readouterr().out, "trouble")
    assert any(remedy in line for line in said), said


def test_the_update_of_a_bias_that_was_zero_is_no_huge_ratio(train: Train) -> None:
    row = train("--init", "xavier", "--epochs", "1").metrics[0]
    assert row["update_ratio/layer01.bias"] == pytest.approx(1)
    assert row["update_ratio/layer02.bias"] == pytest.approx(1)
