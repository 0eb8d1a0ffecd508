"""A run that was cut short and continued ends in the same bytes as one that was left alone."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from manual_bp.training import machine
from manual_bp.training.command import main
from manual_bp.training.result import Result
from manual_bp.training.run import Run

Train = Callable[..., Result]


def final(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What must be equal to the byte: the weights and engine state, and the metrics but for the
    times.
    """
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    tensors = {name: value.numpy().tobytes() for name, value in state["model"].items()}
    tensors["shuffle"] = state["shuffle"].numpy().tobytes()
    tensors |= {name: _plain(state[name]) for name in ("engine", "snapshots")}
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return tensors, [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.numpy().tobytes()
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, list) else value


def interrupt_in(
    epoch: int, monkeypatch: pytest.MonkeyPatch, raises: type[BaseException] = KeyboardInterrupt
) -> None:
    """Interrupt the next run after the steps of `epoch`, before anything of it is saved."""
    real = Run._epoch

    def stop(self: Run, number: int) -> dict[str, Any]:
        row = real(self, number)
        if number == epoch:
            monkeypatch.undo()
            raise raises
        return row

    monkeypatch.setattr(Run, "_epoch", stop)


WAYS = [
    "--engine direct",
    "--engine direct --momentum 0.5 --weight-decay 1e-4 --lr 0.5",
    "--engine direct --augment --lr-schedule constant",
    "--engine autograd --momentum 0.5 --lr 0.5 --init xavier",
    "--amp fp16 --batch-size 50",
    "--impl builtin --dtype float64 --batch-size full",
]


@pytest.mark.parametrize(
    ("flags", "epoch"),
    [
        *((flags, 3) for flags in WAYS),
        (WAYS[0], 1),
        *(pytest.param(flags, 1, marks=pytest.mark.soak) for flags in WAYS[1:]),
    ],
)
def test_interrupted_and_resumed_equals_left_alone(
    train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, flags: str, epoch: int
) -> None:
    alone = train("--epochs", "4", "--run-name", "alone", *flags.split())
    assert alone.folder is not None
    interrupt_in(epoch, monkeypatch)
    with pytest.raises(SystemExit) as stopped:
        train("--epochs", "4", "--run-name", "cut", *flags.split())
    assert stopped.value.code == 130
    cut = tmp_path / "runs" / "cut"
    assert torch.load(cut / "checkpoint.pt", weights_only=True)["epoch"] == epoch - 1
    resumed = main(["--resume", str(cut)])
    assert final(cut) == final(alone.folder)
    assert resumed.test_accuracy == alone.test_accuracy


