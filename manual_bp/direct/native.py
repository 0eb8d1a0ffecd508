"""The same algorithm without Python between the steps: native.cpp, compiled on first use and kept.

The source needs a C++17 compiler and nothing else, neither PyTorch's headers nor a build tool: it
is built in seconds and does not depend on PyTorch's version. `$CXX` names the compiler, with
options if need be (default c++, g++ or clang++, the first that is there). The library is kept in
`$TORCH_EXTENSIONS_DIR`, or else in the user's cache folder, under a name made of everything that
went into it.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from manual_bp.direct.epoch import Epoch
from manual_bp.direct.layers import Layer
from manual_bp.ops.mse import scale

SOURCES = ("native.cpp", "state.h", "nonzeros.h", "kernels.h")
FLAGS = ("-std=c++17", "-O3", "-fno-math-errno", "-fPIC", "-shared", "-pthread")
TUNINGS = ("-march=native", "-mcpu=native", "")  # the first that the compiler takes

WORK_PER_THREAD = 6e5  # multiply-adds in a step, zeros skipped, for which one more thread pays
SLICE_WORK = 5e9  # multiply-adds of the forward pass in one call: a tenth of a second, or two
DENSE = 0.35  # share of non-zero inputs from which the matrix product is faster than skipping zeros


class NativeUnavailableError(RuntimeError):
    """The native loop cannot be had here; the message says why."""


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


class NativeEngine:
    """`EagerEngine`'s twin, with the same arguments. Byte-identical for every number of threads."""

    def __init__(
        self,
        layers: list[Layer],
        buffers: list[tuple[Tensor | None, Tensor | None]],
        *,
        reduction: str,
        momentum: float,
        weight_decay: float,
        batch_size: int,
    ) -> None:
        weight = layers[0].weight
        if weight.device.type != "cpu":
            raise NativeUnavailableError(
                f"the native loop runs on the CPU, the model is on {weight.device}"
            )
        load()
        self._function = "train_float" if weight.dtype == torch.float32 else "train_double"
        self.layers, self.buffers = layers, buffers
        self._tensors = [
            tensor
            for layer in layers
            for tensor in (layer.weight, layer.bias)
            if tensor is not None
        ]
        self.reduction = reduction
        self.momentum, self.weight_decay = momentum, weight_decay
        self.batch_size = batch_size

    def run(self, epoch: Epoch) -> None:
        """As `Engine.run`, in slices: between two of them Python sees Ctrl-C, and the progress is
        told.
        """
        if epoch.examples == 0:
            return
        images, targets, order = epoch.images, epoch.targets, epoch.order
        if images.dtype != torch.uint8:
            images = images.to(epoch.table.dtype)
        images, targets = images.contiguous().resolve_neg(), targets.contiguous().resolve_neg()
        if order is None:
            order = torch.arange(epoch.examples, device=images.device)
        order = order.contiguous()
        share = _share_of_nonzeros(images)
        skip_zeros = share < DENSE
        state = [
            self._layer(layer, pair) for layer, pair in zip(self.layers, self.buffers, strict=True)
        ]
        size = min(self.batch_size, epoch.examples)
        first, *others = [size * layer.weight.numel() for layer in self.layers]
        steps = max(1, int(SLICE_WORK / (first + sum(others))))
        threads = int(((share if skip_zeros else 1) * first + sum(others)) / WORK_PER_THREAD)
        slices = zip(order.split(steps * size), epoch.table.split(steps), strict=True)
        for i, (rows, table) in enumerate(slices):
            rates = torch.tensor(
                epoch.lrs[i * steps : i * steps + len(table)], dtype=torch.float64, device="cpu"
            )
            n, batch = len(rows), min(size, len(rows))
            run = _Run(
                layers=(_Layer * len(state))(*state),
                images=images.data_ptr(),
                targets=targets.data_ptr(),
                order=rows.data_ptr(),
                lrs=rates.data_ptr(),
                table=table.data_ptr(),
                n_layers=len(state),
                n=n,
                batch=batch,
                table_columns=table.shape[1],
                two_s=2 * self._scale(batch),
                two_s_last=2 * self._scale(n % batch or batch),
                momentum=self.momentum,
                weight_decay=self.weight_decay,
                pixel_scale=epoch.pixel_scale,
                images_are_uint8=images.dtype == torch.uint8,
                skip_zeros=skip_zeros,
                norms=epoch.norms,
                threads=max(1, min(threads, torch.get_num_threads())),
            )
            failed = getattr(load(), self._function)(ctypes.byref(run))
            # Autograd is to know that they changed, as after any operation in place.
            torch.autograd.graph.increment_version(self._tensors)
            if failed:
                raise RuntimeError(
                    "direct: the native loop ran out of memory or threads: take a smaller batch, "
                    "fewer threads, or "
                    "backend='torch'"
                )
            epoch.progress(len(table))

    def _scale(self, examples: int) -> float:
        return scale(self.reduction, torch.Size((examples, self.layers[-1].weight.shape[0])))

    def _layer(self, layer: Layer, buffers: tuple[Tensor | None, Tensor | None]) -> _Layer:
        tensors = (layer.weight, layer.bias, *buffers)
        pointers = []
        for tensor in tensors:
            if tensor is not None and not tensor.is_contiguous():
                raise RuntimeError(
                    f"direct: a parameter {tuple(tensor.shape)} of layer {layer.name!r} has the "
                    f"strides "
                    f"{tensor.stride()}: the native loop needs contiguous ones; use backend='torch'"
                )
            pointers.append(None if tensor is None else tensor.data_ptr())
        n_out, n_in = layer.weight.shape
        return _Layer(*pointers, n_in=n_in, n_out=n_out, sigmoid=layer.sigmoid)


