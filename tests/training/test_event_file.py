"""The event file by itself: what it refuses, leaves out, and says when it cannot be written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from manual_bp.training.errors import UserError
from manual_bp.training.event_file import EventFile


def read(folder: Path | None) -> EventAccumulator:
    events = EventAccumulator(
        str(folder), size_guidance=dict.fromkeys(("scalars", "images", "tensors", "histograms"), 0)
    )
    events.Reload()
    return events


def test_entries_that_are_not_finite_are_counted_and_left_out_of_a_histogram(
    tmp_path: Path,
) -> None:
    file = EventFile(tmp_path)
    file.histogram("some", torch.tensor([1.0, float("nan"), 2.0, float("inf"), -float("inf")]), 3)
    file.histogram("none", torch.full((2, 2), float("nan")), 3)
    file.close()
    events = read(tmp_path)
    (some,) = events.Histograms("some")
    assert (some.step, some.histogram_value.num, some.histogram_value.sum) == (3, 2, 3)
    assert events.Tags()["histograms"] == ["some"]
    counts = {tag: events.Scalars(tag)[0].value for tag in events.Tags()["scalars"]}
    assert counts == {"non_finite/some": 3, "non_finite/none": 4}


@pytest.mark.parametrize("step", ["scalars", "flush", "close"])
def test_nothing_is_written_into_a_folder_that_is_not_the_runs(tmp_path: Path, step: str) -> None:
    refused: list[UserError] = []

    def check() -> None:
        for error in refused:
            raise error

    file = EventFile(tmp_path, check=check)
    file.scalars({"cost/train": 1.0}, 1)
    file.flush()
    before = [path.stat().st_size for path in tmp_path.iterdir()]
    refused.append(UserError("another folder"))
    try:
        with pytest.raises(UserError, match="another folder"):
            {
                "scalars": lambda: file.scalars({"cost/train": 2.0}, 2),
                "flush": file.flush,
                "close": file.close,
            }[step]()
        assert [path.stat().st_size for path in tmp_path.iterdir()] == before
    finally:
        refused.clear()
        file.close()


@pytest.mark.parametrize("step", ["scalars", "flush", "close"])
def test_a_full_disk_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    file = EventFile(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    calls = {
        "scalars": lambda: file.scalars({"cost/train": 1.0}, 1),
        "flush": file.flush,
        "close": file.close,
    }
    with monkeypatch.context() as patched:
        if step == "scalars":
            patched.setattr(file._writer._get_file_writer(), "add_summary", full)
        else:
            patched.setattr(file._writer, step, full)
        with pytest.raises(
            UserError, match=r"events cannot be written \(No space left on device\): make room"
        ):
            calls[step]()
    file.close()


def test_tensorflow_is_not_imported(tmp_path: Path) -> None:
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text(
        "raise SystemExit('tensorflow was imported')"
    )
    code = f"""
from pathlib import Path
from manual_bp.training.event_file import EventFile
file = EventFile(Path({str(tmp_path / "run")!r}))
file.scalars({{"cost/train": 1.0}}, 1)
file.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert read(tmp_path / "run").Scalars("cost/train")[0].value == 1
