"""Several processes: the same trajectory as one, one writer, a clear end when one dies."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from manual_bp.training.command import main
from manual_bp.training.result import Result
from tests.conftest import draw_nothing

ROOT = Path(__file__).parents[2]
PATIENCE = 600  # seconds: only what hangs takes so long, on a machine under any load
FLAGS = [
    "--dataset",
    "digits",
    "--device",
    "cpu",
    "--dtype",
    "float64",
    "--hidden",
    "24",
    "--lr",
    "0.01",
    "--momentum",
    "0.5",
]


def torchrun(folder: Path, processes: int, *flags: str) -> subprocess.CompletedProcess[str]:
    """The command as the README gives it."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    command += ["--master-port", str(free_port()), "train.py", *flags]
    return subprocess.run(
        command, cwd=ROOT, env=quiet(folder), capture_output=True, text=True, timeout=PATIENCE
    )


def quiet(folder: Path) -> dict[str, str]:
    """With torchrun's logs beside the test's folder: torchrun leaves them where they are."""
    wanted = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "TMPDIR": str(folder.parent)}
    return {**os.environ, **wanted}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port: int = probe.getsockname()[1]
        return port


def rank(number: int, size: int, port: int, flags: list[str]) -> None:
    """One process as torchrun would start it."""
    os.environ.update(
        RANK=str(number),
        LOCAL_RANK=str(number),
        WORLD_SIZE=str(size),
        MASTER_ADDR="localhost",
        MASTER_PORT=str(port),
        TORCHELASTIC_RUN_ID="test",
    )
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        draw_nothing(patch)
        main(flags)


def together(forkserver: Any, size: int, flags: list[str]) -> None:
    port = free_port()
    processes = [
        forkserver.Process(target=rank, args=(number, size, port, flags)) for number in range(size)
    ]
    try:
        for process in processes:
            process.start()
        for process in processes:
            process.join(PATIENCE)
    finally:
        for process in processes:
            process.kill()
    assert [process.exitcode for process in processes] == [0] * size


def weights(folder: Path) -> dict[str, torch.Tensor]:
    model: dict[str, torch.Tensor] = torch.load(folder / "checkpoint.pt", weights_only=True)[
        "model"
    ]
    return model


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_same_run(one: Path, other: Path) -> None:
    """To 1e-10, in float64: the order of additions is another."""
    reference = weights(one)
    for name, value in weights(other).items():
        torch.testing.assert_close(value, reference[name], rtol=1e-10, atol=1e-12)
    for row, expected in zip(metrics(other), metrics(one), strict=True):
        for key in set(expected) - {"check/max_rel_error"}:
            if not key.startswith("time/"):
                assert row[key] == pytest.approx(expected[key], rel=1e-9, abs=1e-12), key


@pytest.mark.slow
@pytest.mark.parametrize(
    "cost",
    ["half_per_example", "sum"]
    + [pytest.param(cost, marks=pytest.mark.soak) for cost in ("half_per_element", "mean")],
)
def test_two_processes_walk_as_one_with_twice_the_batch(
    forkserver: Any, train: Callable[..., Result], tmp_path: Path, cost: str
) -> None:
    """1,197 examples in batches of 2 · 38 leave a last batch of 57: shares of 29 and 28."""
    flags = [*FLAGS, "--cost", cost, "--epochs", "2", "--logdir", str(tmp_path)]
    together(forkserver, 2, [*flags, "--batch-size", "38", "--run-name", "two"])
    main([*flags, "--batch-size", "76", "--run-name", "one"])
    assert_same_run(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_a_process_without_a_row_in_the_last_batch_still_takes_part(
    forkserver: Any, tmp_path: Path
) -> None:
    flags = [*FLAGS, "--epochs", "1", "--logdir", str(tmp_path)]
    together(
        forkserver, 3, [*flags, "--batch-size", "92", "--run-name", "three"]
    )  # 1197 = 4 · 276 + 93, shares of 31
    together(
        forkserver, 2, [*flags, "--batch-size", "26", "--run-name", "two"]
    )  # 1197 = 23 · 52 + 1: shares of 1 and 0
    main([*flags, "--batch-size", "52", "--run-name", "one"])
    assert_same_run(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_torchrun_has_one_writer_and_one_voice(tmp_path: Path) -> None:
    done = torchrun(
        tmp_path,
        2,
        *FLAGS,
        "--epochs",
        "2",
        "--batch-size",
        "38",
        "--logdir",
        str(tmp_path),
        "--run-name",
        "two",
    )
    assert done.returncode == 0, done.stderr
    assert "2 processes" in done.stdout
    assert len(re.findall(r"^run ", done.stdout, re.MULTILINE)) == 1
    assert len(re.findall(r"^    [12] ", done.stdout, re.MULTILINE)) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["two"]
    assert len([path for path in (tmp_path / "two").iterdir() if "tfevents" in path.name]) == 1
    kept = torch.load(tmp_path / "two" / "checkpoint.pt", weights_only=True)["snapshots"]
    assert kept["epochs"] == [0, 1, 2]
    assert (tmp_path / "two" / "look.html").is_file()
    main(
        [
            *FLAGS,
            "--epochs",
            "2",
            "--batch-size",
            "76",
            "--logdir",
            str(tmp_path),
            "--run-name",
            "one",
        ]
    )
    assert_same_run(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_a_killed_process_ends_the_job_with_a_clear_line_and_resume_goes_on(
    forkserver: Any, tmp_path: Path
) -> None:
    flags = [*FLAGS, "--batch-size", "38", "--lr-schedule", "constant", "--logdir", str(tmp_path)]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += [
        "--master-port",
        str(free_port()),
        "train.py",
        *flags,
        "--epochs",
        "100000",
        "--run-name",
        "two",
    ]
    job = subprocess.Popen(
        command,
        cwd=ROOT,
        env=quiet(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        checkpoint = tmp_path / "two" / "checkpoint.pt"
        wait_for(lambda: (tmp_path / "two" / "metrics.jsonl").exists(), job)
        ranks = {rank_of(pid): pid for pid in children(job)}
        os.kill(ranks[1], signal.SIGKILL)
        _, err = job.communicate(timeout=PATIENCE)
    finally:
        for pid in [*children(job), job.pid] if job.poll() is None else []:  # each a session
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        job.wait()
    assert job.returncode == 1
    assert f"continue with: python train.py --resume {tmp_path / 'two'}" in err, err
    state = torch.load(checkpoint, weights_only=True)
    assert state["epoch"] >= 1
    total = state["epoch"] + 2
    together(forkserver, 2, ["--resume", str(tmp_path / "two"), "--epochs", str(total)])
    main([*flags, "--batch-size", "76", "--epochs", str(total), "--run-name", "one"])
    assert_same_run(tmp_path / "one", tmp_path / "two")


def children(job: subprocess.Popen[str]) -> list[int]:
    tasks = Path(f"/proc/{job.pid}/task").glob("*/children")
    return [int(pid) for task in tasks for pid in task.read_text().split()]


def rank_of(pid: int) -> int | None:
    found = re.search(rb"\0RANK=(\d+)\0", Path(f"/proc/{pid}/environ").read_bytes())
    return int(found[1]) if found else None


def wait_for(there: Callable[[], bool], job: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not there() and job.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert there()
