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
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.utils._python_dispatch import _disable_current_modes

from manual_bp.verify import randomness, strides

RUNS = 3  # recordings of one Function, each with other shapes, dtypes or flags
LOOKED_AT = 200  # calls of one Function that are looked at; later ones are only counted
BYTES = 256 * 2**20  # of all recordings together
DEPTH = 4  # of lists in lists
NESTED = 256  # items of one list or dict
LIBRARY = "torch._library.autograd"  # where torch makes the Functions of its operators
TORCH = os.path.dirname(torch.__file__) + os.sep


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
        kind = (grad, autocast, tuple(_kind(a) for a in args))
        if kind in recorded.runs:
            return
        if len(recorded.runs) >= RUNS:
            # a call without a gradient gives way to one that has it
            other = next((k for k, run in recorded.runs.items() if not run.grad), None)
            if other is None or not grad:
                return
            self.held -= _bytes(recorded.runs.pop(other).args)
        odd = _odd(args)
        if odd:
            recorded.missed = recorded.missed or odd
            return
        size = _bytes(args)
        if size > (self.limit - self.held) // 2:
            recorded.missed = (
                f"its arguments take {size / 2**20:,.0f} MiB, and "
                f"{(self.limit - self.held) / 2**20:,.0f} of {self.limit / 2**20:,.0f} are left"
            )
            return
        with torch.inference_mode(False), torch.no_grad(), _disable_current_modes():
            copies = tuple(_copied(a, DEPTH) for a in args)
        self.held += size
        recorded.runs[kind] = Run(copies, grad, autocast, _site())


@contextmanager
def listening_to(recorder: Recorder) -> Iterator[Recorder]:
    """Let the recorder hear every Function that runs inside the block."""
    start(recorder)
    try:
        yield recorder
    finally:
        stop(recorder)


def start(recorder: Recorder) -> None:
    """Begin to hear: `Function.apply`, and what modules and classes took from it before."""
    with _changing:
        if not _open:
            Function.apply = classmethod(apply)
            for owner, name, cls, taken in _taken():
                _replaced.append((owner, name, vars(owner)[name]))
                heard = _heard_first(cls, taken)
                setattr(owner, name, staticmethod(heard) if isinstance(owner, type) else heard)
        _open.append(recorder)


def stop(recorder: Recorder) -> None:
    """End what `start` began."""
    with _changing:
        _open.remove(recorder)
        if not _open:
            Function.apply = APPLY
            for owner, name, taken in reversed(_replaced):
                setattr(owner, name, taken)
            _replaced.clear()


_changing = threading.Lock()
APPLY: Any = Function.__dict__["apply"]
_open: list[Recorder] = []
_replaced: list[tuple[Any, str, Any]] = []


def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
    """`Function.apply`, heard. Torch's compiler knows the method by this name."""
    for recorder in _open:
        recorder.hear(cls, args)
    return APPLY.__get__(None, cls)(*args, **kwargs)


def _heard_first(cls: Any, taken: Any) -> Any:
    @functools.wraps(taken)
    def call(*args: Any, **kwargs: Any) -> Any:
        # torch.compile takes the call as if nobody were listening
        if not torch.compiler.is_compiling():
            for recorder in _open:
                recorder.hear(cls, args)
        return taken(*args, **kwargs)

    return call


def _taken() -> list[tuple[Any, str, Any, Any]]:
    """Each `f = MyFunction.apply` in a module or in a class of it: owner, name, class, apply."""
    found = []
    for module in list(sys.modules.values()):
        name = getattr(module, "__name__", "")
        if not isinstance(module, types.ModuleType) or name.partition(".")[0] == "torch":
            continue
        own = [v for v in vars(module).values() if isinstance(v, type) and v.__module__ == name]
        for owner in (module, *own):
            for key, value in list(vars(owner).items()):
                taken: Any = value.__func__ if isinstance(value, staticmethod) else value
                if _is_apply(taken) and not (owner is taken.__self__ and key == "apply"):
                    found.append((owner, key, taken.__self__, taken))
    # an operator with lists of tensors: torch wraps the apply that was there when it was registered
    found += [
        (cls, "apply", cls, vars(cls)["apply"])
        for cls in Function.__subclasses__()
        if cls.__module__ == LIBRARY and "apply" in vars(cls)
    ]
    return found


