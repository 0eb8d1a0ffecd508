"""A run's event file, which TensorBoard reads.

Everything stays in the run's own folder: `add_scalars` and `add_hparams` would make more runs
beside it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from torch import Tensor

from manual_bp.training.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image


class EventFile:
    """The event file of one run folder. Only making one imports TensorBoard.

    Args:
        folder: the run folder.
        first_epoch: points that an interrupted run left from this epoch on are dropped, so that
            curves do not overlap.
        explained: a scalar's name on the pages and its description, by tag.
        check: raises where the folder is no longer the run's. It is called before each write.
    """

    def __init__(
        self,
        folder: Path,
        first_epoch: int = 1,
        explained: Callable[[str], tuple[str, str]] = lambda tag: (tag, ""),
        check: Callable[[], None] = lambda: None,
    ) -> None:
        _leave_tensorflow_out()
        from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
        from torch.utils.tensorboard import SummaryWriter

        self._summary, self._metadata = Summary, SummaryMetadata
        self._explained, self._tags = explained, set[str]()  # those that were explained
        # TensorBoard writes in a thread of its own. The next call here raises what failed there,
        # so the thread need not print it too.
        self._hook, threading.excepthook = threading.excepthook, self._but_not_twice
        # By its own path, whatever becomes of the working folder.
        self._writer = SummaryWriter(str(folder.resolve()), purge_step=first_epoch)
        self._check = check

    def scalars(self, values: Mapping[str, float], epoch: int) -> None:
        """A point of each curve, all in one event. A curve's first point explains it."""
        points = [self._summary.Value(tag=tag, simple_value=v) for tag, v in values.items()]
        for point in points:
            if point.tag not in self._tags:
                name, description = self._explained(point.tag)
                # TensorBoard's data server keeps a name only where the class is given.
                metadata = self._metadata(display_name=name, summary_description=description)
                metadata.data_class = 1  # DATA_CLASS_SCALAR
                metadata.plugin_data.plugin_name = "scalars"
                point.metadata.CopyFrom(metadata)
        self._tags |= set(values)
        self._add(self._summary(value=points), epoch)

    def charts(self, layout: Mapping[str, Mapping[str, list[Any]]]) -> None:
        """The page Custom Scalars, laid out as `add_custom_scalars` takes it."""
        self._writer.add_custom_scalars(layout)

    def text(self, tag: str, markdown: str, epoch: int) -> None:
        self._writer.add_text(tag, markdown, epoch)

    def image(self, tag: str, image: Image, epoch: int) -> None:
        """An image with its palette, quickly compressed; `add_image` keeps no palette."""
        file = io.BytesIO()
        image.save(file, format="png", compress_level=1)
        png = self._summary.Image(
            height=image.height,
            width=image.width,
            colorspace=3,
            encoded_image_string=file.getvalue(),
        )
        self._add(self._summary(value=[self._summary.Value(tag=tag, image=png)]), epoch)

    def histogram(self, tag: str, values: Tensor, epoch: int) -> None:
        """The finite entries; the scalar `non_finite/<tag>` counts the others."""
        values = values.detach().flatten().float()
        finite = values[values.isfinite()].cpu()
        if len(finite) < len(values):
            self.scalars({f"non_finite/{tag}": len(values) - len(finite)}, epoch)
        if len(finite):
            self._writer.add_histogram(tag, finite, epoch)

    def hparams_start(self, hparams: Mapping[str, Any]) -> None:
        """The run's row on the page HParams.

        torch's summary of the experiment is left out: with it the page does not show first what
        differs between runs.
        """
        from torch.utils.tensorboard.summary import hparams as summaries

        plain = {name: _plain(value) for name, value in hparams.items()}
        _, start, self._hparams_end = summaries(plain, {})
        self._add(start, None)

    def hparams_end(self) -> None:
        """Mark that row as finished."""
        self._add(self._hparams_end, None)

    def flush(self) -> None:
        """Write what has been added.

        Raises:
            UserError: it cannot be written, or an earlier addition could not.
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
        by_writer = type(failure.thread).__name__ == "_AsyncWriterThread"
        if not (by_writer and isinstance(failure.exc_value, OSError)):
            self._hook(failure)

    def _add(self, summary: Any, epoch: int | None) -> None:
        with self._in_one_line():
            self._writer._get_file_writer().add_summary(summary, epoch)

    @contextlib.contextmanager
    def _in_one_line(self) -> Iterator[None]:
        self._check()  # TensorBoard opens its file anew for each flush
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self._writer.log_dir}: TensorBoard's events cannot be written "
                f"({error.strerror or error}): make room or choose another --logdir"
            ) from error


def _plain(value: Any) -> int | float | str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, int | float) else str(value)


def _leave_tensorflow_out() -> None:
    """Make TensorBoard use its small stand-in for TensorFlow, whose import takes seconds.

    TensorBoard looks for a module of this name for that very purpose.
    """
    name = "tensorboard.compat.notf"
    unwanted = name not in sys.modules and "tensorflow" not in sys.modules
    if unwanted and importlib.util.find_spec("tensorflow"):
        sys.modules[name] = ModuleType(name)
