"""Another process moves the run on, takes its name, or leaves its processes waiting."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from manual_bp.training import checkpoint, data, world
from manual_bp.training.command import main
from manual_bp.training.errors import UserError
from manual_bp.training.result import Result
from manual_bp.training.run_folder import RunFolder
from tests.training.test_distributed import (
    FLAGS,
    PATIENCE,
    ROOT,
    children,
    free_port,
    quiet,
    rank_of,
    wait_for,
)

Train = Callable[..., Result]
QUICK = ["--engine", "direct", "--hidden", "6", "--lr-schedule", "constant"]


@pytest.fixture
def run(train: Train) -> Path:
    folder = train(*QUICK, "--epochs", "1", "--run-name", "one").folder
    assert folder is not None
    return folder


@pytest.mark.parametrize("epochs", [2, 4, 5])
def test_what_another_process_did_meanwhile_is_kept(
    epochs: int, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The other comes between the moment when this one has found the run, and its lock."""
    take, others = RunFolder.take, [["--resume", str(run), "--epochs", "4"]]

    def late(folder: RunFolder) -> None:
        while others:
            main(others.pop())
        take(folder)

    monkeypatch.setattr(RunFolder, "take", late)
    if epochs < 4:
        with pytest.raises(SystemExit):
            main(["--resume", str(run), "--epochs", str(epochs)])
        assert "has 4 epochs already, 2 are asked for" in capsys.readouterr().err
    else:
        main(["--resume", str(run), "--epochs", str(epochs)])
    assert checkpoint.read(run / "checkpoint.pt").epoch == max(4, epochs)
    assert len((run / "metrics.jsonl").read_text().splitlines()) == max(4, epochs) + 1


def test_a_dry_run_takes_nothing(run: Path) -> None:
    holder = RunFolder(run)
    holder.take()
    try:
        assert main(["--resume", str(run), "--epochs", "2", "--dry-run"]).folder is None
    finally:
        holder.release()


TAKEN: dict[str, Callable[[Path], object]] = {
    "a run": lambda path: None,
    "a file": lambda path: (path / "checkpoint.pt").rename(path.with_name("x")),
    "a dangling link": lambda path: (path.rename(path.with_name("x")), path.symlink_to("nowhere")),
}


@pytest.mark.parametrize("kind", TAKEN)
def test_a_taken_name_is_refused_before_data_are_read(
    kind: str,
    run: Path,
    train: Train,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    TAKEN[kind](run)
    monkeypatch.setattr(data, "load", None)
    with pytest.raises(SystemExit) as stopped:
        train("--run-name", "one")
    assert stopped.value.code == 1
    assert "one exists already: choose another --run-name" in capsys.readouterr().err


def test_a_finished_run_says_that_nothing_is_to_do(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["--resume", str(run)])
    out = capsys.readouterr().out
    assert "nothing to do: all 1 epochs are done; --epochs 2 lengthens the run\n" in out


@pytest.mark.parametrize("text", ["x", "nan", "0", "-5", "1e9", "inf"])
def test_a_patience_that_is_none_is_one_line(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MANUAL_BP_PATIENCE", text)
    with pytest.raises(UserError, match=r"^MANUAL_BP_PATIENCE=.*: a number of seconds from 1 to"):
        world.patience()


def test_a_patience_is_ten_minutes_unless_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MANUAL_BP_PATIENCE", raising=False)
    assert world.patience().total_seconds() == world.PATIENCE == 600
    monkeypatch.setenv("MANUAL_BP_PATIENCE", "2.5")
    assert world.patience().total_seconds() == 2.5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rank", "number", "patience"),
    [
        (0, signal.SIGKILL, "600"),
        pytest.param(0, signal.SIGSTOP, "5", marks=pytest.mark.soak),
        pytest.param(1, signal.SIGSTOP, "5", marks=pytest.mark.soak),
    ],
)
def test_whichever_process_is_lost_the_job_ends_with_the_line_that_goes_on(
    rank: int, number: int, patience: str, tmp_path: Path
) -> None:
    flags = [*FLAGS, "--batch-size", "38", "--logdir", str(tmp_path), "--run-name", "two"]
    command: list[Any] = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-port", str(free_port()), "train.py", *flags, "--epochs", "100000"]
    job = subprocess.Popen(
        command,
        cwd=ROOT,
        env=quiet(tmp_path) | {"MANUAL_BP_PATIENCE": patience},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    processes: dict[int | None, int] = {}
    try:
        wait_for(lambda: (tmp_path / "two" / "metrics.jsonl").exists(), job)
        processes = {rank_of(pid): pid for pid in children(job)}
        os.kill(processes[rank], number)
        _, err = job.communicate(timeout=PATIENCE)
    finally:
        for pid in [*processes.values(), job.pid] if job.poll() is None else []:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        job.wait()
    assert job.returncode == 1
    assert err.count(f"continue with: python train.py --resume {tmp_path / 'two'}") == 1, err
