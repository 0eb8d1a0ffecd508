"""A checkpoint's file from outside: bounded before it is read, each value checked before use."""

from __future__ import annotations

import math
import os
import pickletools
import re
import reprlib
import stat
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

_ENTRIES = 10_000  # of an archive, at most: a file and a tensor each
_PICKLE = 1 << 28  # bytes of what is no tensor, at most
_OTHER_WAYS = {"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"}
_TEXT = 4096  # characters, at most
_LARGEST = 1e30
# What the values of a checkpoint are made of. Others could ask for any amount of memory.
_KNOWN = re.compile(r"collections OrderedDict|torch\._utils _rebuild_tensor_v2|torch \w+Storage")


def load(path: Path) -> Any:
    """The value in the file, made of tensors and plain values, so that no code in it can run.

    Raises:
        ValueError: the file is none that `torch.save` wrote, or takes more memory than its size.
        OSError: the file cannot be read.
        Exception: a damaged archive raises whatever its reader stumbles over.
    """
    # Without waiting: a pipe would wait for whoever writes into it.
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | _NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("no file, but a pipe or a device")
        _check_size(file)
        file.seek(0)
        return torch.load(file, map_location="cpu", weights_only=True)


_NONBLOCK = getattr(os, "O_NONBLOCK", 0)  # Windows has none


def _check_size(file: BinaryIO) -> None:
    """Read no more than the file holds: nothing is compressed, and no part is there twice."""
    whole = os.fstat(file.fileno()).st_size
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
        if packed or len(entries) > _ENTRIES or sum(entry.file_size for entry in entries) > whole:
            raise ValueError("it would unpack to more than it holds")
        for entry in entries:
            if not entry.filename.endswith(".pkl"):
                continue
            if entry.file_size > _PICKLE:
                raise ValueError(f"{entry.file_size:,} bytes beside the tensors are too many")
            for opcode, name, _ in pickletools.genops(archive.read(entry)):
                known = opcode.name != "GLOBAL" or _KNOWN.fullmatch(str(name))
                if not known or opcode.name in _OTHER_WAYS:
                    raise ValueError(
                        "it holds objects other than tensors and plain values, which could run code"
                    )


class _Short(reprlib.Repr):
    """A value in a few words, whatever it is: a list may hold itself, a number a million digits."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 2, 60, 60

    def repr_int(self, x: int, level: int) -> str:
        return repr(x) if abs(x) < 10**20 else "a number of more than 20 digits"

    def repr_Tensor(self, x: Tensor, level: int) -> str:  # noqa: N802 named after the type
        return f"a tensor {tuple(x.shape)} of {x.dtype}"


def shown(value: object) -> str:
    """`value` for a message, on one line."""
    return _Short().repr(value)


def is_number(value: object) -> bool:
    """Whether this is an int or a float that a float can hold, finite."""
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return plain and -_LARGEST < float_of(value) < _LARGEST  # type: ignore[arg-type]


def float_of(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # an int
        return math.inf


def is_count(value: object, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def is_text(value: object) -> bool:
    return type(value) is str and len(value) <= _TEXT and "\0" not in value


def check_tensor(value: object, shape: Sequence[int], dtype: torch.dtype) -> None:
    """Whether this is a plain, finite tensor of this shape, with memory for all its elements.

    Raises:
        ValueError: it is not; the message says what was seen and what is expected.
    """
    expected = f"a finite tensor {tuple(shape)} of {dtype} is expected"
    if isinstance(value, Tensor) and tuple(value.shape) != tuple(shape):
        raise ValueError(f"{shown(value)}: {expected}")
    tensor = check_plain(value, dtype, expected)
    if not bool(tensor.isfinite().all()):
        raise ValueError(f"NaN or infinity: {expected}")


def check_plain(value: object, dtype: torch.dtype, expected: str = "") -> Tensor:
    """The plain tensor of this dtype, with memory for all its elements, that `value` is.

    Raises:
        ValueError: it is none.
    """
    expected = expected or f"a tensor of {dtype} is expected"
    if not isinstance(value, Tensor):
        raise ValueError(f"{shown(value)}: {expected}")
    plain = type(value) is Tensor and value.layout is torch.strided and value.device.type == "cpu"
    if not plain or value.dtype != dtype:
        raise ValueError(f"{shown(value)}: {expected}")
    # A view could show one number a billion times.
    if not value.is_contiguous() or value.untyped_storage().nbytes() < value.nbytes:
        raise ValueError(f"a view of other memory: {expected}")
    return value


def check_state(value: object, depth: int = 4) -> None:
    """Whether an engine's state is made of finite tensors, numbers, and lists and dicts of them.

    Raises:
        ValueError: it is not.
    """
    if isinstance(value, Tensor):
        if not value.is_floating_point():
            raise ValueError(f"{shown(value)}: floating numbers are expected")
        check_tensor(value, value.shape, value.dtype)
    elif isinstance(value, dict) and depth and all(map(is_text, value)):
        for item in value.values():
            check_state(item, depth - 1)
    elif isinstance(value, list) and depth:
        for item in value:
            check_state(item, depth - 1)
    elif not (value is None or type(value) is bool or is_number(value)):
        raise ValueError(f"{shown(value)}: a tensor, a number, a list or a dict is expected")


def row_fault(row: object, epoch: int, figures: Sequence[str]) -> str | None:
    """Why this is not the row of `epoch`, with all its figures, or None."""
    if not isinstance(row, dict) or not all(map(is_text, row)):
        return f"the row of epoch {epoch} is {shown(row)}"
    if type(row.get("epoch")) is not int or row["epoch"] != epoch:
        return f"a row of epoch {shown(row.get('epoch'))} is in the place of {epoch}"
    for name in (*figures, *row):
        value = row.get(name)
        most = 1 if name.startswith("accuracy/") else _LARGEST
        if name in figures:
            fits = is_number(value) and 0 <= float_of(value) <= most  # type: ignore[arg-type]
        else:  # drawn alone: it may be NaN, as the run measured it
            fits = is_number(value) or (isinstance(value, float) and math.isnan(value))
        if not fits:
            return f"{shown(name)} of epoch {epoch} is {shown(value)}"
    return None
