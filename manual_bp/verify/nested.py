"""Tensors inside lists, tuples and dicts as further arguments: `x[0]`, `options['scale']`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

DEPTH = 8  # of lists in lists: one that holds itself has no end


def holds_tensors(value: Any, depth: int = DEPTH) -> bool:
    """Whether `value` is a container with a tensor somewhere inside."""
    return (
        isinstance(value, list | tuple | dict)
        and depth > 0
        and any(isinstance(v, Tensor) or holds_tensors(v, depth - 1) for v in _in(value))
    )


def unpack(value: Any, name: str, depth: int = DEPTH) -> Iterator[tuple[str, Any]]:
    """The leaves with their names; a container without tensors is a leaf itself."""
    if not holds_tensors(value, depth):
        yield name, value
        return
    keys = value.keys() if isinstance(value, dict) else range(len(value))
    for key, item in zip(keys, _in(value), strict=True):
        yield from unpack(item, f"{name}[{key!r}]", depth - 1)


def pack(template: Any, leaves: Iterator[Any], depth: int = DEPTH) -> Any:
    """A container like `template` around the leaves that `unpack` gave."""
    if not holds_tensors(template, depth):
        return next(leaves)
    items = [pack(item, leaves, depth - 1) for item in _in(template)]
    if isinstance(template, dict):
        return type(template)(zip(template, items, strict=True))
    return type(template)(*items) if hasattr(template, "_fields") else type(template)(items)


def _in(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else list(value)
