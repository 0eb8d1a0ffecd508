"""`mbp.train`: a run from Python."""

from __future__ import annotations

from pathlib import Path

import pytest

import manual_bp as mbp
from manual_bp.training.errors import UsageError, UserError

FLAGS = {"dataset": "digits", "hidden": [5], "epochs": 1, "engine": "direct", "run_name": "cell"}


@pytest.mark.usefixtures("drawn_pictures")
def test_a_cell_trains_and_shows_the_run(tmp_path: Path) -> None:
    first = mbp.train(**FLAGS, logdir=tmp_path)
    again = mbp.train(**FLAGS, logdir=tmp_path)
    assert [run.folder for run in (first, again)] == [tmp_path / "cell", tmp_path / "cell-2"]
    assert first.metrics[0]["cost/train"] == again.metrics[0]["cost/train"]
    page = first._repr_html_()
    assert page.count("<tr>") == 2
    assert f"{first.metrics[0]['cost/train']:.5g}" in page
    assert '<img alt="the run on one page" src="data:image/png;base64,iVBOR' in page


def test_no_epoch_and_no_folder_are_shown_too(tmp_path: Path) -> None:
    run = mbp.train(**{**FLAGS, "epochs": 0}, logdir=tmp_path, dry_run=True)
    assert "accuracy" in run._repr_html_()
    assert "<img" not in run._repr_html_()


@pytest.mark.parametrize(
    ("flags", "error", "expected"),
    [
        ({"hiden": [5]}, TypeError, "'hiden' is no flag; flags: dataset, data_dir"),
        ({"lr": -1}, UsageError, "argument --lr: '-1' is not a number above 0"),
        ({"dataset": "cifar"}, UserError, "--dataset cifar: not one of auto, mnist"),
        ({"engine": "direct", "compile": True}, UsageError, "does not go with --compile"),
        ({"resume": "cel"}, UserError, "there is no such run"),
    ],
)
def test_bad_flags_are_exceptions(
    flags: dict[str, object], error: type[Exception], expected: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=expected):
        mbp.train(logdir=tmp_path, **{"dataset": "digits", **flags})
    assert list(tmp_path.iterdir()) == []


def test_a_stretched_cosine_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mbp.train(**{**FLAGS, "epochs": 2}, logdir=tmp_path, lr=2)
    capsys.readouterr()
    mbp.train(resume="cell", logdir=tmp_path, epochs=4)
    expected = (
        "warning  --epochs 4 stretches the cosine that was planned for 2: η goes on at 1, where 0 "
        "was planned\n"
    )
    assert expected in capsys.readouterr().out
    mbp.train(resume="cell", logdir=tmp_path)
    assert "stretches" not in capsys.readouterr().out
