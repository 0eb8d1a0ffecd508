"""The command as a whole: what `python train.py` does, writes and returns."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

import train
from manual_bp.training import archive, data, engines, machine, network, terminal
from manual_bp.training.options import parse
from manual_bp.training.plan import settle
from manual_bp.training.result import Result
from manual_bp.training.world import World
from tests.correctness.poison import counted

ROOT = Path(train.__file__).parent


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Result]:
    def call(*flags: str) -> Result:
        return train.main(["--dataset", "digits", "--logdir", str(tmp_path / "runs"), *flags])

    return call


@pytest.mark.parametrize(
    "flags",
    ["--engine direct", pytest.param("--engine autograd", marks=pytest.mark.soak)],
)
def test_default_run_on_digits_learns_and_reports(
    run: Callable[..., Result], capsys: pytest.CaptureFixture[str], flags: str
) -> None:
    result = run(*flags.split())
    out = capsys.readouterr().out
    assert result.test_accuracy >= 0.95
    assert len(result.metrics) == 61
    assert f"accuracy {100 * result.test_accuracy:.2f} %" in out
    last = [line.split()[0] for line in out.strip().splitlines()[-4:]]
    assert last == ["picture", "page", "look", "open"]
    rows = [line.split() for line in out.splitlines() if line.strip()[:1].isdigit()]
    assert [int(row[0]) for row in rows] == list(range(1, 61))


FASTER = r"^faster   --engine direct: the same steps in about \S+ s instead of \S+ s$"


def test_the_last_lines_say_what_the_direct_engine_would_have_saved(
    run: Callable[..., Result],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where it would have: here its seconds are made up."""

    def no_memory(*_: object) -> float:
        raise MemoryError

    for seconds, said in ((lambda *_: 0.0, True), (lambda *_: math.inf, False), (no_memory, False)):
        monkeypatch.setattr(engines, "direct_seconds", seconds)
        run("--epochs", "1")
        assert bool(re.search(FASTER, capsys.readouterr().out, re.MULTILINE)) == said


