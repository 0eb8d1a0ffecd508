"""The random generators a function may draw from.

The caller's are kept as they are; a random function's are reset before each call.
"""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def kept() -> Iterator[None]:
    """Leave the generators of torch, `random` and NumPy as they were found."""
    numpy = sys.modules.get("numpy")
    python_state, numpy_state = random.getstate(), numpy.random.get_state() if numpy else None
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python_state)
            if numpy:
                numpy.random.set_state(numpy_state)


def reset(seed: int) -> None:
    """Put every generator at `seed`."""
    # torch.manual_seed takes 2 ms: it queues a seed, with a stack trace, for every unused device
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    random.seed(seed)
    numpy = sys.modules.get("numpy")
    if numpy:
        numpy.random.seed(seed % 2**32)


def fingerprint() -> tuple[Any, ...]:
    """A value that changes when any generator was drawn from."""
    numpy = sys.modules.get("numpy")
    states: list[Any] = [bytes(torch.get_rng_state().numpy().tobytes()), random.getstate()]
    if numpy:
        key = numpy.random.get_state()
        states.append((key[1].tobytes(), key[2]))
    if torch.cuda.is_initialized():
        states.append(bytes(torch.cuda.get_rng_state().numpy().tobytes()))
    return tuple(states)


def is_generator(value: Any) -> bool:
    """Whether `value` is a generator object of torch, NumPy or Python."""
    numpy = sys.modules.get("numpy")
    kinds = (
        torch.Generator,
        random.Random,
        *((numpy.random.Generator, numpy.random.RandomState) if numpy else ()),
    )
    return isinstance(value, kinds)


def copied(generator: Any) -> Any:
    """A generator in the same state: each call gets one, so that all draw the same numbers."""
    if not isinstance(generator, torch.Generator):
        return copy.deepcopy(generator)
    return torch.Generator(generator.device).set_state(generator.get_state())
