"""The contenders made of PyTorch; each runs all steps on its own copy of the weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import pairwise
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

import manual_bp as mbp
from manual_bp import direct
from manual_bp.bench.problem import PIXEL_SCALE, Problem

Parameters = list[tuple[NDArray[np.floating], NDArray[np.floating]]]


class Skipped(Exception):  # noqa: N818 - not an error: this contender has no place here, the message says why
    """Raised by a contender's constructor."""


class Contender(ABC):
    """`load` sets the initial weights; `run` makes all steps and returns when they are done."""

    name: ClassVar[str]
    trains: ClassVar[bool] = True
    compiles: ClassVar[bool] = False  # on the first run

    def __init__(self, problem: Problem) -> None:
        self.problem = problem

    @abstractmethod
    def load(self) -> None: ...

    @abstractmethod
    def run(self) -> None: ...

    @abstractmethod
    def parameters(self) -> Parameters: ...


class ModuleContender(Contender):
    """A contender whose weights are those of an nn.Sequential."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.model = self.make_model().to(problem.device)
        self.load()

    def make_model(self) -> nn.Sequential:
        modules: list[nn.Module] = []
        for n_in, n_out in pairwise(self.problem.configuration.sizes):
            modules += [nn.Linear(n_in, n_out), nn.Sigmoid()]
        return nn.Sequential(*(modules[:-1] if self.problem.configuration.linear else modules))

    def linears(self) -> list[nn.Linear]:
        return [module for module in self.model if isinstance(module, nn.Linear)]

    @torch.no_grad()
    def load(self) -> None:
        self.model.zero_grad()
        for module, (weight, bias) in zip(self.linears(), self.problem.weights, strict=True):
            module.weight.copy_(weight)
            module.bias.copy_(bias)

    def parameters(self) -> Parameters:
        return [
            (m.weight.detach().cpu().numpy(), m.bias.detach().cpu().numpy()) for m in self.linears()
        ]

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return self.problem.images[indices] * PIXEL_SCALE, self.problem.one_hot[indices]

    def finish(self) -> None:
        if self.problem.device.type == "cuda":
            torch.cuda.synchronize()


class TorchEager(ModuleContender):
    name = "torch.nn eager"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=problem.lr)

    def cost(self, a: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(a, y)

    def step(self, indices: Tensor) -> None:
        x, y = self.batch(indices)
        self.optimizer.zero_grad()
        self.cost(self.model(x), y).backward()
        self.optimizer.step()

    def run(self) -> None:
        for indices in self.problem.batches():
            self.step(indices)
        self.finish()


class TorchFused(TorchEager):
    """With the optimizer's one kernel for all parameters, which is not its default."""

    name = "torch.nn, fused SGD"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=problem.lr, fused=True)


class OfFunctions(ModuleContender):
    """Mixed into a contender of torch.nn, makes it one of the Functions."""

    def make_model(self) -> nn.Sequential:
        configuration = self.problem.configuration
        return mbp.MLP(configuration.sizes, output="linear" if configuration.linear else "sigmoid")

    def cost(self, a: Tensor, y: Tensor) -> Tensor:
        return mbp.functional.mse_loss(a, y)


class Functions(OfFunctions, TorchEager):
    name = "Functions, autograd"


