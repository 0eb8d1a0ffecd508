"""A run leaves look.html: its weights at some epochs, its metrics, trouble and a hundred images."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from manual_bp.training import checkpoint, data
from manual_bp.training.command import main
from manual_bp.training.errors import UserError
from manual_bp.training.look import of_every_class, read, telling
from manual_bp.training.pictures import Answers
from manual_bp.training.result import Result
from manual_bp.training.run import Run
from manual_bp.training.run_folder import RunFolder
from manual_bp.view import page_data
from manual_bp.view.snapshots import Snapshots
from tests.view.conftest import data_in

Train = Callable[..., Result]


@pytest.fixture
def train(tmp_path: Path) -> Train:
    def run(*flags: str) -> Result:
        logdir = str(tmp_path / "runs")
        return main(["--dataset", "digits", "--engine", "direct", "--logdir", logdir, *flags])

    return run


def folder_of(result: Result) -> Path:
    assert result.folder is not None
    return result.folder


def checkpoint_of(folder: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(folder / "checkpoint.pt", weights_only=True)
    return state


def flat(model: dict[str, torch.Tensor]) -> list[float]:
    return [value for tensor in model.values() for value in tensor.flatten().tolist()]


def weights(page: dict[str, Any], place: int) -> list[float]:
    numbers: list[float] = np.frombuffer(
        base64.b64decode(page["weights"][place]), dtype="<f4"
    ).tolist()
    return numbers


def test_the_page_holds_what_the_run_did(run_folder: Path) -> None:
    page = data_in(run_folder / "look.html")
    config = json.loads((run_folder / "config.json").read_text())
    for name in ("sizes", "cost", "lr", "seed"):
        assert page[name] == config[name]
    assert page["name"] == "done"
    assert (page["batch"], page["epochs_planned"]) == (config["batch_size"], 3)
    assert page["activations"] == ["sigmoid", "sigmoid"]
    assert page["finished"] is True
    assert page["epochs"] == [0, 1, 2, 3]
    assert weights(page, -1) == flat(checkpoint_of(run_folder)["model"])
    assert weights(page, 0) != weights(page, 1)
    rows = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    assert page["metrics"] == rows


def test_the_images_are_the_worst_and_right_ones_of_every_class(run_folder: Path) -> None:
    page = data_in(run_folder / "look.html")
    test = data.load("digits").test
    assert page["part"] == "test"
    indices, labels = page["indices"], page["labels"]
    assert len(indices) == len(set(indices)) == len(labels)
    assert 90 <= len(indices) <= 110
    assert set(labels) == set(range(10))
    assert labels == test.labels[indices].tolist()
    assert page["image_shape"] == [8, 8]
    bytes_ = np.frombuffer(base64.b64decode(page["images"]), dtype=np.uint8)
    assert bytes_.reshape(-1, 64).tolist() == test.images[indices].tolist()


def answers(labels: list[int], said: list[int], costs: list[float]) -> Answers:
    images = torch.zeros(len(labels), 4, dtype=torch.uint8)
    given = (torch.tensor(numbers) for numbers in (labels, said, costs))
    return Answers(images, *given, tuple("0123456789"))


def test_the_worst_come_first_and_no_image_twice() -> None:
    labels = [i % 10 for i in range(400)]
    costs = [float(i) for i in range(400)]
    chosen = telling(answers(labels, labels, costs)).tolist()
    assert chosen[:40] == list(range(399, 359, -1))
    assert [labels[i] for i in chosen[40:]] == [c for c in range(10) for _ in range(6)]
    assert len(set(chosen)) == len(chosen)


def test_a_class_without_right_answers_is_shown_all_the_same() -> None:
    labels = [i % 10 for i in range(400)]
    chosen = telling(answers(labels, [0] * 400, [1.0] * 400)).tolist()
    assert {labels[i] for i in chosen[40:]} == set(range(10))


def test_while_training_the_images_are_of_every_class() -> None:
    part = data.load("digits").validation
    assert part.labels[of_every_class(part)].bincount().tolist() == [10] * 10


def test_the_page_made_anew_is_the_same_to_the_byte(run_folder: Path) -> None:
    _, page = read("done", run_folder.parent, None)
    assert page == (run_folder / "look.html").read_text()


@pytest.mark.parametrize(
    "engine", [["--engine", "direct"], ["--engine", "autograd", "--dtype", "float64"]]
)
def test_a_run_that_was_cut_keeps_the_same_snapshots(
    train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, engine: list[str]
) -> None:
    alone = folder_of(train("--epochs", "4", "--run-name", "alone", *engine))
    interrupt_in(3, monkeypatch)
    with pytest.raises(SystemExit):
        train("--epochs", "4", "--run-name", "cut", *engine)
    cut = tmp_path / "runs" / "cut"
    page = data_in(cut / "look.html")
    assert (page["epochs"], page["finished"], page["part"]) == ([0, 1, 2], False, "validation")
    assert [row["epoch"] for row in page["metrics"]] == [1, 2]
    main(["--resume", str(cut)])
    left, whole = data_in(cut / "look.html"), data_in(alone / "look.html")
    assert left["weights"] == whole["weights"]
    assert left["indices"] == whole["indices"]
    seen, expected = (checkpoint_of(folder)["snapshots"] for folder in (cut, alone))
    assert seen["epochs"] == expected["epochs"] == [0, 1, 2, 3, 4]
    assert torch.equal(seen["weights"], expected["weights"])


def interrupt_in(epoch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupt the next run after the steps of `epoch`, before anything of it is saved."""
    real = Run._epoch

    def stop(self: Run, number: int) -> tuple[dict[str, Any], dict[str, Any]]:
        found = real(self, number)
        if number == epoch:
            monkeypatch.setattr(Run, "_epoch", real)
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(Run, "_epoch", stop)