def test_ctrl_c_says_how_to_go_on(
    train: Train,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    interrupt_in(2, monkeypatch)
    with pytest.raises(SystemExit):
        train("--epochs", "3", "--run-name", "cut")
    words = (
        "train.py: interrupted: continue with: python train.py --resume "
        f"{tmp_path / 'runs' / 'cut'}\n"
    )
    assert capsys.readouterr().err == words


def test_latest_is_the_run_written_last(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train("--epochs", "1", "--run-name", "b-first")
    interrupt_in(2, monkeypatch)
    with pytest.raises(SystemExit):
        train("--epochs", "2", "--run-name", "a-second")
    result = main(["--resume", "latest", "--logdir", str(tmp_path / "runs")])
    assert result.folder == tmp_path / "runs" / "a-second"
    assert len(result.metrics) == 3


def test_curves_do_not_overlap_after_a_resume(
    train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The cut comes after epoch 3 was written to TensorBoard and before it was saved: it is written
    twice.
    """
    from manual_bp.training.run_folder import RunFolder

    real = RunFolder.write_checkpoint

    def stop(self: RunFolder, state: dict[str, Any]) -> None:
        if state["epoch"] == 3:
            monkeypatch.undo()
            raise KeyboardInterrupt
        real(self, state)

    monkeypatch.setattr(RunFolder, "write_checkpoint", stop)
    with pytest.raises(SystemExit):
        train("--epochs", "5", "--run-name", "cut")
    time.sleep(1.1)  # event files are named, and read, by the second they were opened in
    main(["--resume", str(tmp_path / "runs" / "cut")])
    events = EventAccumulator(str(tmp_path / "runs" / "cut"))
    events.Reload()
    for tag in ("cost/train", "accuracy/validation"):
        assert [event.step for event in events.Scalars(tag)] == [1, 2, 3, 4, 5]


def test_a_finished_run_can_be_lengthened(train: Train) -> None:
    flags = ["--lr-schedule", "constant", "--engine", "direct"]
    whole = train("--epochs", "4", "--run-name", "whole", *flags)
    short = train("--epochs", "2", "--run-name", "short", *flags)
    assert short.folder is not None
    assert whole.folder is not None
    main(["--resume", str(short.folder), "--epochs", "4"])
    tensors, rows = final(short.folder)
    assert (tensors, rows) == final(whole.folder)


def test_what_a_run_chose_for_itself_may_be_said_when_it_is_resumed(train: Train) -> None:
    first = train("--epochs", "1").folder
    assert first is not None
    config = json.loads((first / "config.json").read_text())
    said = ["--batch-size", str(config["batch_size"]), "--lr", str(config["lr"])]
    assert main(["--resume", str(first), "--epochs", "2", *said]).metrics[-1]["epoch"] == 2


def test_a_run_is_resumed_by_the_command_line_it_was_started_with(train: Train) -> None:
    """The name too, and a batch size beyond the data, which was capped."""
    flags = ["--run-name", "mine", "--batch-size", "5000", "--lr", "2"]
    train("--epochs", "1", *flags)
    assert train("--epochs", "2", *flags, "--resume", "mine").metrics[-1]["epoch"] == 2


def test_a_dry_run_of_no_epochs_takes_its_step(train: Train) -> None:
    assert train("--epochs", "0", "--dry-run").test_accuracy >= 0


def test_resuming_a_finished_run_changes_nothing(train: Train) -> None:
    done = train("--epochs", "2")
    assert done.folder is not None
    before = final(done.folder)
    again = main(["--resume", str(done.folder)])
    assert final(done.folder) == before
    assert again.test_accuracy == done.test_accuracy


def test_a_checkpoint_is_named_as_well_as_its_folder(train: Train) -> None:
    done = train("--epochs", "1")
    assert done.folder is not None
    assert main(["--resume", str(done.folder / "checkpoint.pt")]).folder == done.folder


def test_a_run_goes_on_where_it_was(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the device that it was started with, whatever else the machine has."""
    done = train("--epochs", "1", "--device", "cpu")
    assert done.folder is not None
    asked = []
    choose = machine.choose_device
    monkeypatch.setattr(machine, "choose_device", lambda name: asked.append(name) or choose(name))
    main(["--resume", str(done.folder)])
    main(["--resume", str(done.folder), "--device", "auto"])
    assert asked == ["cpu", "auto"]


PATIENCE = 600  # seconds: only what hangs takes so long, on a machine under any load


def _endless(logdir: str) -> None:
    os.setsid()
    main(
        [
            "--dataset",
            "digits",
            "--device",
            "cpu",
            "--epochs",
            "100000",
            "--logdir",
            logdir,
            "--run-name",
            "cut",
        ]
    )


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_a_run_in_order(
    forkserver: Any, tmp_path: Path, number: int, status: int
) -> None:
    process = forkserver.Process(target=_endless, args=(str(tmp_path),))
    process.start()
    try:
        metrics = tmp_path / "cut" / "metrics.jsonl"
        wait_until(metrics.exists, process)
        assert process.pid is not None
        os.kill(process.pid, number)
        process.join(PATIENCE)
    finally:
        process.kill()
    assert process.exitcode == status
    result = main(["--resume", str(tmp_path / "cut"), "--dry-run"])
    assert result.test_accuracy > 0


FLAGS = [
    "--dataset",
    "digits",
    "--device",
    "cpu",
    "--engine",
    "direct",
    "--epochs",
    "12",
    "--momentum",
    "0.5",
    "--lr",
    "0.5",
]


def _run(flags: list[str]) -> None:
    main(flags)


@pytest.mark.soak
def test_fifty_sigkills_lose_nothing_but_the_unfinished_epoch(
    forkserver: Any, tmp_path: Path
) -> None:
    alone = main([*FLAGS, "--logdir", str(tmp_path), "--run-name", "alone"])
    assert alone.folder is not None
    expected = final(alone.folder)
    random = torch.Generator().manual_seed(0)
    killed = finished_first = 0
    epochs = set()
    for number in range(50):
        name = f"cut-{number}"
        process = forkserver.Process(
            target=_run, args=([*FLAGS, "--logdir", str(tmp_path), "--run-name", name],)
        )
        process.start()
        # from before the run folder is there to the last epoch, wherever this machine's speed puts
        # them
        folder = tmp_path / name
        target = int(torch.randint(-1, 12, (), generator=random))
        try:
            wait_until(lambda folder=folder, target=target: rows_in(folder) >= target, process)
            time.sleep(float(torch.rand((), generator=random)) * 0.02)
        finally:
            process.kill()
            process.join()
        killed += process.exitcode == -signal.SIGKILL
        finished_first += process.exitcode == 0
        if (folder / "checkpoint.pt").exists():
            epochs.add(torch.load(folder / "checkpoint.pt", weights_only=True)["epoch"])
            main(["--resume", str(folder)])
        else:  # killed before there was a run
            assert not folder.exists()
            main([*FLAGS, "--logdir", str(tmp_path), "--run-name", name])
        assert final(folder) == expected
    assert killed >= 40, f"only {killed} of 50 were killed under way; {finished_first} had finished"
    assert len(epochs) >= 5, "the kills did not spread over the run"


def rows_in(folder: Path) -> int:
    """Epochs in metrics.jsonl; −1 while there is no run folder."""
    if not folder.exists():
        return -1
    metrics = folder / "metrics.jsonl"
    return len(metrics.read_text().splitlines()) if metrics.exists() else 0


def wait_until(reached: Callable[[], bool], process: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while process.is_alive() and not reached() and time.monotonic() < deadline:
        time.sleep(0.001)
