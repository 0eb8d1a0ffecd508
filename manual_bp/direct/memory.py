"""What a loop may read and write: memory that a tensor owns, long enough, and written by one alone.

A loop outside of torch has nothing but addresses. A wrong one ends the process, or gives wrong
numbers without a word.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from manual_bp.backprop import Layer

# Without this private name a call within torch.func would leave its tensors in the model.
_transforms_active: Callable[[], bool] = getattr(
    torch._C, "_are_functorch_transforms_active", lambda: False
)
_TORCH_FUNCTIONS = (Tensor.__torch_function__.__func__, nn.Parameter.__torch_function__)  # type: ignore[attr-defined]


def refuse_modes() -> None:
    """Refuse what would put other tensors in the place of those that a loop writes.

    Raises:
        RuntimeError: inference mode, or a transform of torch.func.
    """
    if torch.is_inference_mode_enabled():
        raise RuntimeError(
            "inference mode is on, and its tensors cannot be trained: leave it, or use no_grad"
        )
    if _transforms_active():
        raise RuntimeError(
            "a torch.func transform is active, and direct training cannot be transformed: call it "
            "outside, or use autograd"
        )


def refuse_strangers(**arguments: object) -> None:
    """Refuse arguments that are no tensors, or have no strided memory of their own.

    Raises:
        TypeError: the message names the first of them.
    """
    for name, argument in arguments.items():
        if not isinstance(argument, Tensor):
            raise TypeError(
                f"{name} is a {type(argument).__name__}: a tensor is expected, for example from "
                f"torch.as_tensor"
            )
        check(name, argument)


def check(name: str, tensor: Tensor, *, trained: bool = False) -> None:
    """Refuse a tensor that is not plain: strided, with all its elements in memory of its own.

    Args:
        name: of the tensor, for messages.
        tensor: on any device. Off the CPU a tensor without values, which tests use, passes.
        trained: whether the loop stands in for torch's operations on it. A subclass may then bring
            no operations of its own.

    Raises:
        TypeError: a subclass that keeps its elements elsewhere, or another layout.
        RuntimeError: memory that was freed or cut short.
    """
    kind = type(tensor)
    if tensor.device.type != "cpu" and _has_no_values(tensor):
        return
    own = kind.__torch_dispatch__ is not Tensor.__torch_dispatch__
    if trained and not own:
        function = kind.__torch_function__
        own = getattr(function, "__func__", function) not in _TORCH_FUNCTIONS
    if own:
        raise TypeError(f"{name} is a {kind.__name__}, not a plain tensor: use autograd for it")
    if tensor.is_nested or tensor.layout is not torch.strided or tensor.is_quantized:
        what = "a nested tensor" if tensor.is_nested else f"{tensor.layout} {tensor.dtype}"
        raise TypeError(f"{name} is {what}: a plain strided tensor is expected")
    if not tensor.numel():
        return
    try:
        address, bytes_there = tensor.data_ptr(), tensor.untyped_storage().nbytes()
    except RuntimeError:  # torch says so of tensors that have no memory
        address = bytes_there = 0
    bytes_needed = (tensor.storage_offset() + _span(tensor)) * tensor.element_size()
    if not address or bytes_there < bytes_needed:
        raise RuntimeError(
            f"{name} {tuple(tensor.shape)} has {bytes_there if address else 0} bytes of memory, "
            f"{bytes_needed} are needed: its storage was freed or cut short, or it owns none"
        )


def check_layers(layers: Iterable[Layer]) -> None:
    """`check` every parameter.

    Raises:
        TypeError: as of `check`.
        RuntimeError: likewise, or a parameter that was made in inference mode.
    """
    for layer in layers:
        for name, parameter in (("weight", layer.weight), ("bias", layer.bias)):
            if parameter is None:
                continue
            check(f"{layer}: {name}", parameter, trained=True)
            if parameter.is_inference():
                raise RuntimeError(
                    f"{layer}: {name} was made in inference mode, and cannot be trained: make the "
                    f"model outside of it"
                )


def check_writable(written: Iterable[tuple[str, Tensor]]) -> None:
    """Refuse memory that the system does not let this process write.

    Raises:
        RuntimeError: the message names the first such tensor.
    """
    for name, tensor in written:
        if tensor.device.type == "cpu" and not _can_be_written(tensor):
            raise RuntimeError(
                f"{name} lies in memory that cannot be written, such as a file mapped for reading: "
                f"train a clone of it"
            )


def check_apart(written: Iterable[tuple[str, Tensor]], read: Iterable[tuple[str, Tensor]]) -> None:
    """Refuse tensors of which one is written and another lies within the same memory.

    Memory counts, not storages: NumPy and DLPack give a storage of its own to the same memory. A
    tensor reaches from its first element to its last, with everything in between.

    Raises:
        RuntimeError: two tensors overlap, or the elements of a written one do.
    """
    places: dict[object, list[tuple[int, int, bool, str]]] = {}
    storages = []  # of tensors without addresses: one object for a memory, while it is held
    for writes, named in ((True, written), (False, read)):
        for name, tensor in named:
            if writes and _folds(tensor):
                raise RuntimeError(
                    f"{name} {tuple(tensor.shape)} has the strides {tensor.stride()}, so that its "
                    f"elements overlap: train a clone of it"
                )
            where: object = tensor.device
            if _has_no_values(tensor):
                storages.append(tensor.untyped_storage())
                where, start = id(storages[-1]), tensor.storage_offset() * tensor.element_size()
            else:
                start = tensor.data_ptr()
            end = int(start + _span(tensor) * tensor.element_size())
            places.setdefault(where, []).append((int(start), end, writes, name))
    for ranges in places.values():
        last, last_written = (0, ""), (0, "")  # how far the ranges before reach, and whose they are
        for start, end, writes, name in sorted(ranges):
            reach, other = last if writes else last_written
            if start < min(reach, end):
                raise RuntimeError(
                    f"{other} and {name} share memory, and training changes it: give each its own, "
                    f"or use autograd for this model"
                )
            last = max(last, (end, name))
            if writes:
                last_written = max(last_written, (end, name))


def _can_be_written(tensor: Tensor) -> bool:
    """Whether the system lets this process write the tensor's first and last byte.

    Each is sent through a pipe onto itself: the system refuses what would end the process.
    """
    if _has_no_values(tensor) or not tensor.numel() or not hasattr(os, "readv"):
        return True
    first = tensor.data_ptr()
    last = first + _span(tensor) * tensor.element_size() - 1
    reading, writing = os.pipe()
    try:
        for address in (first, last):
            byte = (ctypes.c_char * 1).from_address(address)
            os.write(writing, byte)
            os.readv(reading, [byte])
    except OSError:
        return False
    finally:
        os.close(reading)
        os.close(writing)
    return True


def _has_no_values(tensor: Tensor) -> bool:
    return tensor.device.type == "meta" or type(tensor).__name__ == "FakeTensor"


def _span(tensor: Tensor) -> int:
    """Elements from the first one to the last, both included."""
    if not tensor.numel():
        return 0
    return 1 + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))


def _folds(tensor: Tensor) -> bool:
    """Whether elements of the tensor may lie in one place."""
    reach = 1
    for step, n in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if n > 1 and step < reach:
            return True
        reach += (n - 1) * step
    return False
