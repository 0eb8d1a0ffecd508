"""`Function.apply`, heard: it is replaced while recorders listen, and so is what was taken from it.

The program computes what it would have: each call is told to the recorders and then goes on.
"""

from __future__ import annotations

import functools
import sys
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.autograd import Function

from manual_bp.verify.recorder import LIBRARY, Recorded, Recorder


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


def heard_in(call: Callable[[], Any]) -> list[Recorded]:
    """The Functions that run inside one call."""
    with listening_to(Recorder()) as recorder:
        call()
    return list(recorder.found.values())
