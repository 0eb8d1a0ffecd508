"""The device, the threads and the determinism of a run."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import pairwise
from typing import Any

import torch

from manual_bp.training.errors import UserError

# Multiply-adds of a step's forward pass from which more threads pay. They meet after each product:
# where other programs want the cores too, each meeting may cost milliseconds.
_THREADS_PAY = 500_000_000


def choose_device(name: str) -> tuple[torch.device, str]:
    """The device for --device, and why it was chosen. Under torchrun each process on one machine
    takes its own GPU.

    Raises:
        UserError: it is not there.
    """
    if name == "auto":
        found = torch.accelerator.current_accelerator(check_available=True)
        if found is None:
            return torch.device("cpu"), "no accelerator is available"
        device, why = torch.device(found.type), f"{found.type} is available"
    else:
        device, why = torch.device(name), "as asked"
    if device.type == "cuda":
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        device = torch.device("cuda", local_rank if device.index is None else device.index)
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            usable = f"{count} usable CUDA device{'s' * (count != 1)}"
            of_rank = f" for process {local_rank}" if local_rank else ""
            raise UserError(
                f"--device {name}{of_rank}: this machine has {usable}; use --device cpu"
            )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError(
            "--device mps: this machine has no usable Apple GPU; use --device cpu or auto"
        )
    return device, why


def current(device: torch.device) -> AbstractContextManager[Any]:
    """Makes a GPU the current one: streams, events and collectives are those of the current one."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def choose_threads(asked: int | None, batch_size: int, sizes: Sequence[int]) -> int:
    """The CPU threads: as asked, or one where a step is too small for more to pay.

    On a busy machine, several threads would take many times as long for small steps as one.
    """
    if asked is not None:
        return asked
    work = batch_size * sum(n_in * n_out for n_in, n_out in pairwise(sizes))
    return 1 if work < _THREADS_PAY else torch.get_num_threads()


class Stopwatch:
    """Measures what a device does from its making to `stop`.

    CUDA is not waited for; another accelerator is, for else the launches alone were measured.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._on_cuda = device, device.type == "cuda"
        self._start = self._now()
        self._stop = self._start

    def _now(self) -> Any:
        if not self._on_cuda:
            if self._device.type != "cpu":
                torch.accelerator.synchronize(self._device)
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def stop(self) -> None:
        self._stop = self._now()

    def seconds(self) -> float:
        """Seconds between making and stop. On CUDA wait for the device before asking."""
        if self._on_cuda:
            return float(self._start.elapsed_time(self._stop)) / 1000
        return float(self._stop - self._start)


@contextmanager
def configured(threads: int, deterministic: bool) -> Iterator[None]:
    """Set threads and determinism for a run, and put back what was there.

    Raises:
        UserError: this process has used CUDA in a way that is not deterministic.
    """
    setting = "CUBLAS_WORKSPACE_CONFIG"
    if deterministic and setting not in os.environ and torch.cuda.is_initialized():
        raise UserError(
            f"--deterministic: this process has used CUDA already, without {setting}, which cuBLAS "
            f"reads once: set {setting}=:4096:8 before, or train in a process of its own"
        )
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(threads)
    if deterministic:
        # cuBLAS gives the same bytes only with this; it stays, for cuBLAS reads it once.
        os.environ.setdefault(setting, ":4096:8")
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        if deterministic:  # any call imports PyTorch's compiler, for seconds
            torch.use_deterministic_algorithms(before[1])
