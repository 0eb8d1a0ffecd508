"""Thousands of epochs: each costs what the first cost, and a file that was damaged is made whole.

Operations are counted, never seconds.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from manual_bp.training import checkpoint, run_folder
from manual_bp.training.checkpoint import Table
from manual_bp.training.command import main
from manual_bp.training.errors import UserError
from manual_bp.training.run_folder import RunFolder
from manual_bp.training.trouble import Watch

Rows = list[dict[str, Any]]


def rows_of(count: int) -> Rows:
    return [{"epoch": n, "cost/train": 1 / n, "lr": 0.5} for n in range(1, count + 1)]


def read(folder: Path) -> Rows:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_row_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []
    line = run_folder._line

    def counted(row: dict[str, Any]) -> bytes:
        written.append(line(row))
        return written[-1]

    monkeypatch.setattr(run_folder, "_line", counted)
    folder, rows = RunFolder(tmp_path), rows_of(200)
    for n in range(1, 201):
        folder.write_metrics(rows[:n])
    assert len(written) == 200
    assert read(tmp_path) == rows


def elsewhere(path: Path) -> None:
    """A hard link to a file of somebody else's."""
    other = path.with_name("other")
    other.write_bytes(b"precious\n")
    path.unlink()
    os.link(other, path)


def folder_in_its_place(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "none": lambda path: None,
    "cut within its last line": lambda path: os.truncate(path, path.stat().st_size - 7),
    "cut before its last end of line": lambda path: os.truncate(path, path.stat().st_size - 1),
    "rows of later epochs": lambda path: path.write_bytes(path.read_bytes() * 3),
    "other content of the same length": lambda path: (
        path.unlink(),
        path.write_bytes(b"x" * 100),
    ),
    "empty": lambda path: os.truncate(path, 0),
    "bytes that are no text": lambda path: path.write_bytes(b"\xff\0" * 500),
    "missing": os.unlink,
    "a link to nowhere": lambda path: (path.unlink(), path.symlink_to("nowhere")),
    "a link to another file": lambda path: (
        path.with_name("other").write_bytes(b"precious\n"),
        path.unlink(),
        path.symlink_to("other"),
    ),
    "a hard link to another file": elsewhere,
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_not_as_it_was_left_is_written_anew(damage: str, tmp_path: Path) -> None:
    folder, rows = RunFolder(tmp_path), rows_of(4)
    folder.write_metrics(rows[:3])
    DAMAGES[damage](tmp_path / "metrics.jsonl")
    folder.write_metrics(rows)
    assert read(tmp_path) == rows
    assert (tmp_path / "metrics.jsonl").is_file()
    if (tmp_path / "other").exists():
        assert (tmp_path / "other").read_bytes() == b"precious\n"


def test_a_folder_in_its_place_is_one_line(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_metrics(rows_of(1))
    folder_in_its_place(tmp_path / "metrics.jsonl")
    with pytest.raises(UserError, match=r"metrics\.jsonl cannot be written"):
        folder.write_metrics(rows_of(2))


def test_a_disk_that_fills_up_within_a_line_leaves_whole_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, rows = RunFolder(tmp_path), rows_of(2)
    folder.write_metrics(rows[:1])

    class Full(io.FileIO):
        def write(self, content: Any) -> int:
            return super().write(bytes(content)[:5])

    real = open

    def opened(path: Any, mode: str = "r", **options: Any) -> Any:
        if mode == "xb":
            raise OSError(28, "No space left on device")
        return Full(path, "a") if mode == "ab" else real(path, mode, **options)

    with monkeypatch.context() as patched:
        patched.setattr(run_folder, "open", opened, raising=False)
        with pytest.raises(UserError, match="No space left on device"):
            folder.write_metrics(rows)
    assert read(tmp_path) == rows[:1]
    folder.write_metrics(rows)
    assert read(tmp_path) == rows


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder; not to be changed."""
    flags = ["--dataset", "digits", "--engine", "direct", "--hidden", "6", "--epochs", "2"]
    logdir = str(tmp_path_factory.mktemp("runs"))
    folder = main([*flags, "--lr-schedule", "constant", "--logdir", logdir]).folder
    assert folder is not None
    return folder


@pytest.mark.parametrize("damage", ["cut within its last line", "rows of later epochs", "missing"])
def test_the_checkpoint_decides_which_epochs_count(
    damage: str, finished: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    DAMAGES[damage](folder / "metrics.jsonl")
    main(["--resume", str(folder), "--epochs", "3"])
    assert [row["epoch"] for row in read(folder)] == [1, 2, 3, 3]
    assert read(folder)[:2] == read(finished)[:2]


def size(value: Any) -> int:
    file = io.BytesIO()
    torch.save(value, file)
    return len(file.getvalue())


def test_a_row_takes_eight_bytes_a_figure_in_a_checkpoint() -> None:
    table, rows = Table(), rows_of(2000)
    few = size(table.state(rows[:1000]))
    assert size(table.state(rows)) - few <= 8 * 3 * 1000 + 1000
    assert Table.rows(table.state(rows)) == rows


def test_rows_that_differ_are_kept_as_they_are() -> None:
    rows: Rows = [{"epoch": 1, "a": 0.5}, {"epoch": 2, "b": 0.5}]
    assert Table().state(rows) == rows


def test_a_checkpoint_of_format_3_is_read(finished: Path, tmp_path: Path) -> None:
    state = torch.load(finished / "checkpoint.pt", weights_only=True)
    expected = checkpoint.read(finished / "checkpoint.pt").metrics
    torch.save({**state, "format": 3, "metrics": expected}, tmp_path / "checkpoint.pt")
    assert checkpoint.read(tmp_path / "checkpoint.pt").metrics == expected


NAMES, VALUES = ["epoch", "cost"], torch.ones(2, 2, dtype=torch.float64)
TABLES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "no values": {"names": NAMES},
    "one entry more": {"names": NAMES, "values": VALUES, "more": 1},
    "names of numbers": {"names": [1, 2], "values": VALUES},
    "a text of names": {"names": "ab", "values": VALUES},
    "a name twice": {"names": ["a", "a"], "values": VALUES},
    "a long name": {"names": ["epoch", "x" * 10_000], "values": VALUES},
    "one name less": {"names": ["a"], "values": VALUES},
    "too many names": {"names": ["a"] * 100_001, "values": torch.ones(1, 100_001).double()},
    "values of float32": {"names": NAMES, "values": VALUES.float()},
    "whole values": {"names": NAMES, "values": VALUES.long()},
    "complex values": {"names": NAMES, "values": VALUES.to(torch.complex128)},
    "one dimension": {"names": NAMES, "values": VALUES[0]},
    "one number, shown often": {"names": NAMES, "values": VALUES[:1, :1].expand(10**9, 2)},
    "sparse values": {"names": NAMES, "values": VALUES.to_sparse()},
    "no memory": {"names": NAMES, "values": VALUES.to("meta")},
    "a list": {"names": NAMES, "values": [[1.0, 2.0]]},
    "an epoch of NaN": {"names": NAMES, "values": VALUES * torch.nan},
    "half an epoch": {"names": NAMES, "values": VALUES / 2},
    "an endless epoch": {"names": NAMES, "values": VALUES * torch.inf},
    "a huge epoch": {"names": NAMES, "values": VALUES * 1e300},
    "no epoch": {"names": ["a", "b"], "values": VALUES},
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_that_no_run_wrote_is_refused(name: str, finished: Path, tmp_path: Path) -> None:
    state = torch.load(finished / "checkpoint.pt", weights_only=True)
    path = tmp_path / "checkpoint.pt"
    torch.save({**state, "metrics": TABLES[name]}, path)
    with pytest.raises(UserError) as raised:
        checkpoint.read(path)
    line = str(raised.value)
    assert line.startswith(f"{path}: ")
    assert line.isprintable()
    assert len(line) < 700


class Counted(dict[str, Any]):
    looks = 0

    def __getitem__(self, key: str) -> Any:
        Counted.looks += 1
        return super().__getitem__(key)


def test_trouble_is_looked_for_in_each_row_once() -> None:
    """In the thousandth epoch as many figures are read as in the tenth."""
    figures = {"cost/train": 0.2, "cost/validation": 0.2}
    earlier: list[Mapping[str, Any]] = [Counted(figures) for _ in range(1000)]
    watch = Watch.__new__(Watch)
    watch._guessing = watch._worst = 1.0
    watch._best, watch._counted = float("inf"), 0
    counts = []
    for n in range(1, 1001):
        before = Counted.looks
        assert watch._diverged(figures, earlier[:n]) == {}
        counts.append(Counted.looks - before)
    assert max(counts) == counts[0] > 0