def test_a_lengthened_run_keeps_few(train: Train) -> None:
    folder = folder_of(train("--epochs", "8", "--hidden", "5"))
    main(["--resume", str(folder), "--epochs", "20"])
    page = data_in(folder / "look.html")
    assert page["epochs"] == [0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20]
    assert page["epochs_planned"] == 20


def test_the_page_follows_a_run_that_goes_on(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page a while: few in all, whatever the number of epochs."""
    written: list[dict[str, Any]] = []
    real = page_data.of_run

    def seen(*args: Any, **settings: Any) -> dict[str, Any]:
        written.append(real(*args, **settings))
        return written[-1]

    monkeypatch.setattr(page_data, "of_run", seen)
    train("--epochs", "10", "--hidden", "5")
    assert [page["epochs"][-1] for page in written] == [0, 1, 2, 3, 5, 8, 10]
    assert [page["finished"] for page in written] == [False] * 6 + [True]
    assert all(page["part"] == "validation" for page in written[:-1])


def test_a_run_without_snapshots_is_resumed_and_looked_at(train: Train) -> None:
    """One of an older version of this program."""
    folder = folder_of(train("--epochs", "2"))
    state = checkpoint_of(folder)
    del state["snapshots"]
    torch.save(state, folder / "checkpoint.pt")
    (folder / "look.html").unlink()
    _, page = read(str(folder), folder.parent, None)
    (folder / "old.html").write_text(page)
    assert data_in(folder / "old.html")["epochs"] == [2]
    main(["--resume", str(folder), "--epochs", "4"])
    assert data_in(folder / "look.html")["epochs"] == [2, 3, 4]


def test_a_fault_is_on_the_page(train: Train, tmp_path: Path) -> None:
    flags = ["--output", "linear", "--lr", "1e20", "--epochs", "2", "--run-name", "fault"]
    with pytest.raises(SystemExit):
        train(*flags)
    page = data_in(tmp_path / "runs" / "fault" / "look.html")
    assert page["epochs"] == [0]
    assert page["activations"] == ["sigmoid", "linear"]
    assert any("try a smaller --lr" in trouble["text"] for trouble in page["trouble"])
    assert {trouble["epoch"] for trouble in page["trouble"]} == {1}
    assert page["metrics"][0]["cost/validation"] is None


def test_trouble_is_said_once_and_by_its_epoch_after_a_resume_too(train: Train) -> None:
    folder = folder_of(train("--momentum", "0.9", "--lr", "3", "--epochs", "1"))
    first = data_in(folder / "look.html")["trouble"]
    assert "saturated" in first[0]["text"]
    assert first[0]["epoch"] == 1
    main(["--resume", str(folder), "--epochs", "2"])
    assert data_in(folder / "look.html")["trouble"][: len(first)] == first
    texts = [trouble["text"][:30] for trouble in data_in(folder / "look.html")["trouble"]]
    assert len(texts) == len(set(texts))


def test_a_network_too_large_for_a_page_has_none(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("manual_bp.view.snapshots._PAGE", 1000)
    folder = folder_of(train("--epochs", "1"))
    assert not (folder / "look.html").exists()
    assert checkpoint_of(folder)["snapshots"]["epochs"] == []
    assert "page  " not in capsys.readouterr().out
    with pytest.raises(UserError, match="too many weights for a page"):
        read(str(folder), folder.parent, None)
    main(["--resume", str(folder), "--epochs", "2"])


def test_the_last_lines_name_the_page(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--resume", str(run_folder)])
    assert f"\npage     {(run_folder / 'look.html').as_uri()}\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        ({"epochs": [0, 1, 2, 7]}, "its snapshots: the epochs are not some of 0 to 3"),
        ({"weights": torch.zeros(4, 7)}, "its snapshots: the weights are (4, 7), not (4, 9610)"),
    ],
)
def test_damaged_snapshots_are_one_line(
    damage: dict[str, Any],
    line: str,
    run_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run_folder, folder)
    state = checkpoint_of(folder)
    state["snapshots"].update(damage)
    torch.save(state, folder / "checkpoint.pt")
    with pytest.raises(SystemExit) as stopped:
        main(["--resume", str(folder), "--epochs", "4"])
    assert stopped.value.code == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert line in said
    with pytest.raises(UserError, match=r"its snapshots: .*: the file was changed"):
        read(str(folder), tmp_path, None)


def test_metrics_that_are_no_runs_are_one_line(run_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run_folder, folder)
    state = checkpoint_of(folder)
    state["metrics"] = checkpoint.Table.rows(state["metrics"])  # a list is read too
    slope = state["metrics"][1].pop("slope/layer01")
    torch.save(state, folder / "checkpoint.pt")
    with pytest.raises(UserError, match="its metrics of epoch 2 lack 'slope/layer01'"):
        read(str(folder), tmp_path, None)
    state["metrics"][1] |= {"slope/layer01": slope, "more": "<script>"}
    torch.save(state, folder / "checkpoint.pt")
    with pytest.raises(UserError, match="its metrics are not those of epochs 1 to 3"):
        read(str(folder), tmp_path, None)


def test_many_epochs_of_metrics_are_thinned() -> None:
    rows = [{"epoch": e, "cost/train": 0.1 + e, "noted": "x" * 800} for e in range(1, 2001)]
    rows.append({"epoch": 2000, "cost/test": 0.5})
    few = page_data._few(rows, {0, 1, 2, 777, 2000})
    assert len(json.dumps(few)) < 500_000
    assert {1, 2, 777, 2000} <= {row["epoch"] for row in few}
    assert few[-2:] == rows[-2:]


def test_a_default_run_on_mnist_fits() -> None:
    """784-128-10 with every snapshot that a page may hold."""
    snapshots = Snapshots(101_770)
    for epoch in range(13):
        snapshots.add(epoch, {"w": torch.randn(101_770)})
    assert len(snapshots.epochs) == 12
    assert sum(map(len, snapshots.texts())) <= 7_000_000


def test_a_half_written_page_is_cleared_away(run_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run_folder, folder)
    (folder / ".look.html-abc").write_text("half")
    taken = RunFolder(folder)
    taken.take()
    taken.release()
    assert not (folder / ".look.html-abc").exists()
