"""What an installed package needs, says and leaves alone."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import manual_bp
from manual_bp.__main__ import COMMANDS, main

ROOT = Path(__file__).parents[1]
EXTRAS = ("torchvision", "tensorboard", "tqdm", "sklearn", "matplotlib", "PIL", "threadpoolctl")
WITH_TORCH_ALONE = f"""
import sys
sys.modules.update(dict.fromkeys({EXTRAS}))  # an import of one of them fails
import torch
import manual_bp as mbp

x, y = torch.rand(4, 3), torch.rand(4, 2)
model = mbp.convert(torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Sigmoid()))
mbp.MSELoss("half_per_example")(model(x), y).backward()
mbp.direct.Trainer(model, lr=0.5, batch_size=4, backend="torch").step(x, y)
assert mbp.verify.check(mbp.functional.sigmoid, (x,)).ok
assert "∂J/∂" in mbp.trace.text(model, x[0], y[0])
assert mbp.worked_examples.one_path().max_relative_error < 1e-12
assert mbp.view.html(model, x[0], y[0]).startswith("<!doctype html>")
from manual_bp.__main__ import main
assert main(["examples", "one-path"]) == 0
assert main(["trace", "two-two-two"]) == 0
assert main(["verify", "torch:sin", "--inputs", "randn(3)"]) == 0
assert main(["bench"]) == 1
main(["train", "--dataset", "digits"])
"""

HEAVY = ("torch", "numpy", *EXTRAS)
WITHOUT_TORCH = """
import runpy, sys

class Refuse:
    def find_spec(self, name, *_):
        assert name not in {heavy}, f"{{name}} is imported"

sys.meta_path.insert(0, Refuse())
room, *sys.argv[1:] = "{line}".split(" ") if "{line}".startswith(".") else ["", *"{line}".split()]
runpy.run_module("manual_bp" + room, run_name="__main__", alter_sys=True)
"""


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)


def test_all_but_training_works_with_torch_alone(tmp_path: Path) -> None:
    done = run(WITH_TORCH_ALONE, tmp_path)
    needed = "torchvision, tensorboard, tqdm, sklearn, matplotlib, PIL"
    train = f"manual-bp train: error: this needs {needed}: pip install 'manual_bp[train]'\n"
    bench = "manual-bp bench: error: this needs threadpoolctl: pip install 'manual_bp[bench]'\n"
    assert (done.returncode, done.stderr) == (1, bench + train)
    assert list(tmp_path.iterdir()) == []


def test_torch_is_the_one_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert [line.partition(">")[0] for line in project["dependencies"]] == ["torch"]


@pytest.mark.parametrize(
    "line",
    [
        "",
        "--help",
        "--version",
        *(f"{command} --help" for command in COMMANDS),
        *(f".{home} --help" for home in ("verify", "trace", "bench", "view", "worked_examples")),
    ],
)
def test_help_does_without_torch(line: str, tmp_path: Path) -> None:
    done = run(WITHOUT_TORCH.format(line=line, heavy=HEAVY), tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "manual" in done.stdout


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        *(f"{command} --nonsense" for command in COMMANDS),
        "train --epochs -1",
        "trace nonsense",
        "trace --example 3",
        "examples nonsense",
        "verify --inputs randn(3)",
        "verify --dtype int8",
        "bench --configurations 784",
        "bench --device tpu",
        "bench --picture x.foo",
    ],
)
def test_wrong_usage_is_said_without_torch(line: str, tmp_path: Path) -> None:
    done = run(WITHOUT_TORCH.format(line=line, heavy=HEAVY), tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "manual-bp" in done.stderr or "manual_bp" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_version_has_one_source(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"manual_bp {manual_bp.__version__}\n"
    assert importlib.metadata.version("manual_bp") == manual_bp.__version__


def test_an_unknown_command_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["learn"]) == 2
    names = ", ".join(COMMANDS)
    assert capsys.readouterr().err == f"manual-bp: error: 'learn' is not one of {names}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_called_what_the_person_typed(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: manual-bp {command} ")
