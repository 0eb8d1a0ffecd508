"""CUDA graphs on the CPU: a capture puts calls on a tape, and a replay makes them.

The tape keeps what a program can get wrong without noticing. A replay sees no Python, only the
tensors of the capture. A value that is read in a capture is an error, and so is a capture on
another device's stream.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from weakref import WeakValueDictionary

import pytest
import torch
from torch import Tensor
from torch.autograd.grad_mode import _unsafe_preserve_version_counter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from manual_bp.direct import cuda_graph

WAITING = {"_local_scalar_dense", "nonzero", "equal", "is_nonzero"}


class Tape(TorchDispatchMode):
    """Stands in for torch.cuda.CUDAGraph."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._calls: list[tuple[Any, Any, Any, list[Tensor]]] = []
        self._before: list[tuple[Tensor, Tensor]] = []
        self.replays = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name.removeprefix("aten::") in WAITING:
            raise RuntimeError(f"operation not permitted when stream is capturing: {func}")
        kwargs = kwargs or {}
        for i, argument in enumerate(func._schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                written = args[i] if i < len(args) else kwargs[argument.name]
                self._before.append((written, written.clone()))
        out = func(*args, **kwargs)
        self._calls.append((func, args, kwargs, _tensors(out)))
        return out

    @torch.no_grad()
    def capture_end(self) -> None:
        """Undo the captured calls: a capture does nothing."""
        for tensor, value in reversed(self._before):
            tensor.copy_(value)
        self._before = []

    @torch.no_grad()
    def replay(self) -> None:
        """Make the calls. The tensors' version counters stay, as they do for a kernel."""
        self.replays += 1
        for func, args, kwargs, outputs in self._calls:
            written = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)]
            with _unsafe_preserve_version_counter(tuple(written)):
                again = _tensors(func(*args, **kwargs))
            for old, new in zip(outputs, again, strict=True):
                if old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class Stream:
    """Stands in for torch.cuda.Stream. It belongs to the device that is current when it is made.

    The 33rd of a device is its first one again, as in torch.
    """

    def __init__(self) -> None:
        self.device = Machine.device
        self.cuda_stream = Machine.streams % 32
        Machine.streams += 1

    def wait_stream(self, stream: Stream) -> None: ...


class Machine:
    """The current device and stream, and every capture."""

    device = "cuda:0"
    streams = 0  # made so far
    stream: Stream | None = None  # the default stream
    capture_stream: Stream | None = None  # of captures that name none; on the first one's device
    tapes: list[Tape] = []  # noqa: RUF012 of all captures, in order
    captures: list[dict[str, Any]] = []  # noqa: RUF012 the options of each
    failure: str | None = None  # the error of every capture


@contextlib.contextmanager
def _graph(tape: Tape, **options: Any) -> Iterator[None]:
    Machine.capture_stream = Machine.capture_stream or Stream()
    stream = options.setdefault("stream", Machine.capture_stream)
    Machine.captures.append(options)
    Machine.tapes.append(tape)
    if Machine.failure:
        Machine.stream = stream  # left behind, as by torch 2.11
        raise RuntimeError(Machine.failure)
    assert stream.device == Machine.device, "a capture on another device's stream captures nothing"
    with tape:
        yield
    tape.capture_end()


@contextlib.contextmanager
def _current(name: str, value: Any) -> Iterator[None]:
    before = getattr(Machine, name)
    setattr(Machine, name, value)
    try:
        yield
    finally:
        setattr(Machine, name, before)


def insert(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make torch.cuda record on tapes until the end of the test."""
    for name in ("stream", "capture_stream", "failure"):
        monkeypatch.setattr(Machine, name, None)
    for name in ("tapes", "captures"):
        monkeypatch.setattr(Machine, name, [])
    monkeypatch.setattr(Machine, "device", "cuda:0")
    monkeypatch.setattr(Machine, "streams", 0)
    monkeypatch.setattr(cuda_graph, "_owners", WeakValueDictionary())
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Tape)
    monkeypatch.setattr(torch.cuda, "graph", _graph)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: _current("stream", stream))
    monkeypatch.setattr(torch.cuda, "device", lambda device: _current("device", device))


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, Tensor)]
