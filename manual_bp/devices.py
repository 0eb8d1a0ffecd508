"""Between the CPU and an accelerator, without waiting more often than needed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def wide(tensor: Tensor) -> Tensor:
    """`tensor` in float64, to sum over an epoch; in float32 on MPS, which has no float64."""
    return tensor.to(torch.float32 if tensor.device.type == "mps" else torch.float64)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on `device`. A copy from the CPU to CUDA is not waited for: it is page-locked."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def to_host(tree: Any) -> Any:
    """`tree`, of dicts, lists and tuples, with each tensor on the CPU. A device is waited for once.

    A tensor that is on the CPU already is not copied: the result shares its memory.
    """
    accelerators: set[torch.device] = set()

    def move(tree: Any) -> Any:
        if isinstance(tree, Tensor):
            if tree.device.type != "cpu":
                accelerators.add(tree.device)
            return tree.detach().to("cpu", non_blocking=tree.device.type == "cuda")
        if isinstance(tree, dict):
            return {key: move(value) for key, value in tree.items()}
        if isinstance(tree, list | tuple):
            return type(tree)(move(value) for value in tree)
        return tree

    host = move(tree)
    for device in accelerators:
        torch.accelerator.synchronize(device)
    return host
