"""Between the CPU and an accelerator, without waiting more often than needed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on `device`. From the CPU to CUDA nothing is waited for, which takes page-locked
    memory.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def to_host(tree: Any) -> Any:
    """Nested dicts, lists and tuples with each tensor on the CPU; an accelerator is waited for
    once.

    What is on the CPU already is not copied, and shares its memory with what was given.
    """
    host = _to_host(tree)
    for device in {tensor.device for tensor in _tensors(tree)} - {torch.device("cpu")}:
        torch.accelerator.synchronize(device)
    return host


def _to_host(tree: Any) -> Any:
    if isinstance(tree, Tensor):
        return tree.detach().to("cpu", non_blocking=tree.device.type == "cuda")
    if isinstance(tree, dict):
        return {key: _to_host(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(_to_host(value) for value in tree)
    return tree


def _tensors(tree: Any) -> list[Tensor]:
    if isinstance(tree, Tensor):
        return [tree]
    values = (
        tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list | tuple) else ()
    )
    return [tensor for value in values for tensor in _tensors(value)]
