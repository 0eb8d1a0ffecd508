"""A run's folder has one writer, keeps nothing half written, and belongs to its run alone."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from manual_bp.training.command import main
from manual_bp.training.errors import UserError
from manual_bp.training.result import Result
from manual_bp.training.run import Run
from manual_bp.training.run_folder import RunFolder
from tests.training.plans import PLAN

Train = Callable[..., Result]
ROOT = Path(__file__).parents[2]


def folder_of(result: Result) -> Path:
    assert result.folder is not None
    return result.folder


def test_a_second_writer_is_refused_and_a_later_one_is_not(
    train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(train("--epochs", "1"))
    first = RunFolder(folder)
    first.take()
    with pytest.raises(SystemExit) as stopped:
        main(["--resume", str(folder), "--epochs", "2"])
    assert stopped.value.code == 1
    assert "another process is writing this run" in capsys.readouterr().err
    first.release()
    main(["--resume", str(folder), "--epochs", "2"])


def test_what_a_killed_process_left_half_written_goes(train: Train) -> None:
    folder = folder_of(train("--epochs", "1"))
    (folder / ".checkpoint.pt-abc").write_bytes(b"half")
    (folder / ".mine").write_bytes(b"kept")
    main(["--resume", str(folder), "--epochs", "2"])
    assert sorted(path.name for path in folder.iterdir() if path.name.startswith(".")) == [".mine"]


def test_an_interrupted_write_leaves_nothing(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(train("--epochs", "1"))
    before = sorted(folder.iterdir())

    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        RunFolder(folder).write_checkpoint({"epoch": 2})
    assert sorted(folder.iterdir()) == before
    assert torch.load(folder / "checkpoint.pt", weights_only=True)["epoch"] == 1


def test_a_copy_of_a_checkpoint_elsewhere_is_not_resumed(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(train("--epochs", "1"))
    elsewhere = tmp_path / "kept"
    elsewhere.mkdir()
    (elsewhere / "metrics.jsonl").write_text("precious")
    for name in ("checkpoint.pt", "second.pt"):
        (elsewhere / name).write_bytes((folder / "checkpoint.pt").read_bytes())
        with pytest.raises(SystemExit) as stopped:
            main(["--resume", str(elsewhere / name), "--epochs", "2"])
        assert stopped.value.code == 1
        assert "copy the whole run folder" in capsys.readouterr().err
    assert (elsewhere / "metrics.jsonl").read_text() == "precious"


def test_a_run_without_a_name_is_called_by_what_it_learns(train: Train) -> None:
    flags = ["--epochs", "0", "--hidden", "8", "8", "5", "--lr", "0.5", "--seed", "7"]
    names = [folder_of(train(*flags)).name for _ in range(3)]
    assert names == [f"digits-2x8-5-lr0.5-s7{end}" for end in ("", "-2", "-3")]


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({}, "mnist-128-lr3-s0"),
        ({"sizes": (784, 10), "lr": 1e-05}, "mnist-lr1e-05-s0"),
        ({"sizes": (784, *[30] * 6, 10), "lr": 0.1, "seed": 3}, "mnist-6x30-lr0.1-s3"),
        ({"dataset": "/my/data"}, "data-128-lr3-s0"),
    ],
)
def test_a_runs_own_name_is_short_and_tells_lr_and_seed(changed: dict[str, Any], name: str) -> None:
    assert replace(PLAN, **changed).run_name == name


def test_a_run_says_where_to_look(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_of(train("--epochs", "0"))
    look, address = capsys.readouterr().out.splitlines()[-2:]
    assert look == f"look     tensorboard --logdir {folder.parent}"
    assert address == "open     http://localhost:6006/#custom_scalars&_smoothingWeight=0"


def test_latest_is_no_folder_that_is_still_being_made(train: Train, tmp_path: Path) -> None:
    folder = folder_of(train("--epochs", "1"))
    half = tmp_path / "runs" / ".new-abc"
    half.mkdir()
    (half / "checkpoint.pt").write_bytes((folder / "checkpoint.pt").read_bytes())
    result = main(["--resume", "latest", "--logdir", str(tmp_path / "runs"), "--epochs", "2"])
    assert result.folder == folder


def test_a_complete_run_that_is_resumed_is_left_as_it_is(train: Train) -> None:
    folder = folder_of(train("--epochs", "1"))
    before = {
        path.name: path.read_bytes() for path in folder.iterdir() if path.name != "config.json"
    }
    main(["--resume", str(folder)])
    assert {
        path.name: path.read_bytes() for path in folder.iterdir() if path.name != "config.json"
    } == before


def test_a_run_that_was_extended_and_cut_short_before_its_test_is_tested(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(train("--epochs", "1"))

    def interrupted(_: Run) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Run, "_test", interrupted)
        with pytest.raises(SystemExit):
            main(["--resume", str(folder), "--epochs", "2"])
    assert "cost/test" not in (folder / "metrics.jsonl").read_text()
    main(["--resume", str(folder)])
    assert "cost/test" in (folder / "metrics.jsonl").read_text().splitlines()[-1]


def test_a_run_on_the_digits_goes_on_with_them_once_mnist_is_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, made_up_mnist: Path
) -> None:
    logdir = ["--logdir", str(tmp_path / "runs")]
    monkeypatch.setattr("manual_bp.training.data._download", no_network)
    monkeypatch.setenv("MANUAL_BP_DATA", str(tmp_path / "nothing"))
    folder = folder_of(main(["--dataset", "auto", "--epochs", "1", *logdir]))
    monkeypatch.setenv("MANUAL_BP_DATA", str(made_up_mnist))
    result = main(["--resume", str(folder), "--epochs", "2"])
    assert [row["epoch"] for row in result.metrics] == [1, 2, 2]


def no_network(name: str, root: Path) -> None:
    raise UserError("there is no network")


def test_output_that_cannot_be_printed(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stdout)
    train("--epochs", "1")
    stdout.flush()
    assert ", η = 2 cosine".encode() in stdout.buffer.getvalue()  # type: ignore[attr-defined]


@pytest.mark.slow
def test_output_that_cannot_be_written(tmp_path: Path) -> None:
    command = [sys.executable, "train.py", "--dataset", "digits", "--device", "cpu"]
    command += ["--logdir", str(tmp_path), "--epochs", "1"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert done.stderr == "train.py: error: No space left on device: nothing was saved\n"
