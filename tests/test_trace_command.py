"""`python -m manual_bp.trace`: its arguments, the runs it reads, one line for bad input."""

import json
import os
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import manual_bp as mbp
from manual_bp import trace
from manual_bp.trace.__main__ import main
from manual_bp.training import command, data
from manual_bp.training.traced_run import read
from manual_bp.worked_examples import EXAMPLES, NETWORKS

ROUNDING = 1e-12
PAGE = Path(trace.__file__).with_name("README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("notation", ["1", "2", "3"])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_in_every_notation(
    name: str, notation: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--network", name, "--notation", notation]) == 0
    printed = capsys.readouterr().out
    error = float(printed.split("max relative error ")[1].split()[0].replace("−", "-"))
    assert error < ROUNDING


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        (
            "two-two-two",
            ["θ₁₁⁽¹⁾ = 3 ln 3 = 3.296", "θ₁₂⁽¹⁾ = −ln 3 = −1.099", "θ₁₂⁽²⁾ = −2 ln 3 = −2.197"],
        ),
        (
            "branching",
            ["w_{in→i} = 1/2 ln 3 = 0.5493", "w_{i→k} = 8/3 ln 3 = 2.93", "w_{k→o} = −1"],
        ),
        ("vector-form", ["w₁₁¹ = ln 3 = 1.099", "b₁¹ = 2 ln 3 = 2.197"]),
    ],
)
def test_a_documents_weights_are_written_as_they_are_meant(
    name: str, lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([name]) == 0
    printed = capsys.readouterr().out
    assert set(lines) < {line.strip() for line in printed.splitlines()}
    assert re.findall(r"e-\d", printed) == []  # one minus sign, no hyphen
    assert main([name, "--seed", "1"]) == 0
    assert "ln 3" not in capsys.readouterr().out


def test_a_network_has_one_name_in_both_commands(capsys: pytest.CaptureFixture[str]) -> None:
    several_examples = {"minibatch", "three-descents"}
    assert set(NETWORKS) == set(EXAMPLES) - several_examples
    for name in NETWORKS:
        assert main([name]) == 0
        by_position = capsys.readouterr().out
        assert main(["--network", name]) == 0
        assert capsys.readouterr().out == by_position


def test_seed_draws_other_weights_and_repeats(capsys: pytest.CaptureFixture[str]) -> None:
    printed = []
    for seed in ("1", "1", "2"):
        assert main(["--seed", seed]) == 0
        printed.append(capsys.readouterr().out.replace(f"seed {seed}", "seed"))
    assert printed[0] == printed[1] != printed[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--network", "nonsense"], "invalid choice: 'nonsense'"),
        (["--notation", "4"], "invalid choice: 4"),
        (["--example", "3"], "--example chooses an image of a run"),
        (["nonsense"], "invalid choice: 'nonsense'"),
        (["branching", "--run", "x"], "not allowed with argument"),
        (["branching", "--network", "branching"], "not allowed with argument"),
        (["--run", "x", "--seed", "1"], "--seed draws the weights of a document's network"),
        (["--run", "x", "--network", "branching"], "not allowed with argument"),
        (["--seed", "-1"], "--seed -1"),
        (["--run", "x", "--example", "one"], "invalid int value: 'one'"),
    ],
)
def test_wrong_usage_exits_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch, as train.py leaves it."""
    return train(tmp_path_factory.mktemp("runs"), "trained")


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy to be spoilt."""
    return shutil.copytree(trained, tmp_path / "runs" / "run")


def train(runs: Path, name: str, *flags: str) -> Path:
    arguments = ["--dataset", "digits", "--epochs", "1", "--hidden", "6", "--device", "cpu", *flags]
    folder = command.main([*arguments, "--logdir", str(runs), "--run-name", name]).folder
    assert folder is not None
    return folder


def rewrite(run: Path, plan: dict[str, Any] | None = None, **entries: Any) -> Path:
    """Change entries of a run's checkpoint."""
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    state["plan"].update(plan or {})
    torch.save({**state, **entries}, run / "checkpoint.pt")
    return run