def _share_of_nonzeros(images: Tensor) -> float:
    sample = images[:256]
    return int(sample.count_nonzero()) / max(1, sample.numel())


def load() -> ctypes.CDLL:
    """The compiled library, built if it is not there yet.

    Raises:
        NativeUnavailableError: no compiler, or one that fails.
    """
    library = _load()
    if isinstance(library, str):
        raise NativeUnavailableError(library)
    return library


@functools.cache
def _load() -> ctypes.CDLL | str:
    """The library, or why there is none: a compiler that has failed is not asked again."""
    try:
        library = _build()
        try:
            return ctypes.CDLL(str(library))
        except OSError:  # damaged: built once more
            library.unlink()
            return ctypes.CDLL(str(_build()))
    except (OSError, RuntimeError) as error:  # a RuntimeError where the home folder is not known
        if isinstance(error, NativeUnavailableError):
            return str(error)
        return f"no native loop: {error} ($TORCH_EXTENSIONS_DIR names a folder to keep it in)"


def _build() -> Path:
    wanted = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    compiler = next(
        (words for name in wanted if (words := shlex.split(name)) and shutil.which(words[0])), None
    )
    if compiler is None:
        raise NativeUnavailableError(
            f"no C++ compiler was found ({', '.join(wanted)}; $CXX names another)"
        )
    folder = Path(__file__).parent
    version = subprocess.run(
        [*compiler, "--version"], capture_output=True, text=True, check=False
    ).stdout
    ingredients = [
        version,
        *compiler,
        _processor(),
        *FLAGS,
        *TUNINGS,
        *((folder / name).read_text("utf-8") for name in SOURCES),
    ]
    digest = hashlib.sha256("\0".join(ingredients).encode()).hexdigest()[:16]
    library = _cache_folder() / f"native-{digest}.so"
    if library.exists():
        return library
    library.parent.mkdir(parents=True, exist_ok=True)
    print(f"manual_bp: building the native training loop once, into {library}", file=sys.stderr)
    # Built beside its place and renamed, so that processes which build at the same time never see
    # half a file.
    with tempfile.TemporaryDirectory(dir=library.parent) as temporary:
        built = Path(temporary) / library.name
        for tuning in TUNINGS:
            command = [
                *compiler,
                *FLAGS,
                *filter(None, [tuning]),
                str(folder / SOURCES[0]),
                "-o",
                str(built),
            ]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            if result.returncode == 0 and built.exists():
                os.replace(built, library)
                return library
    message = (result.stderr.strip().splitlines() or ["no message"])[0]
    raise NativeUnavailableError(f"{shlex.join(compiler)} cannot build the native loop: {message}")


def _processor() -> str:
    """What -march=native depends on: a library from a cache shared with another machine might not
    run here.
    """
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return platform.processor()
    lines = cpuinfo.read_text().splitlines()
    return "\n".join(
        sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    )


def _cache_folder() -> Path:
    root = os.environ.get("TORCH_EXTENSIONS_DIR")
    if root:
        return Path(root) / "manual_bp"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "manual_bp"