def test_the_direct_engines_seconds_are_measured_and_change_no_weight() -> None:
    digits = data.load("digits")
    plan = settle(parse(["--dataset", "digits"])[0], digits, torch.device("cpu"), World(), None)
    model = network.build(plan, torch.device("cpu"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert engines.direct_seconds(plan, model, digits.train) > 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("flags", ["--engine direct", "--impl builtin", "--amp bf16"])
def test_nothing_is_said_of_the_direct_engine_where_it_is_no_choice(
    run: Callable[..., Result],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    flags: str,
) -> None:
    monkeypatch.setattr(engines, "direct_seconds", lambda *_: 0.0)
    run("--epochs", "1", *flags.split())
    assert "faster" not in capsys.readouterr().out


def test_a_checkpoints_rows_have_what_the_terminal_prints() -> None:
    row = {**dict.fromkeys(terminal.FIGURES, 0.5), "epoch": 1}
    assert terminal.line(row)
    assert archive.row_fault(row, 1, terminal.FIGURES) is None
    for figure in terminal.FIGURES:
        without = {name: value for name, value in row.items() if name != figure}
        assert archive.row_fault(without, 1, terminal.FIGURES), figure


def test_run_folder_holds_config_metrics_and_checkpoint(run: Callable[..., Result]) -> None:
    result = run("--epochs", "2", "--run-name", "named")
    assert result.folder is not None
    assert result.folder.name == "named"
    config = json.loads((result.folder / "config.json").read_text())
    assert config["cost"] == "half_per_example"
    assert config["sizes"] == [64, 128, 10]
    assert config["seed"] == 0
    assert config["versions"]["torch"] == torch.__version__
    assert config["data_fingerprint"] == data.load("digits").fingerprint
    rows = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 2]
    assert rows == result.metrics
    for key in (
        "cost/train", "cost/validation", "accuracy/train", "accuracy/validation", "grad_norm/total",
        "time/train_seconds", "time/epoch_seconds", "check/max_rel_error", "lr",
    ):  # fmt: skip
        assert key in rows[0], key
    assert {"cost/test", "accuracy/test"} <= set(rows[-1])
    state = torch.load(result.folder / "checkpoint.pt", weights_only=True)["model"]
    assert {name: value.tolist() for name, value in state.items()} == {
        name: value.tolist() for name, value in result.model.state_dict().items()
    }


@pytest.mark.parametrize("engine", ["autograd", "direct"])
def test_tensorboard_has_every_tag_for_every_epoch(run: Callable[..., Result], engine: str) -> None:
    result = run("--epochs", "3", "--hidden", "20", "15", "--engine", engine)
    events = EventAccumulator(str(result.folder))
    events.Reload()
    layers = ["layer01", "layer02", "layer03"]
    parameters = [f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]
    expected = [
        "cost/train",
        "cost/validation",
        "accuracy/train",
        "accuracy/validation",
        "grad_norm/total",
    ]
    expected += ["lr", "check/max_rel_error", "time/train_seconds", "time/epoch_seconds"]
    expected += [f"grad_norm/{name}" for name in parameters] + [
        f"update_ratio/{name}" for name in parameters
    ]
    expected += [
        f"{kind}/{name}" for kind in ("delta_norm", "slope", "saturated") for name in layers
    ]
    for tag in expected:
        assert [event.step for event in events.Scalars(tag)] == [1, 2, 3], tag
    for tag in ("cost/test", "accuracy/test"):
        assert [event.step for event in events.Scalars(tag)] == [3]
    for layer in layers:
        assert all(0 < event.value <= 0.25 for event in events.Scalars(f"slope/{layer}"))


@pytest.mark.parametrize("engine", ["autograd", "direct"])
@pytest.mark.parametrize("cost", ["half_per_example", "half_per_element", "mean", "sum"])
def test_logged_norms_are_those_of_autograd_on_the_builtin_twin(
    run: Callable[..., Result], engine: str, cost: str
) -> None:
    """The epoch again, by hand, with torch.nn alone: every step's gradient and δ."""
    flags = [
        "--epochs",
        "1",
        "--hidden",
        "20",
        "--batch-size",
        "50",
        "--lr",
        "0.01",
        "--cost",
        cost,
    ]
    result = run(*flags, "--engine", engine)
    row = result.metrics[0]
    part = data.load("digits").train
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 20), nn.Sigmoid(), nn.Linear(20, 10), nn.Sigmoid())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    totals, deltas, errors, correct = [], [], 0.0, 0
    batches = torch.randperm(len(part), generator=torch.Generator().manual_seed(0)).split(50)
    for k, rows in enumerate(batches):
        z1 = model[0](part.images[rows] / 255)
        z2 = model[2](model[1](z1))
        a = model[3](z2)
        z1.retain_grad(), z2.retain_grad()
        y = nn.functional.one_hot(part.labels[rows], 10).float()
        squares = (a - y).square()
        m = len(rows)
        s = {
            "half_per_example": 1 / (2 * m),
            "half_per_element": 1 / (20 * m),
            "mean": 1 / (10 * m),
            "sum": 1.0,
        }[cost]
        optimizer.zero_grad()
        (s * squares.sum()).backward()
        totals.append(torch.cat([p.grad.flatten() for p in model.parameters()]).norm().item())
        deltas.append((z1.grad.norm().item(), z2.grad.norm().item()))
        errors += squares.sum().item()
        correct += (a.argmax(1) == part.labels[rows]).sum().item()
        optimizer.param_groups[0]["lr"] = 0.01 * 0.5 * (1 + math.cos(math.pi * k / len(batches)))
        optimizer.step()
    assert row["grad_norm/total"] == pytest.approx(sum(totals) / len(totals), rel=1e-5)
    for i, layer in enumerate(("layer01", "layer02")):
        mean = sum(delta[i] for delta in deltas) / len(deltas)
        assert row[f"delta_norm/{layer}"] == pytest.approx(mean, rel=1e-5)
    per_example = {"half_per_example": 2, "half_per_element": 20, "mean": 10, "sum": 1}[cost]
    assert row["cost/train"] == pytest.approx(errors / (per_example * len(part)), rel=1e-5)
    assert row["accuracy/train"] == pytest.approx(correct / len(part))


@pytest.mark.parametrize("engine", ["autograd", "direct"])
def test_one_seed_gives_the_same_numbers_twice_and_another_gives_others(
    run: Callable[..., Result], engine: str
) -> None:
    def numbers(seed: str) -> list[dict[str, float]]:
        rows = run("--epochs", "2", "--engine", engine, "--seed", seed).metrics
        return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]

    first = numbers("7")
    assert first == numbers("7")
    assert first != numbers("8")


