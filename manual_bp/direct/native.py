"""`NativeLoop`: the steps in C++, without Python between them."""

from __future__ import annotations

import ctypes
import functools
from dataclasses import replace

import torch
from torch import Tensor

from manual_bp.backprop import Layer
from manual_bp.direct import library
from manual_bp.direct.library import NativeUnavailableError
from manual_bp.direct.task import Descent, Task
from manual_bp.escape import escaped

WORK_PER_THREAD = 6e5  # multiply-adds in a step, zeros skipped, for which one more thread pays
SLICE_WORK = 5e9  # multiply-adds of the forward pass in one call: a tenth of a second, or two
DENSE = 0.35  # share of non-zero inputs from which a matrix product beats skipping the zeros


LAYOUT = 2  # of the two structures below, which mirror state.h: count both up when a field changes


class _Layer(ctypes.Structure):
    _fields_ = (
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("weight_momentum", ctypes.c_void_p),
        ("bias_momentum", ctypes.c_void_p),
        ("n_in", ctypes.c_int64),
        ("n_out", ctypes.c_int64),
        ("sigmoid", ctypes.c_int32),
    )


class _Run(ctypes.Structure):
    _fields_ = (
        ("layers", ctypes.POINTER(_Layer)),
        ("images", ctypes.c_void_p),
        ("targets", ctypes.c_void_p),
        ("labels", ctypes.c_void_p),
        ("order", ctypes.c_void_p),
        ("lrs", ctypes.c_void_p),
        ("table", ctypes.c_void_p),
        ("n_layers", ctypes.c_int64),
        ("n", ctypes.c_int64),
        ("batch", ctypes.c_int64),
        ("table_columns", ctypes.c_int64),
        ("two_s", ctypes.c_double),
        ("two_s_last", ctypes.c_double),
        ("momentum", ctypes.c_double),
        ("weight_decay", ctypes.c_double),
        ("pixel_scale", ctypes.c_double),
        ("images_are_uint8", ctypes.c_int32),
        ("skip_zeros", ctypes.c_int32),
        ("norms", ctypes.c_int32),
        ("threads", ctypes.c_int32),
    )


