"""Training on a GPU from the command line to the test result."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import train
from manual_bp.training.result import Result

pytestmark = [pytest.mark.cuda, pytest.mark.slow]
ROOT = Path(train.__file__).parent
DIGITS = ("--dataset", "digits", "--device", "cuda", "--seed", "1", "--epochs", "8")


def run(folder: Path, *flags: str) -> Result:
    return train.main([*DIGITS, "--logdir", str(folder), *flags])


def weights(result: Result | Path) -> list[torch.Tensor]:
    path = result if isinstance(result, Path) else result.folder
    assert path is not None
    state: dict[str, Any] = torch.load(path / "checkpoint.pt", weights_only=True)
    return list(state["model"].values())


def assert_same(one: Result | Path, other: Result | Path) -> None:
    assert all(torch.equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))


WAYS = [
    "--engine direct",
    "--engine direct --momentum 0.5 --weight-decay 1e-4",
    "--engine direct --batch-size 100 --epochs 40",
    "--engine direct --hidden 20 20 --epochs 30",
    "--engine direct --dtype float64",
    "--engine direct --augment",
    "--engine autograd",
    "--engine autograd --momentum 0.5 --weight-decay 1e-4",
    "--impl builtin",
    "--amp bf16",
    "--amp fp16",
]


@pytest.mark.parametrize("flags", WAYS)
def test_it_learns(flags: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(tmp_path, *flags.split())
    assert result.test_accuracy >= 0.85
    error = capsys.readouterr().err
    assert "no CUDA graph" not in error
    fits = not any(odd in flags for odd in ("100", "20 20", "float64"))
    assert ("no epoch kernel" in error) == ("direct" in flags and not fits)


def test_it_learns_compiled(tmp_path: Path) -> None:
    assert run(tmp_path, "--compile").test_accuracy >= 0.85


@pytest.mark.parametrize("engine", ["direct", "autograd"])
def test_an_epoch_ends_where_it_does_on_the_cpu(engine: str, tmp_path: Path) -> None:
    flags = ("--engine", engine, "--epochs", "1")
    there = run(tmp_path, *flags).metrics[0]["cost/train"]
    here = run(tmp_path, *flags, "--device", "cpu").metrics[0]["cost/train"]
    assert there == pytest.approx(here, rel=1e-3)


@pytest.mark.parametrize("engine", ["direct", "autograd"])
def test_a_resumed_run_ends_with_the_same_bytes(engine: str, tmp_path: Path) -> None:
    flags = ("--engine", engine, "--lr-schedule", "constant", "--momentum", "0.5")
    whole = run(tmp_path, *flags)
    cut = run(tmp_path, *flags, "--epochs", "4")
    resumed = train.main(["--resume", str(cut.folder), "--epochs", "8"])
    assert_same(whole, resumed)


@pytest.mark.parametrize("engine", ["direct", "autograd"])
def test_deterministic_runs_end_with_the_same_bytes(engine: str, tmp_path: Path) -> None:
    """In processes of their own: cuBLAS reads its setting once."""
    for name in ("one", "two"):
        flags = (*DIGITS, "--engine", engine, "--deterministic", "--run-name", name)
        command = [sys.executable, str(ROOT / "train.py"), *flags, "--logdir", str(tmp_path)]
        subprocess.run(command, check=True, capture_output=True)
    assert_same(tmp_path / "one", tmp_path / "two")


@pytest.mark.skipif(
    not (Path(os.environ.get("MANUAL_BP_DATA", "/none")) / "MNIST").is_dir(), reason="no MNIST here"
)
def test_mnist_with_the_defaults(tmp_path: Path) -> None:
    flags = ["--dataset", "mnist", "--device", "cuda", "--engine", "direct"]
    assert train.main([*flags, "--logdir", str(tmp_path)]).test_accuracy >= 0.975