def test_traces_what_train_py_wrote(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--run", str(trained), "--example", "5", "--format", "markdown"]) == 0
    printed = capsys.readouterr().out
    assert "digits, test image 5, label" in printed
    lr = json.loads((trained / "config.json").read_text(encoding="utf-8"))["lr"]
    assert f"64-6-10 network, one example (m = 1), cost half\\_per\\_example, η = {lr:g}" in printed
    assert float(printed.split("max relative error ")[1].split()[0].replace("−", "-")) < ROUNDING


def test_the_run_is_read_as_it_was_trained(tmp_path: Path) -> None:
    """Its own cost, rate, output, data and weights, with torch.nn's layers too."""
    flags = "--hidden 5 3 --output linear --cost mean --lr 0.25 --impl builtin"
    found = read(str(train(tmp_path, "run", *flags.split())), 7)
    x, y = data.load("digits").test[7:8].batch(torch.float64)
    assert torch.equal(found.x, x)
    assert torch.equal(found.y, y)
    assert found.label == int(y.argmax())
    assert (found.cost, found.lr, found.dataset) == ("mean", 0.25, "digits")
    weights = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["model"]
    kinds = [mbp.Linear, mbp.Sigmoid, mbp.Linear, mbp.Sigmoid, mbp.Linear]
    assert [type(layer) for layer in found.model] == kinds
    assert all(
        torch.equal(value, weights[name].double())
        for name, value in found.model.state_dict().items()
    )


def test_a_run_is_found_by_folder_checkpoint_name_and_as_the_latest(
    tmp_path: Path,
    trained: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, second in (("first", 200), ("last", 300), ("middle", 250)):
        shutil.copytree(trained, tmp_path / "runs" / name)
        os.utime(tmp_path / "runs" / name / "checkpoint.pt", (second, second))
    (tmp_path / "first").mkdir()  # no run, and not in the way of one
    monkeypatch.chdir(tmp_path)
    for argument, folder in (
        ("runs/middle", "runs/middle"),
        ("runs/middle/checkpoint.pt", "runs/middle"),
        ("first", "runs/first"),
        ("latest", "runs/last"),
        (str(trained), str(trained)),
    ):
        assert main(["--run", argument]) == 0
        assert capsys.readouterr().out.startswith(f"{folder}: digits, test image 0")


def fault(run: Path, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    """The one line on stderr with which the command exits 1."""
    assert main(["--run", str(run), *more]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def test_no_such_run_names_those_that_are_there(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = run.parent / "missing"
    line = fault(missing, capsys)
    assert line == f"trace: error: {missing}: there is no such run; runs in {run.parent}: run\n"
    monkeypatch.chdir(tmp_path)
    assert (
        fault(Path("missing"), capsys)
        == "trace: error: missing: there is no such run; runs in runs: run\n"
    )
    shutil.rmtree("runs")
    train_one = "no runs in runs: train one first\n"
    assert (
        fault(Path("missing"), capsys)
        == f"trace: error: missing: there is no such run; {train_one}"
    )
    assert (
        fault(Path("latest"), capsys) == f"trace: error: latest: there is no such run; {train_one}"
    )
    assert "File name too long" in fault(Path("n" * 300), capsys)


@pytest.mark.parametrize("index", ["-1", "300", "99999999999999999999"])
def test_example_out_of_range(
    index: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = fault(trained, capsys, f"--example={index}")
    assert f"--example {index}: the test part of digits has images 0 to 299" in line


def test_a_checkpoint_that_could_run_code_is_refused(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"model": nn.Linear(2, 2)}, run / "checkpoint.pt")
    assert "refused: damaged, or it holds objects other than tensors and plain values" in fault(
        run, capsys
    )


def test_a_truncated_checkpoint(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = (run / "checkpoint.pt").read_bytes()
    for length in (0, 100, len(whole) // 2):
        (run / "checkpoint.pt").write_bytes(whole[:length])
        assert "checkpoint.pt: " in fault(run, capsys)


@pytest.mark.parametrize("content", [[1, 2], {"model": {}}, mbp.MLP([64, 10]).state_dict()])
def test_foreign_checkpoints(content: Any, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(content, run / "checkpoint.pt")
    assert "not a checkpoint of train.py" in fault(run, capsys)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"format": 99}, "has the checkpoint format 99, this version reads 3"),
        ({"model": [1]}, "its entry 'model' is missing or not a dict"),
        (
            {"model": {}},
            "holds nothing, which do not make the network 64-6-10 of its plan",
        ),
        ({"model": {0: 1.0}}, "holds 0, which do not make the network"),
        (
            {"model": nn.Conv2d(1, 2, 3).state_dict()},
            "holds weight, bias, which do not make the network",
        ),
        (
            {"model": mbp.MLP([64, 5, 10]).state_dict()},
            "holds 0.weight, 0.bias, 2.weight, 2.bias, which do not",
        ),
        ({"plan": {"sizes": [64, 7, 10]}}, "which do not make the network 64-7-10"),
        ({"plan": {"lr": "fast"}}, "argument --lr: 'fast' is not a number above 0"),
        ({"plan": {"cost": "hinge"}}, "argument --cost: invalid choice: 'hinge'"),
        ({"plan": {"output": "softmax"}}, "argument --output: invalid choice: 'softmax'"),
        ({"plan": {"dataset": "letters"}}, "argument --dataset: invalid choice: 'letters'"),
        ({"plan": {"data_fingerprint": "0"}}, "was trained on other digits data than these"),
    ],
)
def test_changed_checkpoints(
    entries: Any, message: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in fault(rewrite(run, **entries), capsys)


def test_a_folder_without_a_checkpoint(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "checkpoint.pt").unlink()
    assert "checkpoint.pt: missing" in fault(run, capsys)


def test_mnist_that_is_not_there_is_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "MNIST").write_text("in the way", encoding="utf-8")
    rewrite(run, {"data_dir": str(tmp_path / "MNIST"), "dataset": "mnist"})
    assert "mnist" in fault(run, capsys)


def test_the_module_runs_and_imports_nothing_heavy() -> None:
    """In an ASCII terminal too: the output is UTF-8."""
    code = (
        "import atexit, runpy, sys; "
        "heavy = lambda: {'torchvision', 'tensorboard', 'matplotlib', 'manual_bp.training', "
        "'manual_bp.direct'} & set(sys.modules); "
        "atexit.register(lambda: print('heavy:', sorted(heavy()))); "
        "runpy.run_module('manual_bp.trace', run_name='__main__', alter_sys=True)"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env=environment, check=False
    )
    printed = done.stdout.decode("utf-8")
    assert done.returncode == 0, done.stderr.decode()
    assert "Document 1, two-two-two" in printed
    assert "heavy: []" in printed


def test_the_rooms_table_is_a_traces(capsys: pytest.CaptureFixture[str]) -> None:
    """The run it shows is not trained in a test: its rows must at least fit one another."""
    assert main([]) == 0
    printed = capsys.readouterr().out
    table = next(block for block in PAGE.split("```") if block.strip().startswith("layer "))
    header, *rows = table.strip().splitlines()
    assert " ".join(header.split()) in " ".join(printed.split())
    figures = [[float(cell.replace("−", "-")) for cell in row.split()[3:]] for row in rows]
    assert [row.split()[1] for row in rows] == list("7654321")
    for after, (_, slope, delta, ratio, gradient) in pairwise(figures):
        assert slope <= 1 / 4
        assert gradient < after[-1]
        assert ratio == pytest.approx(delta / after[2], rel=1e-3)


def test_the_room_names_every_network() -> None:
    assert [name for name in NETWORKS if f"`{name}`" not in PAGE] == []
