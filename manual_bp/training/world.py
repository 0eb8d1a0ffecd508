"""The processes of one run: one, or as many as torchrun started."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from manual_bp.training.errors import UserError

PATIENCE = 600.0  # seconds; $MANUAL_BP_PATIENCE


@dataclass(frozen=True)
class World:
    """Which of how many processes this is; rank 0 alone prints and writes files."""

    rank: int = 0
    size: int = 1
    store: Any = None  # a Store of torchrun, which outlives its processes

    @property
    def writes(self) -> bool:
        return self.rank == 0

    def share(self, rows: Tensor) -> Tensor:
        """This process's part of a batch. The parts differ by one row at most, and may be empty."""
        return rows if self.size == 1 else rows.tensor_split(self.size)[self.rank]

    def sum_(self, tensor: Tensor) -> None:
        """Replace `tensor` by its sum over the processes."""
        if self.size > 1:
            dist.all_reduce(tensor)

    def wait(self) -> None:
        if self.size > 1:
            dist.barrier()

    def tell(self, folder: Path) -> None:
        """Let every process know the run's folder: any of them may have to say how to go on."""
        if self.store is not None:
            self.store.set("folder", str(folder))

    def folder(self) -> Path | None:
        """What was told."""
        with contextlib.suppress(RuntimeError):  # torchrun itself is gone
            if self.store is not None and self.store.check(["folder"]):
                return Path(self.store.get("folder").decode())
        return None

    def speaks(self) -> bool:
        """Whether this process is the one to say how the run ended: the first that asks.

        Rank 0 may be the one that was lost.
        """
        if self.store is None:
            return self.writes
        try:
            return int(self.store.add("said", 1)) == 1
        except RuntimeError:
            return self.writes


def may_write() -> bool:
    """Whether this process will be the one that writes; known before the processes have met."""
    return not dist.is_torchelastic_launched() or os.environ.get("RANK") == "0"


def leave() -> None:
    """End a process of torchrun here, after a run that went well; elsewhere do nothing.

    Gloo's threads may outlive the process group, and abort a process whose interpreter is torn down
    under them: "terminate called without an active exception". Nothing is left to be torn down at
    this point.
    """
    if dist.is_torchelastic_launched():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def is_lost(error: BaseException) -> bool:
    """Whether the error is that of a collective operation in which another process is missing."""
    named = any(name in str(error).lower() for name in ("gloo", "nccl", "connection"))
    return dist.is_torchelastic_launched() and (isinstance(error, dist.DistError) or named)


def _store() -> Any:
    """A connection of its own to torchrun's store; it says within seconds that torchrun is gone."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(address, port, timeout=timedelta(seconds=10))  # type: ignore[attr-defined]
    start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return dist.PrefixStore(f"manual_bp/{start}", store)  # type: ignore[attr-defined]


def patience() -> timedelta:
    """How long a process is waited for.

    Raises:
        UserError: $MANUAL_BP_PATIENCE is no number of seconds.
    """
    text = os.environ.get("MANUAL_BP_PATIENCE", "")
    try:
        seconds = float(text or PATIENCE)
    except ValueError:
        seconds = math.nan
    if not 1 <= seconds <= 1e6:
        raise UserError(
            f"MANUAL_BP_PATIENCE={text}: a number of seconds from 1 to 1000000 is needed"
        )
    return timedelta(seconds=seconds)


@contextmanager
def join(device: torch.device) -> Iterator[World]:
    """Join torchrun's processes: nccl where the device is CUDA, gloo elsewhere. Without torchrun, a
    world of one.

    A process that the others wait for longer than PATIENCE counts as lost.

    Raises:
        UserError: the processes do not find each other.
    """
    if not dist.is_torchelastic_launched():
        yield World()
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    try:
        # Named, for else nccl guesses the GPU at the first collective, and warns.
        dist.init_process_group(
            backend, device_id=device if backend == "nccl" else None, timeout=patience()
        )
        store = _store()
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"torchrun: rank {os.environ.get('RANK')} cannot join the {backend} group: {reason}"
        ) from error
    try:
        yield World(dist.get_rank(), dist.get_world_size(), store)
    finally:
        dist.destroy_process_group()
