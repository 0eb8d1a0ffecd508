"""What a program calls: every `autograd.Function` that runs, and copies of what it was given.

Each Function is recorded on its first calls, one for each kind of arguments, before it runs. The
copies are made outside of autograd and draw no random number: the program computes what it would
have. Later calls are only counted.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from manual_bp.verify import arguments

RUNS = 3  # recordings of one Function, each with other shapes, dtypes or flags
LOOKED_AT = 200  # calls of one Function that are looked at; later ones are only counted
BYTES = 256 * 2**20  # of all recordings together
LIBRARY = "torch._library.autograd"  # where torch makes the Functions of its operators
TORCH = os.path.dirname(torch.__file__) + os.sep
HERE = os.path.dirname(__file__) + os.sep


@dataclass(frozen=True)
class Run:
    """One call: its arguments as they were, and what was switched on around it."""

    args: tuple[Any, ...]
    grad: bool  # grad mode is on, and an argument requires a gradient
    autocast: str  # the dtype's name, or ""
    site: str  # the file and line that called


@dataclass
class Recorded:
    """One Function or operator with its runs."""

    name: str
    target: Any  # what `check` takes: the class, or the operator
    place: str  # the file and line where it is written
    own: bool  # False for torch's own
    calls: int = 0
    runs: dict[Any, Run] = field(default_factory=dict)  # by the kind of arguments
    missed: str = ""  # why a call could not be recorded


class Recorder:
    """Gathers the calls while it is in `listening_to`; holds at most `limit` bytes."""

    def __init__(self, limit: int = BYTES) -> None:
        self.limit = limit
        self.held = 0
        self.paused = False
        self.found: dict[Any, Recorded] = {}
        self._lock = threading.RLock()
        self._copying = False

    def hear(self, cls: Any, args: tuple[Any, ...]) -> None:
        """Count one call, and copy its arguments if their kind is new."""
        if self.paused or not issubclass(cls, Function):
            return  # the classes that torch.func makes inside of a transform
        key = _key(cls)
        with self._lock:
            if self._copying:
                return  # a copy with gaps is made by a Function
            recorded = self.found.get(key)
            if recorded is None:
                recorded = self.found[key] = _described(cls)
            recorded.calls += 1
            if recorded.calls > LOOKED_AT:
                return
            self._copying = True
            try:
                self._record(recorded, cls, args)
            except Exception as error:  # of the copy: the program must go on
                recorded.missed = f"{type(error).__name__} while its arguments were copied"
            finally:
                self._copying = False

    def _record(self, recorded: Recorded, cls: Any, args: tuple[Any, ...]) -> None:
        args = _operator_args(cls, args)
        grad = torch.is_grad_enabled() and any(
            isinstance(a, Tensor) and a.requires_grad for a in args
        )
        autocast = ""
        if torch.is_autocast_enabled("cpu"):
            autocast = str(torch.get_autocast_dtype("cpu")).removeprefix("torch.")
        kind = (grad, autocast, tuple(map(arguments.kind, args)))
        if kind in recorded.runs:
            return
        if len(recorded.runs) >= RUNS:
            # a call without a gradient gives way to one that has it
            other = next((k for k, run in recorded.runs.items() if not run.grad), None)
            if other is None or not grad:
                return
            self.held -= arguments.size(recorded.runs.pop(other).args)
        odd = arguments.odd(args)
        if odd:
            recorded.missed = recorded.missed or odd
            return
        size = arguments.size(args)
        if size > (self.limit - self.held) // 2:
            recorded.missed = (
                f"its arguments take {size / 2**20:,.0f} MiB, and "
                f"{(self.limit - self.held) / 2**20:,.0f} of {self.limit / 2**20:,.0f} are left"
            )
            return
        recorded.runs[kind] = Run(arguments.copied(args), grad, autocast, _site())
        self.held += size


def _key(cls: Any) -> Any:
    """One for all classes that the same lines of code make."""
    operator = _operator(cls)
    if operator is not None:
        return str(operator)
    code = getattr(cls.forward, "__code__", None)
    return (cls.__module__, cls.__qualname__, code or cls)


def _described(cls: Any) -> Recorded:
    operator = _operator(cls)
    if operator is not None:
        return Recorded(str(operator), operator, "torch.library", True)
    backward: Any = cls.backward if cls.vjp is Function.vjp else cls.vjp
    # an extension's backward has no code: its module must do
    code = getattr(getattr(backward, "__wrapped__", backward), "__code__", None)
    place = cls.__module__
    if code is not None:
        place = f"{_short(code.co_filename)}:{code.co_firstlineno}"
    own = not cls.__module__.startswith("torch.")
    return Recorded(cls.__qualname__.replace("<locals>.", ""), cls, place, own)


def _operator(cls: Any) -> Any:
    """The `torch.library` operator that a generated Function differentiates, or None."""
    if cls.__module__ != LIBRARY:
        return None
    forward: Any = cls.forward
    for _ in range(3):  # an operator with lists of tensors has its forward wrapped
        names = getattr(getattr(forward, "__code__", None), "co_freevars", ())
        cells = dict(zip(names, getattr(forward, "__closure__", None) or (), strict=True))
        if "op" in cells:
            return cells["op"].cell_contents
        if "orig_forward" not in cells:
            return None
        forward = cells["orig_forward"].cell_contents
    return None


def _operator_args(cls: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """What the operator was given: torch adds a last argument, and flattens lists."""
    if _operator(cls) is None:
        return args
    *rest, more = args
    if hasattr(more, "input_spec"):
        *rest, more = torch.utils._pytree.tree_unflatten(rest, more.input_spec)
    if getattr(more, "keyword_only_args", None):
        raise ValueError("keyword-only arguments")
    return tuple(rest)


def _site() -> str:
    """The line that called, outside of torch and of the checker."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        file = frame.f_code.co_filename
        if not file.startswith((TORCH, HERE)) and "<" not in file:
            break
        frame = frame.f_back
    return f"{_short(frame.f_code.co_filename)}:{frame.f_lineno}"


@functools.cache
def _short(file: str) -> str:
    """A path as somebody in this folder would write it; torch's own begin with torch."""
    if file.startswith(TORCH):
        return os.path.join("torch", file.removeprefix(TORCH))
    try:
        near = os.path.relpath(file)
    except ValueError:  # another drive
        return file
    return file if near.startswith("..") else near