def test_every_layer_that_trains_runs_its_hand_derived_backward(run: Callable[..., Result]) -> None:
    with counted() as calls:
        run("--epochs", "1", "--hidden", "20", "15")
    costs = calls["MSELossFunction"]
    assert costs > 100
    assert calls == {
        "LinearFunction": 3 * costs,
        "SigmoidFunction": 3 * costs,
        "MSELossFunction": costs,
    }


def test_manual_and_builtin_runs_agree(run: Callable[..., Result]) -> None:
    flags = [
        "--epochs",
        "2",
        "--dtype",
        "float64",
        "--lr",
        "1",
        "--momentum",
        "0.5",
        "--weight-decay",
        "1e-4",
    ]
    runs = [
        run(*flags, "--impl", "builtin"),
        run(*flags, "--engine", "autograd"),
        run(*flags, "--engine", "direct"),
    ]
    reference = runs[0].model.state_dict()
    for other in runs[1:]:
        for name, value in other.model.state_dict().items():
            torch.testing.assert_close(value, reference[name], rtol=1e-10, atol=0)


def test_stochastic_and_full_batch_descent(run: Callable[..., Result]) -> None:
    full = run("--epochs", "4", "--batch-size", "full", "--lr", "2")
    assert full.metrics[3]["cost/train"] < full.metrics[0]["cost/train"]
    single = run("--epochs", "1", "--batch-size", "1", "--lr", "0.5")
    assert single.metrics[0]["accuracy/validation"] > full.metrics[3]["accuracy/validation"]


@pytest.mark.parametrize("engine", ["autograd", "direct"])
def test_deterministic_runs_and_puts_the_setting_back(
    run: Callable[..., Result], engine: str
) -> None:
    flags = ["--epochs", "2", "--engine", engine]
    assert run(*flags, "--deterministic").metrics[-1] == run(*flags).metrics[-1]
    assert not torch.are_deterministic_algorithms_enabled()


def test_threads_are_as_asked_and_put_back(
    run: Callable[..., Result], capsys: pytest.CaptureFixture[str]
) -> None:
    before = torch.get_num_threads()
    run("--epochs", "1", "--threads", "2")
    assert "threads: 2 (as asked)" in capsys.readouterr().out
    run("--epochs", "1")  # a step of five digits
    assert "threads: 1 (more would not pay)" in capsys.readouterr().out
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(("batch_size", "threads"), [(64, 1), (1024, 1), (8192, 2)])
def test_threads_are_taken_where_a_step_is_large(
    batch_size: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert machine.choose_threads(None, batch_size, [784, 128, 10]) == threads


def test_dry_run_writes_nothing(
    run: Callable[..., Result], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run("--dry-run")
    assert "nothing was written" in capsys.readouterr().out
    assert result.folder is None
    assert not (tmp_path / "runs").exists()


def test_importing_is_free_of_side_effects_and_heavy_modules_wait_until_they_are_used() -> None:
    code = (
        "import sys, torch; threads = torch.get_num_threads(); state = "
        "torch.random.get_rng_state().sum().item()\n"
        "import train, manual_bp\n"
        "assert threads == torch.get_num_threads() and state == "
        "torch.random.get_rng_state().sum().item()\n"
        "heavy = {'torchvision', 'tensorboard', 'matplotlib', 'sklearn', 'tensorflow'} & "
        "set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "train.main(['--dataset', 'digits', '--dry-run'])\n"
        "heavy = {'tensorboard', 'matplotlib', 'PIL', 'tensorflow'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_help_names_every_flag_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        train.main(["--help"])
    assert stopped.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for words in (
        "--dataset {auto,mnist,fashion-mnist,digits,PATH}", "--cost", "--impl {manual,builtin}",
        "(default: 128)", "(default: cosine)", "(default: 3; 2 on few examples; less for wide",
        "(default: $MANUAL_BP_DATA, else data)",
        "--engine {autograd,direct}", "(default: autograd)",
    ):  # fmt: skip
        assert words in text, words


def test_a_name_that_is_taken_is_refused_and_the_run_there_left_alone(
    run: Callable[..., Result], capsys: pytest.CaptureFixture[str]
) -> None:
    first = run("--epochs", "1", "--run-name", "mine")
    assert first.folder is not None
    before = {path.name: path.read_bytes() for path in first.folder.iterdir()}
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        run("--epochs", "1", "--run-name", "mine")
    assert stopped.value.code == 1
    assert "exists already: choose another --run-name" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in first.folder.iterdir()} == before