class NativeLoop:
    """The `Loop` in C++, on the CPU. Byte-identical for every number of threads.

    Raises:
        NativeUnavailableError: a model that is not on the CPU, or no C++ loop here.
    """

    def __init__(self, descent: Descent) -> None:
        device = descent.layers[0].weight.device
        if device.type != "cpu":
            raise NativeUnavailableError(
                f"the C++ loop runs on the CPU, and the model is on {device}"
            )
        load()
        self.descent = descent

    def run(self, task: Task) -> None:
        """As `Loop.run`, in slices: between two of them Python sees Ctrl-C and progress is told."""
        if task.examples == 0:
            return
        layers, dtype = self.descent.layers, task.table.dtype
        images = task.images if task.images.dtype == torch.uint8 else task.images.to(dtype)
        task = replace(
            task,
            images=images.contiguous().resolve_neg(),
            targets=task.targets.contiguous().resolve_neg(),
            order=None if task.order is None else task.order.contiguous(),
        )
        sample = task.images[:256]
        share = int(sample.count_nonzero()) / sample.numel()
        skip_zeros = share < DENSE
        first, *others = [task.batch * layer.weight.numel() for layer in layers]
        steps = max(1, int(SLICE_WORK / (first + sum(others))))
        threads = int(((share if skip_zeros else 1) * first + sum(others)) / WORK_PER_THREAD)
        threads = max(1, min(threads, torch.get_num_threads()))
        for start in range(0, task.table.shape[0], steps):
            part = task.part(start, steps)
            self._train(part, skip_zeros, threads)
            task.progress(part.table.shape[0])

    def _train(self, task: Task, skip_zeros: bool, threads: int) -> None:
        descent, n = self.descent, task.examples
        batch = min(task.batch, n)
        # The loop writes into copies. It runs without Python's lock, and another thread may free or
        # replace the memory of a parameter meanwhile.
        originals = descent.tensors()
        places = _places(originals)
        copies = [t.detach().clone(memory_format=torch.contiguous_format) for t in originals]
        copy_of = {id(original): copy for original, copy in zip(originals, copies, strict=True)}
        layers = [
            _layer(layer, [copy_of.get(id(t)) for t in (layer.weight, layer.bias, *velocities)])
            for layer, velocities in zip(descent.layers, descent.velocities, strict=True)
        ]
        rates = torch.tensor(task.lrs, dtype=torch.float64, device="cpu")
        run = _Run(
            layers=(_Layer * len(layers))(*layers),
            images=task.images.data_ptr(),
            targets=None if task.has_labels else task.targets.data_ptr(),
            labels=task.targets.data_ptr() if task.has_labels else None,
            order=None if task.order is None else task.order.data_ptr(),
            lrs=rates.data_ptr(),
            table=task.table.data_ptr(),
            n_layers=len(layers),
            n=n,
            batch=batch,
            table_columns=task.table.shape[1],
            two_s=2 * descent.scale(batch),
            two_s_last=2 * descent.scale(n % batch or batch),
            momentum=descent.momentum,
            weight_decay=descent.weight_decay,
            pixel_scale=task.pixel_scale,
            images_are_uint8=task.images.dtype == torch.uint8,
            skip_zeros=skip_zeros,
            norms=task.norms,
            threads=threads,
        )
        name = "train_float" if task.table.dtype == torch.float32 else "train_double"
        failed = getattr(load(), name)(ctypes.byref(run))
        if failed:
            raise RuntimeError(
                "the C++ loop ran out of memory or threads: take a smaller batch, fewer threads, "
                "or backend='torch'"
            )
        if _places(originals) != places:
            raise RuntimeError(
                "the model was moved or replaced while the C++ loop trained it: the steps since "
                "then are lost; leave the model alone until run returns"
            )
        for original, copy in zip(originals, copies, strict=True):
            original.detach().copy_(copy)


def _places(tensors: list[Tensor]) -> list[tuple[object, ...]]:
    """Where tensors are, and as what."""
    return [(t.device, t.data_ptr(), t.dtype, t.shape, t.stride()) for t in tensors]


def _layer(layer: Layer, tensors: list[Tensor | None]) -> _Layer:
    """`tensors`: W, b, and v of both."""
    pointers = [None if tensor is None else tensor.data_ptr() for tensor in tensors]
    n_out, n_in = layer.weight.shape
    return _Layer(*pointers, n_in=n_in, n_out=n_out, sigmoid=layer.sigmoid)


def load() -> ctypes.CDLL:
    """The compiled library, built if it is not there yet.

    Raises:
        NativeUnavailableError: it cannot be built or loaded.
    """
    loaded = _load()
    if isinstance(loaded, str):
        raise NativeUnavailableError(loaded)
    return loaded


@functools.cache
def _load() -> ctypes.CDLL | str:
    """The library, or why there is none: a compiler that has failed is not asked again."""
    try:
        loaded = ctypes.CDLL(str(library.build()))
        _check_layout(loaded)
    except NativeUnavailableError as error:
        return str(error)
    except (OSError, RuntimeError) as error:
        return f"no C++ loop: {escaped(error)} ($TORCH_EXTENSIONS_DIR names a folder to keep it in)"
    return loaded


def _check_layout(loaded: ctypes.CDLL) -> None:
    """A field that only one side has would let the loop write into other memory."""
    found = (ctypes.c_int64 * 3)()
    try:
        loaded.layout(found)
        _ = loaded.train_float, loaded.train_double
    except AttributeError as error:
        raise NativeUnavailableError(
            f"no C++ loop: the library lacks a function ({escaped(error)}): $CXX names a compiler "
            f"that made another"
        ) from None
    expected = [LAYOUT, ctypes.sizeof(_Layer), ctypes.sizeof(_Run)]
    if list(found) != expected:
        raise NativeUnavailableError(
            f"state.h has the layout {list(found)}, native.py {expected} (number, bytes of Layer, "
            f"bytes of Run): install manual_bp anew"
        )
