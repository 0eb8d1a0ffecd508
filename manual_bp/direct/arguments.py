"""What a call of `Trainer` is given: each argument checked against the model, in the form an engine
takes it in.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def check_images(images: Tensor, n_in: int) -> None:
    """Of shape (N, n_in), uint8 or floating.

    Raises:
        TypeError: another dtype.
        RuntimeError: another shape.
    """
    if not (images.is_floating_point() or images.dtype == torch.uint8):
        raise TypeError(f"direct: input {images.dtype}: uint8 or a floating dtype is needed")
    if images.dim() != 2 or images.shape[1] != n_in:
        raise RuntimeError(f"direct: input {tuple(images.shape)}: (N, {n_in}) is expected")


def pixel_scale_of(images: Tensor) -> float:
    """Of images whose scale is not said: 1/255 for bytes."""
    return 1 / 255 if images.dtype == torch.uint8 else 1.0


def target_table(targets: Tensor, n: int, n_out: int) -> Tensor:
    """`targets` of shape (n, n_out); labels of shape (n,) become one-hot rows.

    Raises:
        RuntimeError: another shape, or labels outside 0 … n_out − 1.
    """
    if targets.dim() == 1 and not targets.is_floating_point():
        targets = targets.long()
        if targets.device.type == "cpu":  # on CUDA it would wait for the device
            _check_labels(targets, n_out)
        targets = F.one_hot(targets, n_out)
    if targets.shape != (n, n_out):
        raise RuntimeError(f"direct: target {tuple(targets.shape)}: ({n}, {n_out}) is expected")
    return targets


def check_order(order: Tensor, n: int) -> None:
    """Indices into n examples: int64, of one dimension.

    Raises:
        RuntimeError: another dtype or shape, or indices outside 0 … n − 1.
    """
    if order.dtype != torch.int64 or order.dim() != 1:
        raise RuntimeError(
            f"direct: order {order.dtype} {tuple(order.shape)}: int64 (n,) is expected"
        )
    # A CUDA kernel checks its indices itself, and looking at them here would wait for the device.
    if order.device.type == "cpu":
        _check_indices(order, n)


def check_devices(device: torch.device, **tensors: Tensor | None) -> None:
    """All on the model's `device`.

    Raises:
        RuntimeError: one is not.
    """
    for name, tensor in tensors.items():
        if tensor is not None and tensor.device != device:
            raise RuntimeError(
                f"direct: {name} on {tensor.device}, the model on {device}: one device is needed"
            )


def learning_rates(
    lrs: Sequence[float] | Tensor | None, lr: float, steps: int, examples: int
) -> list[float]:
    """η of each step: `lrs`, or `lr` throughout.

    Raises:
        ValueError: a number of rates that is not the number of steps, or a rate that is not a
            number of at least 0.
    """
    if lrs is None:
        rates = [float(lr)] * steps
    else:
        rates = [float(rate) for rate in (lrs.tolist() if isinstance(lrs, Tensor) else lrs)]
    if len(rates) != steps:
        raise ValueError(
            f"direct: {len(rates)} learning rates for {steps} steps ({examples} examples)"
        )
    wrong = next((rate for rate in rates if not rate >= 0), None)
    if wrong is not None:
        raise ValueError(f"direct: a learning rate of {wrong} is not a number of at least 0")
    return rates


def _check_labels(labels: Tensor, n_out: int) -> None:
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < n_out:
        raise RuntimeError(
            f"direct: labels from {int(labels.min())} to {int(labels.max())}: 0 … {n_out - 1} is "
            f"expected"
        )


def _check_indices(order: Tensor, n: int) -> None:
    if order.numel() and not 0 <= int(order.min()) <= int(order.max()) < n:
        raise RuntimeError(f"direct: order has indices outside 0 … {n - 1}")
