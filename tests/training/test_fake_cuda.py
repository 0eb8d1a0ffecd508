"""Whole epochs on CUDA tensors without values: no GPU is there, and none is needed.

A tensor on the wrong device raises, and so does a value that is read. No kernel runs.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import _disable_current_modes

from manual_bp import devices
from manual_bp.direct import cuda_graph
from manual_bp.training import augment, autograd_engine, data, engines, measures
from manual_bp.training import run as run_module
from manual_bp.training.dataset import Part
from manual_bp.training.options import parse
from manual_bp.training.plan import settle
from manual_bp.training.run import Run
from manual_bp.training.world import World

# The graph loop asks where its tensors are, and these are nowhere.
pytestmark = pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
CUDA = torch.device("cuda", 0)
HAS_TRITON = importlib.util.find_spec("triton") is not None
LOOPS = {  # flags: the backend of the direct engine
    "direct": "epoch",
    "direct --momentum 0.5 --weight-decay 0.1": "epoch",
    "direct --output linear": "epoch",
    "direct --augment": "epoch",
    "direct --batch-size 100": "graph",
    "direct --dtype float64 --momentum 0.5": "graph",
    "direct --hidden 20 20 --output linear --weight-decay 0.1": "graph",
    "autograd": None,
    "autograd --impl builtin": None,
    "autograd --momentum 0.5 --weight-decay 0.1": None,
    "autograd --amp bf16": None,
    "autograd --augment --dtype float64": None,
}


class Cuda:
    """What stands in for torch.cuda and for Triton's launch, and what was done there."""

    def __init__(self, mode: FakeTensorMode) -> None:
        self.mode = mode
        self.reads: list[Any] = []
        self.launches: list[tuple[Any, ...]] = []
        self.replays = 0

    def tensor(self, tensor: Tensor) -> Tensor:
        if isinstance(tensor, FakeTensor) and tensor.device.type == "cuda":
            return tensor
        with _disable_current_modes():
            return FakeTensor(self.mode, torch.empty_like(tensor, device="meta"), CUDA)

    def read(self, tree: Any) -> Any:
        values, state = tree
        assert values.device == CUDA
        self.reads.append(tree)
        with _disable_current_modes():
            return torch.zeros(values.shape, dtype=torch.float64), state

    def __getitem__(self, grid: tuple[int]) -> Callable[..., None]:
        """Triton's `kernel[grid]`."""

        def launch(*arguments: Any, **constants: Any) -> None:
            tensors = [argument for argument in arguments if isinstance(argument, Tensor)]
            assert all(tensor.device == CUDA for tensor in tensors)
            assert all(tensor.is_contiguous() for tensor in tensors)
            self.launches.append(grid)

        return launch


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    fake = Cuda(mode)
    numbers = count()

    class Stream:
        device = CUDA

        def __init__(self) -> None:
            self.cuda_stream = next(numbers)

    class Graph:
        def replay(self) -> None:
            fake.replays += 1

    class Event:
        def __init__(self, **_: Any) -> None: ...
        def record(self) -> None: ...
        def elapsed_time(self, _: Any) -> float:
            return 1.0

    def nothing(*_: Any, **__: Any) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    for name in ("device", "graph", "stream"):
        monkeypatch.setattr(torch.cuda, name, nothing)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    # autograd asks the driver for its streams
    monkeypatch.setattr(
        torch.autograd, "grad", lambda _, inputs: tuple(torch.empty_like(t) for t in inputs)
    )
    # autocast asks for a device, too
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    generator = torch.Generator()
    monkeypatch.setattr(torch, "Generator", lambda *_: generator)
    for name in ("_fields", "_coefficients"):  # the field's terms are chosen by their values
        real = getattr(augment, name)

        def outside(*arguments: Any, real: Callable[..., Tensor] = real) -> Tensor:
            with _disable_current_modes():
                return real(*arguments)

        monkeypatch.setattr(augment, name, outside)
    modules = [devices, cuda_graph, run_module, augment, autograd_engine]
    if HAS_TRITON:
        from manual_bp.direct import epoch_kernel

        modules.append(epoch_kernel)
        monkeypatch.setattr(epoch_kernel, "train", fake)
    for module in modules:
        monkeypatch.setattr(module, "to_device", lambda tensor, _: fake.tensor(tensor))
    monkeypatch.setattr(run_module, "to_host", fake.read)
    return fake


def fake_run(cuda: Cuda, flags: str) -> Run:
    """A run on the digits whose network and data are on a GPU that is not there."""
    options, _ = parse(["--dataset", "digits", "--epochs", "2", "--engine", *flags.split()])
    digits = data.load("digits")
    digits = replace(digits, train=digits.train[:250])
    cpu = torch.device("cpu")
    run = Run(settle(options, digits, cpu, World(), None), digits, World(), None)
    for module in run.model:
        for name, parameter in list(module.named_parameters()):
            setattr(module, name, nn.Parameter(cuda.tensor(parameter.detach())))
    parts = {
        name: Part(cuda.tensor(part.images), cuda.tensor(part.labels))
        for name, part in (("train", run.parts.train), ("validation", run.parts.validation))
    }
    run.parts, run.device = replace(run.parts, **parts), CUDA
    with cuda.mode:
        run.engine = engines.build(run.plan, run.model, run.world)
    return run


@pytest.mark.parametrize("flags", LOOPS)
def test_an_epoch_stays_on_the_device_and_is_read_once(flags: str, cuda: Cuda) -> None:
    backend = LOOPS[flags]
    if backend == "epoch" and not HAS_TRITON:
        pytest.skip("no Triton: it comes with PyTorch for CUDA")
    run = fake_run(cuda, flags)
    with cuda.mode:
        for epoch in (1, 2):
            run._epoch(epoch)
    assert len(cuda.reads) == 2
    values, _ = cuda.reads[0]
    assert values.dtype == torch.float64
    if isinstance(run.engine, engines.DirectEngine):
        assert run.engine._trainer.backend == backend
    assert bool(cuda.launches) == (backend == "epoch")
    assert (cuda.replays > 0) == (backend != "epoch")


def test_a_tensor_on_the_wrong_device_is_found(cuda: Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    run = fake_run(cuda, "direct --batch-size 100")
    of_epoch = measures.of_epoch
    monkeypatch.setattr(
        measures, "of_epoch", lambda *args: {"cost": of_epoch(*args).popitem()[1] + torch.ones(1)}
    )
    with cuda.mode, pytest.raises(RuntimeError, match=r"same device|different devices"):
        run._epoch(1)
