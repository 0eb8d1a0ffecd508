"""`python -m manual_bp.trace`: its arguments, the run folders it reads, and the one line it gives for bad input."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import manual_bp as mbp
from manual_bp.trace.__main__ import main
from manual_bp.worked_examples import NETWORKS

ROUNDING = 1e-12


@pytest.mark.parametrize("notation", ["1", "2", "3"])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_in_every_notation(name: str, notation: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--network", name, "--notation", notation]) == 0
    printed = capsys.readouterr().out
    error = float(printed.split("max relative error ")[1].split()[0])
    assert error < ROUNDING


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
        (["--run", "x", "--seed", "1"], "--seed draws the weights of --network"),
        (["--run", "x", "--network", "branching"], "not allowed with argument"),
        (["--seed", "-1"], "--seed -1"),
        (["--run", "x", "--example", "one"], "invalid int value: 'one'"),
    ],
)
def test_wrong_usage_exits_2(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def write_run(folder: Path, model: nn.Module | None = None, **changes: Any) -> Path:
    """A run folder as train.py leaves it, for scikit-learn's digits."""
    folder.mkdir()
    config = {
        "flags": {"cost": "half_per_element", "lr": 0.25, "output": "sigmoid", "data_dir": None},
        "dataset": "digits",
    }
    config["flags"].update(changes.pop("flags", {}))  # type: ignore[attr-defined]
    config.update(changes)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = mbp.MLP([64, 6, 10]) if model is None else model
    torch.save({"model": model.state_dict(), "epoch": 1}, folder / "checkpoint.pt")
    return folder


def test_traces_an_image_through_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run")
    assert main(["--run", str(run), "--example", "5", "--format", "markdown"]) == 0
    printed = capsys.readouterr().out
    assert "digits, test image 5, label" in printed
    assert "64-6-10 network, one example (m = 1), cost half\\_per\\_element, η = 0.25" in printed
    assert float(printed.split("max relative error ")[1].split()[0]) < ROUNDING


def test_the_run_folder_is_read_as_it_was_written(tmp_path: Path) -> None:
    from manual_bp.trace.run_folder import read
    from manual_bp.training import data

    network = mbp.MLP([64, 5, 3, 10], output="linear")
    found = read(write_run(tmp_path / "run", network, flags={"output": "linear"}), 7)
    test = data.load("digits").test
    torch.testing.assert_close(found.x, test.images[7].double() / 255, rtol=0, atol=0)
    assert found.label == int(test.labels[7]) == int(found.y.argmax())
    assert found.y.sum() == 1
    assert (found.cost, found.lr, found.dataset) == ("half_per_element", 0.25, "digits")
    torch.testing.assert_close(found.model(found.x), network.double()(found.x), rtol=1e-15, atol=0)


def test_a_setting_the_run_chose_itself_is_found_beside_the_flags(tmp_path: Path) -> None:
    """train.py without --lr writes the flag as null, and the rate it settled on at the top."""
    from manual_bp.trace.run_folder import read

    assert read(write_run(tmp_path / "chosen", flags={"lr": None, "dataset": "auto"}, lr=2.5), 0).lr == 2.5
    assert read(write_run(tmp_path / "given"), 0).lr == 0.25
    assert read(write_run(tmp_path / "neither", flags={"lr": None}), 0).lr == 1.0


def test_traces_what_train_py_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("train", Path(__file__).parents[1] / "train.py")
    assert spec is not None
    assert spec.loader is not None
    command = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(command)
    arguments = ["--dataset", "digits", "--epochs", "1", "--hidden", "6", "--device", "cpu"]
    command.main([*arguments, "--logdir", str(tmp_path), "--run-name", "trained"])
    capsys.readouterr()
    lr = json.loads((tmp_path / "trained" / "config.json").read_text(encoding="utf-8"))["lr"]
    assert main(["--run", str(tmp_path / "trained")]) == 0
    printed = capsys.readouterr().out
    assert f"64-6-10 network, one example (m = 1), cost half_per_example, η = {lr:g}" in printed
    assert float(printed.split("max relative error ")[1].split()[0]) < ROUNDING


