"""TensorBoard: the scalars of a run, one point an epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_TAGS = ("cost/", "accuracy/", "grad_norm/", "delta_norm/", "slope/", "saturated/", "update_ratio/", "check/", "time/")


class Board:
    """The event file of one run folder. TensorBoard is imported when it is made, not before."""

    def __init__(self, folder: Path, first_epoch: int = 1) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # points from here on that an interrupted run left behind are dropped, so that curves do not overlap
        self._writer = SummaryWriter(str(folder), purge_step=first_epoch)

    def scalars(self, row: dict[str, Any], epoch: int) -> None:
        """Write every entry of a metrics row whose name is a tag."""
        for tag, value in row.items():
            if tag.startswith(_TAGS):
                self._writer.add_scalar(tag, value, epoch)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
