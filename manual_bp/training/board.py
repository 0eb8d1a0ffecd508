"""TensorBoard: what a run writes into its event file.

Everything of a run stays in the run's own folder: `add_scalars` and `add_hparams` would make
further runs beside it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import math
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from torch import Tensor

from manual_bp.training.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

TAGS = (
    "cost/",
    "accuracy/",
    "grad_norm/",
    "delta_norm/",
    "delta_norm_log10/",
    "slope/",
    "saturated/",
    "passed/",
    "dead/",
    "stuck/",
    "update_ratio/",
    "check/",
    "time/",
    "non_finite/",
)

# Category, then chart, then what the tags of its lines start with, as regular expressions.
LAYOUT = {
    "cost": {"cost C": ["cost/.*"]},
    "accuracy": {"accuracy, a share of the examples": ["accuracy/.*"]},
    "gradient norms": {
        "‖∂C/∂W‖ by layer": [r"grad_norm/.*\.weight"],
        "‖∂C/∂b‖ by layer": [r"grad_norm/.*\.bias"],
        "all parameters as one vector": ["grad_norm/total"],
    },
    "δ per layer": {
        "log₁₀ ‖δ‖ by layer": ["delta_norm_log10/.*"],
        "‖δ‖ = ‖∂C/∂z‖ by layer": ["delta_norm/.*"],
    },
    "slope × error": {
        "slope: mean σ′(z) by layer, at most ¼": ["slope/.*"],
        "error let through: ‖δ‖ / ‖∂C/∂a‖ by layer, at most ¼": ["passed/.*"],
        "saturated: share of σ′(z) < 0.01 by layer": ["saturated/.*"],
    },
}

METRICS = (
    "cost/train",
    "cost/validation",
    "cost/test",
    "accuracy/train",
    "accuracy/validation",
    "accuracy/test",
)


class Board:
    """The event file of one run folder. TensorBoard is imported when it is made, not before.

    Args:
        folder: the run folder.
        first_epoch: points from here on that an interrupted run left behind are dropped, so that
            curves do not overlap.
    """

    def __init__(self, folder: Path, first_epoch: int = 1) -> None:
        _leave_tensorflow_out()
        from torch.utils.tensorboard import SummaryWriter

        # TensorBoard writes in a thread of its own. What fails there is raised by the next call
        # here, and said once.
        self._hook, threading.excepthook = threading.excepthook, self._but_not_twice
        self._writer = SummaryWriter(str(folder), purge_step=first_epoch)

    def scalars(self, row: Mapping[str, Any], epoch: int) -> None:
        """Write every entry of a metrics row whose name is a tag, and the logarithm of each ‖δ‖, as
        one event.
        """
        from tensorboard.compat.proto.summary_pb2 import Summary

        deltas = {
            tag: value
            for tag, value in row.items()
            if tag.startswith("delta_norm/") and 0 < value < math.inf
        }
        row = {
            **row,
            **{tag.replace("/", "_log10/"): math.log10(value) for tag, value in deltas.items()},
        }
        values = [
            Summary.Value(tag=tag, simple_value=value)
            for tag, value in row.items()
            if tag.startswith(TAGS)
        ]
        self._add(Summary(value=values), epoch)

    def layout(self) -> None:
        """The charts of the page Custom Scalars."""
        self._writer.add_custom_scalars(
            {
                category: {title: ["Multiline", tags] for title, tags in charts.items()}
                for category, charts in LAYOUT.items()
            }
        )

    def text(self, tag: str, markdown: str, epoch: int) -> None:
        self._writer.add_text(tag, markdown, epoch)

    def image(self, tag: str, image: Image, epoch: int) -> None:
        """A PIL image as it is; `add_image` would take away its palette, and compress it with more
        patience.
        """
        from tensorboard.compat.proto.summary_pb2 import Summary

        file = io.BytesIO()
        image.save(file, format="png", compress_level=1)
        png = Summary.Image(
            height=image.height,
            width=image.width,
            colorspace=3,
            encoded_image_string=file.getvalue(),
        )
        self._add(Summary(value=[Summary.Value(tag=tag, image=png)]), epoch)

    def histogram(self, tag: str, values: Tensor, epoch: int) -> None:
        """A histogram of the finite entries; how many are not becomes the scalar
        `non_finite/<tag>`.
        """
        values = values.detach().flatten().float()
        finite = values[values.isfinite()].cpu()
        if len(finite) < len(values):
            self.scalars({f"non_finite/{tag}": len(values) - len(finite)}, epoch)
        if len(finite):
            self._writer.add_histogram(tag, finite, epoch)

    def hparams_start(self, hparams: Mapping[str, Any]) -> None:
        """The run's row on the page HParams, whose metrics are the run's own scalars."""
        for summary in _hparams(hparams)[:2]:
            self._add(summary, None)

    def hparams_end(self) -> None:
        """Mark that row as finished."""
        self._add(_hparams({})[2], None)

    def flush(self) -> None:
        """Write what has been added.

        Raises:
            UserError: it cannot be written. TensorBoard writes in a thread, so this may be about
                earlier additions.
        """
        with self._in_one_line():
            self._writer.flush()

    def close(self) -> None:
        """Flush and close; raises as `flush` does."""
        try:
            with self._in_one_line():
                self._writer.close()
        finally:
            threading.excepthook = self._hook

    def _but_not_twice(self, failure: threading.ExceptHookArgs) -> None:
        if not (
            type(failure.thread).__name__ == "_AsyncWriterThread"
            and isinstance(failure.exc_value, OSError)
        ):
            self._hook(failure)

    def _add(self, summary: Any, epoch: int | None) -> None:
        with self._in_one_line():
            self._writer._get_file_writer().add_summary(summary, epoch)

    @contextlib.contextmanager
    def _in_one_line(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self._writer.log_dir}: TensorBoard's events cannot be written "
                f"({error.strerror or error}): make "
                f"room or choose another --logdir"
            ) from error


def _hparams(hparams: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """The summaries experiment, session start and session end that `add_hparams` would write into a
    run of its own.
    """
    from torch.utils.tensorboard.summary import hparams as summaries

    plain = {
        name: value if isinstance(value, int | float) else str(value)
        for name, value in hparams.items()
    }
    for name, value in plain.items():
        if isinstance(value, bool):
            plain[name] = "yes" if value else "no"
    experiment, start, end = summaries(plain, dict.fromkeys(METRICS, 0.0))
    return experiment, start, end


def _leave_tensorflow_out() -> None:
    """Make TensorBoard use its own small stand-in for TensorFlow, whose import takes seconds where
    it is installed.

    TensorBoard looks for a module of this name for that very purpose.
    """
    name = "tensorboard.compat.notf"
    if (
        name not in sys.modules
        and "tensorflow" not in sys.modules
        and importlib.util.find_spec("tensorflow")
    ):
        sys.modules[name] = ModuleType(name)
