"""`manual-bp predict` reads pictures of any kind as the network was trained."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from manual_bp.training.command import main as train
from manual_bp.training.errors import UserError
from manual_bp.use import picture, predict

# Each digit as a stroke on a board of 100 × 100.
STROKES = [
    [(50, 15), (32, 22), (25, 50), (32, 78), (50, 85), (68, 78), (75, 50), (68, 22), (50, 15)],
    [(40, 28), (54, 15), (54, 85)],
    [(28, 32), (36, 18), (55, 15), (70, 26), (68, 42), (28, 84), (74, 84)],
    [(30, 20), (52, 14), (68, 26), (62, 42), (46, 48), (64, 54), (70, 70), (54, 85), (28, 80)],
    [(60, 85), (60, 15), (24, 62), (78, 62)],
    [(70, 16), (34, 16), (32, 46), (54, 42), (70, 56), (66, 76), (48, 85), (28, 78)],
    [(64, 16), (42, 30), (30, 56), (34, 78), (52, 86), (68, 74), (64, 58), (48, 54), (32, 64)],
    [(26, 18), (74, 18), (46, 85)],
    [
        *[(50, 48), (34, 38), (36, 20), (52, 14), (66, 24), (62, 40), (50, 48)],
        *[(34, 60), (34, 78), (50, 86), (68, 76), (66, 60), (50, 48)],
    ],
    [(68, 36), (52, 48), (36, 40), (36, 22), (54, 14), (68, 24), (68, 40), (62, 85)],
]


def drawn(digit: int, ink: int = 0, paper: int = 255) -> Image.Image:
    """A digit in thick strokes, off the centre of a picture that is not square."""
    image = Image.new("L", (400, 300), paper)
    draw = ImageDraw.Draw(image)
    points = [(170 + 1.9 * x, 60 + 1.9 * y) for x, y in STROKES[digit]]
    draw.line(points, fill=ink, width=24, joint="curve")
    for x, y in points:
        draw.ellipse((x - 12, y - 12, x + 12, y + 12), fill=ink)
    return image


@pytest.mark.slow
@pytest.mark.skipif(
    "MANUAL_BP_DATA" not in os.environ, reason="needs real MNIST in $MANUAL_BP_DATA"
)
def test_the_default_network_reads_digits_drawn_by_hand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--dataset", "mnist", "--engine", "direct", "--run-name", "mnist"]
    train([*flags, "--logdir", str(tmp_path)])
    capsys.readouterr()
    paths = [tmp_path / f"{digit}.png" for digit in range(10)]
    for digit, path in enumerate(paths):
        drawn(digit).save(path)
    assert predict.main(["mnist", *map(str, paths), "--logdir", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    answers = [line.split(": ")[1][0] for line in lines if ".png: " in line]
    right = [answer == str(digit) for digit, answer in enumerate(answers)]
    assert (len(right), sum(right) >= 8) == (10, True), answers


def test_what_the_paper_and_the_file_are_like_changes_nothing(tmp_path: Path) -> None:
    """Ink and paper, colour, transparency, size and place: the network gets the same pixels."""
    reference = tmp_path / "a.png"
    drawn(5).save(reference)
    expected = picture.read(reference, 28, 20)
    assert expected.pixels.max() == 255
    rows = np.flatnonzero(expected.pixels.any(1))
    assert rows[-1] - rows[0] + 1 == 20
    for axis in (0, 1):
        assert abs(picture._centre(expected.pixels, axis) - 14) <= 0.5 + 1e-9
    others = {
        "inverted.png": drawn(5, ink=255, paper=0),
        "pale.png": drawn(5, ink=120, paper=240),
        "colour.png": drawn(5).convert("RGB"),
        "moved.png": Image.new("L", (640, 480), 255),
        "transparent.png": Image.new("RGBA", (400, 300)),
    }
    others["moved.png"].paste(drawn(5), (3, 150))
    others["transparent.png"].putalpha(Image.eval(drawn(5), lambda grey: 255 - grey))
    for name, image in others.items():
        image.save(tmp_path / name)
        found = picture.read(tmp_path / name, 28, 20)
        assert np.abs(found.pixels - expected.pixels).max() < 4, name


def test_pictures_of_the_digits_fill_their_eight_pixels(tmp_path: Path) -> None:
    drawn(3).save(tmp_path / "3.png")
    found = picture.read(tmp_path / "3.png", 8, 8)
    assert found.pixels.shape == (8, 8)
    assert found.pixels[0].any()
    assert found.pixels[-1].any()


def test_bars_and_answer_are_printed(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "1.png"
    drawn(1).save(path)
    assert predict.main([str(digits), str(path)]) == 0
    head, _, said, *bars = capsys.readouterr().out.splitlines()
    assert head.endswith(": digits, 64-30-10, 2 epochs")
    values = [float(line.split()[1]) for line in bars]
    assert len(values) == 10
    assert said.startswith(f"{path}: {np.argmax(values)}   (400 × 300, inverted, cut out")
    for line, value in zip(bars, values, strict=True):
        assert abs(line.count("█") - 40 * value) < 1


def test_an_answer_that_no_output_gives_is_said(
    digits: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "1.png"
    drawn(1).save(path)
    for unsure, said in ((2.0, True), (0.0, False)):
        monkeypatch.setattr(predict, "_UNSURE", unsure)
        predict.main([str(digits), str(path)])
        assert ("no output reaches" in capsys.readouterr().out) == said


def blank(path: Path) -> None:
    Image.new("L", (28, 28), 250).save(path)


def text(path: Path) -> None:
    path.write_text("no picture")


def cut(path: Path) -> None:
    drawn(2).save(path, "PNG")
    path.write_bytes(path.read_bytes()[:200])


def huge(path: Path) -> None:
    Image.new("1", (9_000, 9_000)).save(path, "PNG")


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (blank, "no stroke is seen"),
        (text, "not a picture"),
        (cut, "cannot be read"),
        (huge, "million are read"),
        (lambda path: None, "No such file"),
        (Path.mkdir, "Is a directory"),
    ],
)
def test_what_is_no_picture_is_one_line(make: object, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    make(path)  # type: ignore[operator]
    with pytest.raises(UserError, match=expected) as error:
        picture.read(path, 28, 20)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)
