"""A run that goes wrong says so after its first epoch, and a good one says nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from manual_bp.training.options import parse
from manual_bp.training.run import Result
from manual_bp.training.trouble import Watch

Train = Callable[..., Result]


def lines(text: str, word: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(word)]


def texts(folder: Path | None, tag: str) -> list[tuple[int, str]]:
    events = EventAccumulator(str(folder))
    events.Reload()
    if f"run/{tag}/text_summary" not in events.Tags()["tensors"]:
        return []
    found = events.Tensors(f"run/{tag}/text_summary")
    return [(event.step, event.tensor_proto.string_val[0].decode()) for event in found]


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
    (line,) = lines(capsys.readouterr().out, "trouble  layer 2 ")
    assert "saturated" in line
    assert (
        f"{result.metrics[0]['cost/validation']:.5g} on the validation images, guessing costs 0.45"
        in line
    )
    assert "try a smaller --lr" in line
    assert ("--momentum 0.9" in line) == ("momentum" in flags)
    ((step, text),) = texts(result.folder, "trouble")
    assert step == 1
    assert line.removeprefix("trouble  ") in text


def test_weights_that_are_too_large_are_caught(
    train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    train("--init", "uniform", "--init-epsilon", "20", "--epochs", "1")
    assert lines(capsys.readouterr().out, "trouble  layer 2 is saturated")


@pytest.mark.parametrize("seed", ["3", "4"])
def test_the_default_run_gives_no_alarm(
    train: Train, capsys: pytest.CaptureFixture[str], seed: str
) -> None:
    result = train("--seed", seed, "--epochs", "10")
    assert result.test_accuracy > 0.9
    assert lines(capsys.readouterr().out, "trouble") == []
    assert texts(result.folder, "trouble") == []


def test_a_trouble_is_said_once_and_again_by_a_resumed_run(
    train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    result = train("--lr", "10", "--epochs", "3")
    assert len(lines(capsys.readouterr().out, "trouble")) == 1
    train("--resume", str(result.folder), "--epochs", "5")
    assert len(lines(capsys.readouterr().out, "trouble")) == 1
    assert [step for step, _ in texts(result.folder, "trouble")] == [1, 4]


def test_the_error_signal_vanishes_layer_by_layer_in_a_deep_sigmoid_network(
    train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    result = train("--hidden", *["30"] * 6, "--epochs", "2")
    for row in result.metrics[:-1]:
        deltas = [row[f"delta_norm/{layer}"] for layer in range(0, 14, 2)]
        ratios = [before / after for before, after in pairwise(deltas)]
        assert all(ratio < 0.5 for ratio in ratios), ratios
        assert deltas[0] < 1e-4 * deltas[-1]
    (line,) = lines(capsys.readouterr().out, "trouble")
    assert line.startswith(
        "trouble  layers 4, 6, 8, 10: 100 % of the units give the same output for every image"
    )
    assert "--init uniform --init-epsilon 1" in line


def test_the_remedy_for_a_deep_network_helps(
    train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    remedy = "--init uniform --init-epsilon 1 --lr 1 --epochs 30"
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
        "train.py: error: epoch 1: cost/train is nan, and layers 0, 2 not finite: try a smaller "
        "--lr"
    )
    assert line.endswith("checkpoint.pt is that of epoch 0")
    folder = tmp_path / "runs" / "bad"
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    assert state["epoch"] == 0
    assert all(value.isfinite().all() for value in state["model"].values())
    (row,) = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
    assert (row["epoch"], row["cost/train"]) == (1, None)
    ((step, text),) = texts(folder, "trouble")
    assert (step, text) == (1, line.removeprefix("train.py: error: "))


# As measured on MNIST, 784-128-10, after the first epoch; layer 2 only where the value of layer 0
# plays no part.
GOOD = {
    "cost/train": 0.1007,
    "cost/validation": 0.0376,
    "slope/2": 0.013,
    "saturated/2": 0.81,
    "passed/2": 0.15,
}
FROZEN = {
    "cost/train": 0.5006,
    "cost/validation": 0.5,
    "slope/2": 4e-7,
    "saturated/2": 1.0,
    "passed/2": 1e-6,
    "stuck/2": 1.0,
}
HALF = {
    "cost/train": 0.4771,
    "cost/validation": 0.4164,
    "slope/2": 1e-3,
    "saturated/2": 0.98,
    "passed/2": 0.016,
    "stuck/2": 0.7,
}


def measured(**changed: float) -> dict[str, Any]:
    row: dict[str, Any] = {
        "epoch": 1,
        "accuracy/train": 0.9,
        "accuracy/validation": 0.9,
        "grad_norm/total": 0.1,
    }
    for layer in (0, 2):
        row |= {f"{kind}/{layer}": 0.0 for kind in ("saturated", "dead", "stuck")}
        row |= {
            f"{kind}/{layer}": 0.1
            for kind in ("slope", "passed", "delta_norm", "update_ratio", "grad_norm")
        }
        row[f"update_ratio/{layer}.weight"] = row.pop(f"update_ratio/{layer}")
        row[f"grad_norm/{layer}.weight"] = row.pop(f"grad_norm/{layer}")
    return row | {"time/epoch_seconds": 1.0} | GOOD | changed


@pytest.fixture
def watch() -> Callable[..., Watch]:
    def make(*flags: str, steps: int = 5000) -> Watch:
        return Watch(parse(flags)[0], 3.0, steps, torch.arange(1000) % 10)

    return make


def test_measured_rows_of_good_and_frozen_runs(watch: Callable[..., Watch]) -> None:
    assert watch().look(measured(), []) == []
    (frozen,) = watch().look(measured(**FROZEN), [])
    assert frozen.startswith(
        "layer 2 is saturated: its slope σ′(z) is 4e-07 on average and lets 1e-06 of the error"
    )
    (half,) = watch().look(measured(**HALF), [])
    assert half.startswith("layer 2: 7 of 10 output units hardly move")
    early = watch(steps=240)  # an epoch of the digits
    assert early.look(measured(**HALF), []) == []
    assert early.look(measured(**HALF, epoch=5), [measured()])[0].startswith("layer 2: 7 of 10")
    assert watch(steps=240).look(measured(**FROZEN), []) == [frozen]


@pytest.mark.parametrize(
    ("cost", "factor"),
    [("half_per_example", 1), ("half_per_element", 0.1), ("mean", 0.2), ("sum", 2)],
)
def test_divergence_is_measured_in_the_runs_own_cost(
    watch: Callable[..., Watch], cost: str, factor: float
) -> None:
    first = measured(**{"cost/train": 0.5 * factor, "cost/validation": 0.4 * factor})
    seen = watch("--cost", cost)
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
            "update_ratio/2.weight": 9.0,
        }
    )
    (line,) = seen.look(worse, [first])
    assert line.startswith(
        f"the cost diverges: {0.7 * factor:.3g} on the validation images, it was {0.4 * factor:.3g}"
    )
    assert "layer 2 changed most, by 9 times its own size" in line
    (line,) = watch("--cost", cost).look(
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
        ("grad_norm/0.weight", math.nan),
        ("update_ratio/2.weight", math.inf),
    ],
)
def test_what_is_not_finite_is_named(watch: Callable[..., Watch], tag: str, value: float) -> None:
    (line,) = watch().not_finite(measured(**{tag: value}))
    assert line.startswith(f"epoch 1: {tag} is {value}")
    assert ("layer 0 not finite" in line) == (tag == "grad_norm/0.weight")
    assert watch().not_finite(measured()) == []


def test_steps_that_gradient_scaling_leaves_out_are_no_fault(watch: Callable[..., Watch]) -> None:
    row = measured(**{"grad_norm/total": math.nan, "delta_norm/0": math.nan})
    assert watch("--amp", "fp16").not_finite(row) == []
    assert len(watch().not_finite(row)) == 1
    assert len(watch("--amp", "fp16").not_finite(measured(**{"cost/train": math.nan}))) == 1


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
    result = train(*flags.split())
    assert result.metrics[-2]["cost/validation"] > 0.44
    said = lines(capsys.readouterr().out, "trouble")
    assert any(remedy in line for line in said), said


def test_the_update_of_a_bias_that_was_zero_is_no_huge_ratio(train: Train) -> None:
    row = train("--init", "xavier", "--epochs", "1").metrics[0]
    assert row["update_ratio/0.bias"] == pytest.approx(1)
    assert row["update_ratio/2.bias"] == pytest.approx(1)