def fault(run: Path, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    """The one line on stderr with which the command exits 1."""
    assert main(["--run", str(run), *more]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def test_no_such_run_names_those_that_are_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "other")
    line = fault(tmp_path / "missing", capsys)
    assert line == f"trace: error: {tmp_path / 'missing'}: there is no such run folder; runs in {tmp_path}: other\n"


@pytest.mark.parametrize("index", ["-1", "300", "99999999999999999999"])
def test_example_out_of_range(index: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = fault(write_run(tmp_path / "run"), capsys, f"--example={index}")
    assert f"--example {index}: the test part of digits has images 0 to 299" in line


def test_a_checkpoint_that_could_run_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run")
    torch.save({"model": nn.Linear(2, 2)}, run / "checkpoint.pt")
    assert "refused: damaged, or it holds more than tensors and plain values" in fault(run, capsys)


def test_a_truncated_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run")
    whole = (run / "checkpoint.pt").read_bytes()
    for length in (0, 100, len(whole) // 2):
        (run / "checkpoint.pt").write_bytes(whole[:length])
        assert "checkpoint.pt: " in fault(run, capsys)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "has no state dict under 'model'"),
        ({"epoch": 3}, "has no state dict under 'model'"),
        ({"model": {}}, "not a network of Linear and Sigmoid layers: it holds nothing"),
        ({"model": nn.Conv2d(1, 2, 3).state_dict()}, "it holds weight, bias, where 0.weight"),
        ({"model": nn.Sequential(nn.Linear(64, 9), nn.BatchNorm1d(9)).state_dict()}, "not a network of Linear"),
        ({"model": {"0.weight": torch.ones(5, 64), "2.weight": torch.ones(10, 4)}}, "not a network of Linear"),
        ({"model": mbp.MLP([784, 10]).state_dict()}, "takes 784 pixels, the images of digits have 64"),
        ({"model": mbp.MLP([64, 2]).state_dict()}, "has 2 outputs"),
    ],
)
def test_foreign_checkpoints(content: Any, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run")
    torch.save(content, run / "checkpoint.pt")
    assert message in fault(run, capsys)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "config.json: cannot be read"),
        ("[]", "has no entry 'flags'"),
        ('{"flags": {}, "dataset": "letters"}', "'letters' in config.json is no known data set"),
        ('{"flags": {"lr": "fast"}, "dataset": "digits"}', "lr is 'fast', a number is needed"),
        ('{"flags": {"cost": "hinge"}, "dataset": "digits"}', "cost 'hinge' is not one of"),
        ('{"flags": {"output": "softmax"}, "dataset": "digits"}', "output is 'softmax', sigmoid or linear expected"),
    ],
)
def test_foreign_configurations(config: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run")
    (run / "config.json").write_text(config, encoding="utf-8")
    assert message in fault(run, capsys)


@pytest.mark.parametrize("name", ["config.json", "checkpoint.pt"])
def test_a_folder_that_lacks_a_file(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run")
    (run / name).unlink()
    assert f"{name}: missing" in fault(run, capsys)


def test_mnist_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "MNIST").write_text("in the way", encoding="utf-8")
    run = write_run(tmp_path / "run", dataset="mnist", flags={"data_dir": str(tmp_path / "MNIST")})
    assert "mnist" in fault(run, capsys)


def test_the_module_runs_and_imports_nothing_heavy() -> None:
    """In an ASCII terminal too: the output is UTF-8."""
    code = (
        "import atexit, runpy, sys; "
        "heavy = lambda: {'torchvision', 'tensorboard', 'matplotlib', 'manual_bp.training'} & set(sys.modules); "
        "atexit.register(lambda: print('heavy:', sorted(heavy()))); "
        "runpy.run_module('manual_bp.trace', run_name='__main__', alter_sys=True)"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, check=False)
    printed = done.stdout.decode("utf-8")
    assert done.returncode == 0, done.stderr.decode()
    assert "Document 1, two-two-two" in printed
    assert "heavy: []" in printed


def test_the_readme_shows_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    readme = Path(__file__).parents[1].joinpath("README.md").read_text(encoding="utf-8")
    section = readme.split("## Show me the maths")[1].split("\n## ")[0]
    assert main([]) == 0
    printed = capsys.readouterr().out
    shown = section.split("```")[1::2]
    assert len(shown) == 2
    for block in shown:
        assert block.strip() in printed
    assert all(f"`{name}`" in section for name in NETWORKS)