def _is_apply(value: Any) -> bool:
    if type(value) not in (types.BuiltinMethodType, types.MethodType) or value.__name__ != "apply":
        return False
    cls = value.__self__
    if not isinstance(cls, type) or not issubclass(cls, Function):
        return False
    # a class with an apply of its own calls Function's; before torch 2.14 that is written in Python
    return getattr(value, "__func__", None) is getattr(APPLY, "__func__", None)


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


def _kind(value: Any) -> Any:
    if isinstance(value, Tensor):
        return (value.dtype, tuple(value.shape), value.requires_grad, value.layout)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return (type(value), tuple(_kind(v) for v in value[:8]))
    return type(value)


def _leaves(value: Any, depth: int = DEPTH) -> Iterator[Any]:
    if isinstance(value, list | tuple | dict) and depth and len(value) <= NESTED:
        for item in value.values() if isinstance(value, dict) else value:
            yield from _leaves(item, depth - 1)
    else:
        yield value


def _odd(args: tuple[Any, ...]) -> str:
    """Why tensors like these cannot be kept, or ""."""
    for t in _leaves(args, DEPTH + 1):
        if not isinstance(t, Tensor):
            continue
        if type(t) not in (Tensor, torch.nn.Parameter, torch.nn.Buffer):
            return f"it is given a {type(t).__name__}, a tensor of another class"
        if t.device.type == "meta":
            return "it is given a tensor without values (meta)"
        if torch._C._functorch.is_functorch_wrapped_tensor(t):
            return "it runs inside a transform of torch.func"
    return ""


def _bytes(args: tuple[Any, ...]) -> int:
    return sum(
        t.numel() * t.element_size() for t in _leaves(args, DEPTH + 1) if isinstance(t, Tensor)
    )


def _copied(value: Any, depth: int) -> Any:
    if isinstance(value, Tensor):
        return _copy(value)
    if randomness.is_generator(value):
        return randomness.copied(value)
    if isinstance(value, list | tuple | dict) and depth and len(value) <= NESTED:
        if isinstance(value, dict):
            return {k: _copied(v, depth - 1) for k, v in value.items()}
        items = [_copied(v, depth - 1) for v in value]
        if hasattr(value, "_fields"):
            return type(value)(*items)
        return items if isinstance(value, list) else tuple(items)
    return value


def _copy(t: Tensor) -> Tensor:
    """The values and strides, on the same device."""
    t_ = t.detach()
    if t_.layout == torch.strided and not t_.is_conj() and not t_.is_neg():
        # a dimension of stride 0 holds one value
        once = t_[tuple(slice(0, 1) if s == 0 else slice(None) for s in t_.stride())]
        extent = sum((n - 1) * s for n, s in zip(once.shape, once.stride(), strict=True)) + 1
        near = extent <= 2 * once.numel()
        copy = (strides.copy(once) if near else once.clone()).expand(t.shape)
    else:
        copy = t_.clone()
    return copy.requires_grad_(t.requires_grad and not t.is_inference())


def _site() -> str:
    """The line that called, outside of torch and of this module."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        file = frame.f_code.co_filename
        if not file.startswith(TORCH) and file != __file__ and "<" not in file:
            break
        frame = frame.f_back
    return f"{_short(frame.f_code.co_filename)}:{frame.f_lineno}"


@functools.cache
def _short(file: str) -> str:
    """A path as somebody in this folder would write it."""
    try:
        near = os.path.relpath(file)
    except ValueError:  # another drive
        return file
    return file if near.startswith("..") else near


def heard_in(call: Callable[[], Any]) -> list[Recorded]:
    """The Functions that run inside one call."""
    with listening_to(Recorder()) as recorder:
        call()
    return list(recorder.found.values())
