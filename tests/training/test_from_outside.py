"""What files and figures may do to a run: pipes, overflow, depth, a picture that is gone."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

import manual_bp as mbp
from manual_bp.training import own_data
from manual_bp.training.command import main
from manual_bp.training.errors import UserError
from manual_bp.use import picture


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))


NO_FILES: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a socket": _socket,
    "a folder": os.mkdir,
    "an endless device": lambda path: path.symlink_to("/dev/zero"),
    "a terminal": lambda path: path.symlink_to("/dev/ptmx"),
}


@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_file_is_neither_read_nor_waited_for(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's name may be 107 bytes long
    for name in ("a", "b"):
        Path("pictures", name).mkdir(parents=True)
        Image.new("L", (4, 4)).save(f"pictures/{name}/0.png")
    for name in ("data.npz", "picture.png", "pictures/a/1.png"):
        NO_FILES[kind](Path(name))
    with pytest.raises(UserError, match=r"^data\.npz: "):
        own_data.load(Path("data.npz"))
    with pytest.raises(UserError, match=r"^picture\.png: "):
        picture.read(Path("picture.png"), 28, 20)
    with pytest.raises(UserError, match=r"^pictures/a/1\.png: |^pictures: 2 images"):
        own_data.load(Path("pictures"))


TOO_LARGE = [
    (["--lr", "1e39"], "--lr 1e+39: float32 holds at most 3.4e+38"),
    (["--weight-decay", "4e38"], "--weight-decay 4e+38: float32 holds at most 3.4e+38"),
    (["--lr", "1e308", "--engine", "autograd"], "--lr 1e+308: float32 holds"),
]


@pytest.mark.parametrize(("flags", "words"), TOO_LARGE)
def test_a_rate_that_the_precision_cannot_hold_is_one_line(
    flags: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--dataset", "digits", "--engine", "direct", "--logdir", str(tmp_path), *flags]
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    err = capsys.readouterr().err
    assert (stopped.value.code, err.count("\n")) == (2, 1)
    assert words in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.usefixtures("drawn_pictures")
def test_a_network_of_three_hundred_layers_has_its_picture(tmp_path: Path) -> None:
    result = mbp.train(
        dataset="digits", engine="direct", hidden=[2] * 300, epochs=0, logdir=str(tmp_path)
    )
    assert result.folder is not None
    page = result.folder / "summary.png"
    with Image.open(page) as image:
        assert image.height > 640
    page.unlink()  # the table is shown all the same
    assert "<table>" in result._repr_html_()
    assert "<img" not in result._repr_html_()
