"""The processes of one run: one, or as many as torchrun started."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from manual_bp.training.errors import UserError


@dataclass(frozen=True)
class World:
    """Which of how many processes this is; rank 0 alone prints and writes files."""

    rank: int = 0
    size: int = 1

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


@contextmanager
def join(device: torch.device) -> Iterator[World]:
    """Join torchrun's processes: nccl where the device is CUDA, gloo elsewhere. Without torchrun, a
    world of one.

    Raises:
        UserError: the processes do not find each other.
    """
    if not dist.is_torchelastic_launched():
        yield World()
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    try:
        # Named, for else nccl guesses the GPU at the first collective, and warns.
        dist.init_process_group(backend, device_id=device if backend == "nccl" else None)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"torchrun: rank {os.environ.get('RANK')} cannot join the {backend} group: {reason}"
        ) from error
    try:
        yield World(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