class TorchCompiled(ModuleContender):
    """The whole step, gather and update included, as one compiled graph."""

    name = "torch.nn compiled"
    compiles = True
    mode: str | None = None

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        parameters: dict[str, Tensor] = dict(self.model.named_parameters())
        model, images, one_hot, lr = self.model, problem.images, problem.one_hot, problem.lr

        def cost(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            return self.cost(torch.func.functional_call(model, parameters, (x,)), y)

        def step(indices: Tensor) -> None:
            gradients = torch.func.grad(cost)(
                parameters, images[indices] * PIXEL_SCALE, one_hot[indices]
            )
            with torch.no_grad():
                for name, parameter in parameters.items():
                    parameter.sub_(gradients[name], alpha=lr)

        # torch.compile keeps compiled code with the code object; a copy keeps contenders apart.
        step.__code__ = step.__code__.replace()
        self.step = torch.compile(step, fullgraph=True, dynamic=False, mode=self.mode)

    def cost(self, a: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(a, y)

    def run(self) -> None:
        for indices in self.problem.batches():
            self.step(indices)
        self.finish()


class TorchCompiledMax(TorchCompiled):
    """The compiler's dearest mode: it tries kernels, and records CUDA graphs."""

    name = "torch.nn compiled, max"
    mode = "max-autotune"

    def __init__(self, problem: Problem) -> None:
        if problem.device.type != "cuda":
            raise Skipped("needs a CUDA device")
        super().__init__(problem)


class FunctionsCompiled(OfFunctions, TorchCompiled):
    name = "Functions, compiled"


def recorded(work: Callable[[], object]) -> torch.cuda.CUDAGraph:
    """`work` as a CUDA graph.

    On a new stream: cuBLAS's workspace belongs to the stream, and is freed with the first graph
    that was recorded there.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.Stream()):
        work()
    return graph


class TorchGraph(TorchEager):
    name = "torch.nn CUDA graph"

    def __init__(self, problem: Problem) -> None:
        if problem.device.type != "cuda":
            raise Skipped("needs a CUDA device")
        super().__init__(problem)
        self.indices = problem.order[: problem.configuration.batch].clone()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # capture needs a warm-up on a side stream
            for _ in range(3):
                self.step(self.indices)
        torch.cuda.current_stream().wait_stream(stream)
        self.optimizer.zero_grad()
        self.graph = recorded(lambda: self.step(self.indices))

    def run(self) -> None:
        for indices in self.problem.batches():
            self.indices.copy_(indices)
            self.graph.replay()
        self.finish()


class Direct(ModuleContender):
    name = "direct"
    backend = "auto"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.trainer = direct.Trainer(
            self.model,
            reduction="mean",
            lr=problem.lr,
            batch_size=problem.configuration.batch,
            backend=self.backend,
        )
        if (
            self.backend == "auto"
            and self.trainer.backend == "torch"
            and problem.device.type == "cpu"
        ):
            raise Skipped("no C++ loop here: see the row of its PyTorch calls")

    def make_model(self) -> nn.Sequential:
        return mbp.convert(super().make_model())

    def run(self) -> None:
        p = self.problem
        self.trainer.run(p.images, p.one_hot, p.order, pixel_scale=PIXEL_SCALE, norms=False)


class DirectTorch(Direct):
    name = "direct, PyTorch calls"
    backend = "torch"


class DirectNorms(Direct):
    name = "direct, norms logged"

    def run(self) -> None:
        p = self.problem
        self.trainer.run(p.images, p.one_hot, p.order, pixel_scale=PIXEL_SCALE, norms=True)


class MatrixProducts(Contender):
    """No training: the dense matrix products of each step alone, at this machine's BLAS rate."""

    name = "matrix products alone"
    trains = False

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        m = problem.configuration.batch
        self.products: list[tuple[Tensor, Tensor, Tensor]] = []
        for i, (weight, _) in enumerate(problem.weights):
            n_out, n_in = weight.shape
            a, delta = (torch.rand(m, n, device=problem.device) for n in (n_in, n_out))
            pairs = [(a, weight.t()), (delta.t(), a)] + ([(delta, weight)] if i else [])
            self.products += [(left, right, left @ right) for left, right in pairs]
        self.step: Callable[[], object] = self.multiply
        if problem.device.type == "cuda":  # launched from Python, they would measure the launches
            self.step = recorded(self.multiply).replay

    def load(self) -> None:
        pass

    def multiply(self) -> None:
        for left, right, out in self.products:
            torch.mm(left, right, out=out)

    def run(self) -> None:
        for _ in range(self.problem.steps):
            self.step()
        if self.problem.device.type == "cuda":
            torch.cuda.synchronize()

    def parameters(self) -> Parameters:
        return []
