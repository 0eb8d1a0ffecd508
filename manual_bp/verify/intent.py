"""The words for gradients that are not the derivative on purpose, and how to declare one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

MEANINGS = {
    "straight-through": "grad_output itself, or 0",
    "surrogate": "a gradient that is linear in grad_output",
    "reversed": "grad_output times a negative number",
    "scaled": "grad_output times a positive number",
    "clipped": "grad_output, cut at a bound",
}
ATTRIBUTE = "__verify_meant__"

T = TypeVar("T")


def meant(word: str) -> Callable[[T], T]:
    """Declare a Function's gradient; `check`, `watch` and the pytest plugin hold it to that.

    Args:
        word: "straight-through", "surrogate", "reversed", "scaled" or "clipped".

    Raises:
        ValueError: another word.

        >>> @meant("reversed")
        ... class Reverse: ...  # a torch.autograd.Function
    """
    if word not in MEANINGS:
        raise ValueError(f"meant({word!r}): expected one of {', '.join(MEANINGS)}")

    def declare(function: T) -> T:
        setattr(function, ATTRIBUTE, word)
        return function

    return declare


def declared(function: Any) -> str:
    """The word that was declared, or ""."""
    return str(getattr(function, ATTRIBUTE, "") or "")
