"""Any picture as an input of a trained network: grey, bright on dark, centred and scaled."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manual_bp.training.errors import UserError
from manual_bp.training.trained import Trained

# Each data set: the pixels of a picture's side, and those of the box that what is shown fills.
_SIDES = {"mnist": (28, 20), "fashion-mnist": (28, 28), "digits": (8, 8)}
_LARGEST = 64_000_000  # pixels of a picture; a small file can unpack to many more
_STROKE = 0.2  # of the brightest: a pixel from here on belongs to a stroke
_FLAT = 16  # of 255: less difference between strokes and paper is no picture

Grey = NDArray[np.float64]  # (height, width), 0 to 255


@dataclass(frozen=True)
class Picture:
    """What the network gets, and what was done to the picture for it."""

    pixels: Grey  # (height, width), 0 to 255
    steps: list[str]


def of_run(run: Trained, path: Path) -> Picture:
    """Read a picture for the network of a run, as the pictures of its data set were made.

    Pictures for data of one's own are made grey and scaled to their size, and no more.

    Raises:
        UserError: as `read`.
    """
    if run.plan.dataset in _SIDES:
        return read(path, *_SIDES[run.plan.dataset])
    grey, (height, width) = _open(path), run.plan.shape
    steps = [f"{grey.shape[1]} × {grey.shape[0]}"]
    if grey.shape != (height, width):
        grey = _resized(grey, width, height)
        steps.append(f"scaled to {width} × {height}")
    return Picture(grey, steps)


def read(path: Path, side: int, box: int) -> Picture:
    """Read a picture as MNIST's were made: a digit in a box of `box` pixels on side × side ones.

    The paper is made dark, the digit scaled so that its longer side has `box` pixels, and, where
    there is a margin, moved so that its centre of mass is the picture's centre.

    Raises:
        UserError: no picture, one that is too large, or one without a stroke.
    """
    grey = _open(path)
    height, width = grey.shape
    steps = [f"{width} × {height}"]
    edge = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    paper = float(np.median(edge))
    if paper > 127.5:
        grey, paper = 255 - grey, 255 - paper
        steps.append("inverted")
    grey = np.clip(grey - paper, 0, None)
    if grey.max() < _FLAT:
        raise UserError(f"{path}: no stroke is seen: strokes that differ from the paper are needed")
    grey *= 255 / grey.max()
    rows, columns = np.nonzero(grey >= _STROKE * 255)
    grey = grey[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    grey = _scaled(grey, box)
    steps.append(f"cut out and scaled to {grey.shape[1]} × {grey.shape[0]}")
    top, left = (side - grey.shape[0]) // 2, (side - grey.shape[1]) // 2
    if box < side:
        top, left = (
            int(np.clip(round(side / 2 - _centre(grey, axis)), 0, side - grey.shape[axis]))
            for axis in (0, 1)
        )
        steps.append(f"centred by its mass on {side} × {side}")
    pixels = np.zeros((side, side))
    pixels[top : top + grey.shape[0], left : left + grey.shape[1]] = grey
    return Picture(pixels, steps)


def _open(path: Path) -> Grey:
    """A picture's brightness; what is transparent is white."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    if path.exists() and not (path.is_file() or path.is_dir()):
        raise UserError(f"{path}: no file, but a pipe or a device")  # which would wait for ever
    try:
        with Image.open(path) as image:
            if image.width * image.height > _LARGEST:
                raise UserError(
                    f"{path}: {image.width} × {image.height} pixels: at most {_LARGEST // 10**6} "
                    f"million are read; make it smaller"
                )
            upright: Any = ImageOps.exif_transpose(image)
            upright = upright.convert("RGBA")
    except UnidentifiedImageError as error:
        raise UserError(f"{path}: not a picture that can be read: PNG or JPEG is safe") from error
    except OSError as error:
        why = error.strerror or "damaged"
        raise UserError(f"{path}: cannot be read ({why})") from error
    except (Image.DecompressionBombError, ValueError, SyntaxError) as error:
        raise UserError(f"{path}: damaged, or too large a picture") from error
    white = Image.new("RGBA", upright.size, "white")
    return np.asarray(Image.alpha_composite(white, upright).convert("L"), dtype=np.float64)


def _scaled(grey: Grey, box: int) -> Grey:
    """The longer side has `box` pixels afterwards, and the brightest of them 255."""
    height, width = grey.shape
    factor = box / max(height, width)
    scaled = _resized(grey, max(1, round(width * factor)), max(1, round(height * factor)))
    return scaled * (255 / float(scaled.max()))


def _resized(grey: Grey, width: int, height: int) -> Grey:
    """Each pixel is the mean of what lies under it."""
    from PIL import Image

    image = Image.fromarray(grey.astype(np.float32)).resize((width, height), Image.Resampling.BOX)
    return np.asarray(image, dtype=np.float64)


def _centre(grey: Grey, axis: int) -> float:
    """The centre of mass along an axis, in pixels from the first one's edge."""
    mass = grey.sum(1 - axis)
    return float((mass * (np.arange(len(mass)) + 0.5)).sum() / mass.sum())
