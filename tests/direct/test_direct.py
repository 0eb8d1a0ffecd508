"""Direct training against autograd: the same gradients, trajectory and statistics."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules import module as every_module
from torch.utils._python_dispatch import TorchDispatchMode

import manual_bp as mbp
from manual_bp import direct
from manual_bp.direct import task

BACKENDS = ["torch", "native"]
REDUCTIONS = ["half_per_example", "half_per_element", "mean", "sum"]


OPTIONS = [{}, {"momentum": 0.9}, {"weight_decay": 0.01}, {"momentum": 0.5, "weight_decay": 0.01}]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def images(n: int, n_in: int, *, seed: int = 0) -> Tensor:
    """uint8, about 19 % non-zero, as MNIST's pixels."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(1, 256, (n, n_in), dtype=torch.uint8, generator=generator)
    return pixels * (torch.rand(n, n_in, generator=generator) < 0.19)


def labels(n: int, n_out: int, *, seed: int = 1) -> Tensor:
    return torch.randint(0, n_out, (n,), generator=torch.Generator().manual_seed(seed))


def model(
    sizes: list[int], *, seed: int = 0, dtype: torch.dtype = torch.float64, **options: object
) -> mbp.MLP:
    torch.manual_seed(seed)
    return mbp.MLP(sizes, dtype=dtype, **options)  # type: ignore[arg-type]


def twin(network: nn.Module) -> nn.Module:
    return copy.deepcopy(network)


class Reference:
    """The same training through our Functions and torch.optim.SGD, and the same statistics."""

    def __init__(self, network: nn.Module, reduction: str, batch_size: int, **sgd: float) -> None:
        self.network, self.reduction, self.batch_size = network, reduction, batch_size
        self.optimizer = torch.optim.SGD(network.parameters(), lr=0.1, **sgd)  # type: ignore[arg-type]
        self.squared_error, self.correct, self.steps = 0.0, 0, 0
        self.norms: dict[str, float] = {}

    def run(self, x: Tensor, y: Tensor, order: Tensor, lrs: list[float]) -> None:
        for indices, lr in zip(order.split(self.batch_size), lrs, strict=True):
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            self.step(x[indices], y[indices])

    def step(self, x: Tensor, y: Tensor) -> float:
        signals: dict[str, Tensor] = {}
        a = x
        for module in self.network:  # type: ignore[attr-defined]
            a = module(a)
            if isinstance(module, nn.Linear):
                a.retain_grad()
                signals[f"layer{len(signals) + 1:02d}"] = a
        cost = mbp.functional.mse_loss(a, y, self.reduction)
        self.optimizer.zero_grad()
        cost.backward()
        self.squared_error += float((a - y).detach().square().sum())
        self.correct += int((a.argmax(1) == y.argmax(1)).sum())
        self.steps += 1
        gradients: dict[str, Tensor | None] = {}
        linear = (module for module in self.network.modules() if isinstance(module, nn.Linear))
        for tag, module in zip(signals, linear, strict=True):
            gradients |= {f"{tag}.{name}": p.grad for name, p in module.named_parameters()}
        gradients["total"] = torch.cat([g.flatten() for g in gradients.values() if g is not None])
        gradients |= {f"delta {name}": z.grad for name, z in signals.items()}
        for name, gradient in gradients.items():
            assert gradient is not None
            self.norms[name] = self.norms.get(name, 0.0) + float(gradient.norm())
        self.optimizer.step()
        return float(cost.detach())

    def mean_norms(self) -> dict[str, float]:
        return {name: value / self.steps for name, value in self.norms.items()}


def assert_same_parameters(got: nn.Module, expected: nn.Module, tolerance: float = 1e-10) -> None:
    for (name, p), (_, q) in zip(got.named_parameters(), expected.named_parameters(), strict=True):
        error = (p - q).abs().max().item()
        assert error <= tolerance * max(1.0, q.abs().max().item()), f"{name}: {error}"


# backward


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(5, 7), (7,), (2, 3, 7), (1, 7)], ids=str)
def test_backward_equals_autograd(reduction: str, shape: tuple[int, ...]) -> None:
    network = model([7, 5, 4, 3])
    expected = twin(network)
    x, y = torch.randn(*shape, dtype=torch.float64), torch.rand(*shape[:-1], 3, dtype=torch.float64)
    cost = mbp.functional.mse_loss(expected(x), y, reduction)
    cost.backward()
    got = direct.backward(network, x, y, reduction=reduction)
    torch.testing.assert_close(got, cost.detach(), rtol=1e-12, atol=0)
    for p, q in zip(network.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-12, atol=1e-15)


def test_backward_accumulates_and_leaves_frozen_parameters_alone() -> None:
    network = model([4, 3, 2])
    network[0].weight.requires_grad_(False)
    x, y = torch.randn(6, 4, dtype=torch.float64), torch.rand(6, 2, dtype=torch.float64)
    direct.backward(network, x, y)
    once = network[2].weight.grad.clone()
    direct.backward(network, x, y)
    torch.testing.assert_close(network[2].weight.grad, 2 * once)
    assert network[0].weight.grad is None
    assert network[0].bias.grad is not None


def test_backward_takes_any_sequence_of_linear_and_sigmoid() -> None:
    torch.manual_seed(0)
    shared = nn.Linear(4, 4)
    network = nn.Sequential(
        shared, nn.Sequential(mbp.Sigmoid(), shared, nn.Sigmoid()), mbp.Linear(4, 2)
    )
    network.double()
    expected = twin(network)
    x, y = torch.randn(6, 4, dtype=torch.float64), torch.rand(6, 2, dtype=torch.float64)
    torch.nn.functional.mse_loss(expected(x), y).backward()
    direct.backward(network, x, y)
    for p, q in zip(network.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-12, atol=1e-15)


def test_backward_forms_no_gradient_of_the_input() -> None:
    class Products(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            self.count += func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
            return func(*args, **(kwargs or {}))

    with Products() as products:
        direct.backward(model([4, 3, 2]), torch.randn(6, 4).double(), torch.rand(6, 2).double())
    assert products.count == 5  # z of two layers, ∂C/∂W of two, ∂C/∂a of one


# Trainer


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("reduction", "options"), list(zip(REDUCTIONS, OPTIONS, strict=True)), ids=str
)
@pytest.mark.parametrize("batch_size", [10, 64])
def test_trajectory_equals_the_functions(
    backend: str, reduction: str, options: dict[str, float], batch_size: int
) -> None:
    """200 steps with a schedule and a smaller last batch: parameters and statistics to 1e-10."""
    n, n_out = batch_size * 100 - 3, 10
    network = model([50, 34, 20, n_out])
    expected = twin(network)
    pixels, targets = images(n, 50), labels(n, n_out)
    one_hot = torch.nn.functional.one_hot(targets, n_out).double()
    rate = {"sum": 0.02 / batch_size, "half_per_example": 0.05}.get(reduction, 0.5)
    schedule = [rate * (1 + math.cos(0.03 * k)) for k in range(100)]

    reference = Reference(expected, reduction, batch_size, **options)
    trainer = direct.Trainer(
        network, reduction=reduction, lr=0.0, batch_size=batch_size, backend=backend, **options
    )
    for epoch in range(2):
        order = torch.randperm(n, generator=torch.Generator().manual_seed(epoch))
        reference.run(pixels.double() * (1 / 255), one_hot, order, schedule)
        statistics = trainer.run(pixels, targets, order, schedule)
        if epoch == 0:
            norms = reference.mean_norms()
            assert statistics.steps == 100
            assert statistics.examples == n
            assert statistics.correct == reference.correct
            assert statistics.squared_error == pytest.approx(reference.squared_error, rel=1e-10)
            assert statistics.grad_norm_total == pytest.approx(norms.pop("total"), rel=1e-9)
            assert statistics.grad_norm == pytest.approx(
                {name: value for name, value in norms.items() if not name.startswith("delta")},
                rel=1e-9,
            )
            assert {f"delta {k}": v for k, v in statistics.delta_norm.items()} == pytest.approx(
                {name: value for name, value in norms.items() if name.startswith("delta")}, rel=1e-9
            )
    assert_same_parameters(network, expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("output", ["sigmoid", "linear"])
@pytest.mark.parametrize("bias", [True, False])
def test_steps_on_dense_batches_equal_the_functions(backend: str, output: str, bias: bool) -> None:
    network = model([9, 5, 3], output=output, bias=bias)
    expected = twin(network)
    reference = Reference(expected, "mean", 8)
    trainer = direct.Trainer(network, reduction="mean", lr=0.1, batch_size=8, backend=backend)
    for seed in range(20):
        m = 8 - seed % 3
        x = torch.randn(m, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        y = torch.rand(
            m, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 100)
        )
        assert float(trainer.step(x, y)) == pytest.approx(reference.step(x, y), rel=1e-10)
    assert_same_parameters(network, expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_resumed_run_is_byte_identical(backend: str, dtype: torch.dtype) -> None:
    pixels, targets = images(500, 50), labels(500, 10)

    def trained(parts: int) -> mbp.MLP:
        network, state = model([50, 34, 10], dtype=dtype), None
        orders = [
            torch.randperm(500, generator=torch.Generator().manual_seed(epoch))
            for epoch in range(4)
        ]
        for part in range(parts):
            copy = model([50, 34, 10], dtype=dtype, seed=part + 5)
            copy.load_state_dict(network.state_dict())
            trainer = direct.Trainer(copy, lr=0.5, momentum=0.9, batch_size=16, backend=backend)
            if state is not None:
                trainer.load_state_dict(state)
            for order in orders[part * 4 // parts : (part + 1) * 4 // parts]:
                trainer.run(pixels, targets, order)
            network, state = copy, trainer.state_dict()
        return network

    for p, q in zip(trained(1).parameters(), trained(2).parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("backend", BACKENDS)
def test_float32_stays_close_to_float64(backend: str) -> None:
    pixels, targets = images(640, 784), labels(640, 10)
    final = []
    for dtype in (torch.float32, torch.float64):
        network = model([784, 30, 10], dtype=torch.float64).to(dtype)
        trainer = direct.Trainer(
            network, reduction="half_per_example", lr=1.0, batch_size=10, backend=backend
        )
        final.append((network, trainer.run(pixels, targets)))
    (single, single_statistics), (double, double_statistics) = final
    assert single_statistics.cost == pytest.approx(double_statistics.cost, rel=1e-5)
    assert single_statistics.grad_norm_total == pytest.approx(
        double_statistics.grad_norm_total, rel=1e-4
    )
    assert_same_parameters(single.double(), double, 1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_progress_counts_every_step(backend: str) -> None:
    calls: list[int] = []
    trainer = direct.Trainer(model([50, 10]), lr=0.1, batch_size=7, backend=backend)
    trainer.launch(images(1000, 50), labels(1000, 10), progress=calls.append)
    assert sum(calls) == 143


@pytest.mark.parametrize("backend", BACKENDS)
def test_norms_can_be_left_out(backend: str) -> None:
    networks = [model([50, 34, 10]) for _ in range(2)]
    found = [
        direct.Trainer(network, lr=0.5, batch_size=50, backend=backend).run(
            images(100, 50), labels(100, 10), norms=norms
        )
        for network, norms in zip(networks, (True, False), strict=True)
    ]
    assert_same_parameters(*networks)
    assert found[0].squared_error == pytest.approx(found[1].squared_error, rel=1e-12)
    assert found[1].grad_norm == found[1].delta_norm == {}
    assert math.isnan(found[1].grad_norm_total)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bias", [True, False])
def test_what_is_launched_is_read_at_once(
    backend: str, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trainer() -> direct.Trainer:
        network = model([50, 34, 10], bias=bias)
        return direct.Trainer(network, lr=0.5, batch_size=50, backend=backend)

    launched = trainer().launch(images(120, 50), labels(120, 10))
    expected = trainer().run(images(120, 50), labels(120, 10))
    parts = ["weight", "bias"] if bias else ["weight"]
    assert list(launched.grad_norm) == [f"layer0{k}.{part}" for k in (1, 2) for part in parts]
    assert list(launched.delta_norm) == ["layer01", "layer02"]
    figures = [launched.squared_error, launched.cost, launched.correct, launched.grad_norm_total]
    figures += [*launched.grad_norm.values(), *launched.delta_norm.values()]
    assert all(isinstance(figure, Tensor) and figure.shape == () for figure in figures)
    waits: list[int] = []
    real = Tensor.tolist

    def tolist(tensor: Tensor) -> object:
        waits.append(tensor.numel())
        return real(tensor)

    monkeypatch.setattr(Tensor, "tolist", tolist)
    monkeypatch.setattr(Tensor, "item", None)
    found = launched.read()
    assert waits == [len(figures)]
    assert found == expected
    assert isinstance(found.cost, float)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_gradient_that_cancels_has_a_norm(backend: str) -> None:
    """Equal inputs, and errors that add up to 0. Rounding must not bring ‖∂C/∂W‖² below 0."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        network = mbp.MLP([7, 3], output="linear")
        for parameter in network.parameters():
            nn.init.zeros_(parameter)
        errors = torch.randn(4, 1, generator=generator)
        x = torch.rand(1, 7, generator=generator).repeat(4, 1)
        y = (errors - errors.mean()) * torch.rand(1, 3, generator=generator)
        norm = (
            direct.Trainer(network, lr=0.0, batch_size=4, backend=backend)
            .run(x, y)
            .grad_norm["layer01.weight"]
        )
        assert 0 <= norm < 1e-3


def test_state_dict_of_the_model_keeps_its_tensors() -> None:
    network = model([50, 34, 10])
    before = {name: (p.data_ptr(), p.clone()) for name, p in network.state_dict().items()}
    direct.Trainer(network, lr=0.5, batch_size=50).run(images(100, 50), labels(100, 10))
    for name, p in network.state_dict().items():
        assert p.data_ptr() == before[name][0]
        assert not torch.equal(p, before[name][1])


# What is refused


class Squashed(nn.Linear):
    pass


def frozen() -> nn.Module:
    network = model([4, 3])
    network[0].bias.requires_grad_(False)
    return network


def shared() -> nn.Module:
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.Sigmoid(), layer)


def shared_by_address() -> nn.Module:
    network = nn.Sequential(nn.Linear(4, 4), nn.Sigmoid(), nn.Linear(4, 4))
    network[2].weight.data = network[0].weight.data
    return network


def one_bias_for_all() -> nn.Module:
    network = model([4, 3])
    network[0].bias = nn.Parameter(
        torch.zeros(1, dtype=torch.float64)
    )  # F.linear would broadcast it
    return network


def no_inputs() -> nn.Module:
    network = model([4, 3])
    network[0].weight = nn.Parameter(torch.zeros(3, 0, dtype=torch.float64))
    return network


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU()), TypeError, "'1' is a ReLU"),
        (lambda: nn.Sequential(Squashed(4, 3)), TypeError, "'0' is a Squashed"),
        (lambda: nn.Sequential(nn.Sequential()), TypeError, "no Linear"),
        (
            lambda: nn.Sequential(nn.Sigmoid(), nn.Linear(4, 3)),
            TypeError,
            "'0': a Sigmoid must follow a Linear",
        ),
        (lambda: mbp.MLP([4, 3]).half(), TypeError, r"the model is torch\.float16"),
        (frozen, RuntimeError, r"layer 1 \(4→3\): bias is frozen"),
        (shared, RuntimeError, "share memory, and training changes it"),
        (shared_by_address, RuntimeError, "share memory, and training changes it"),
        (one_bias_for_all, RuntimeError, r"layer 1 \(4→3\): bias \(1,\): \(3,\) is expected"),
        (
            lambda: nn.Sequential(nn.Linear(4, 3), nn.Sigmoid(), nn.Linear(5, 2)),
            RuntimeError,
            r"layer 2 \(5→2\): weight \(2, 5\): \(2, 3\) is expected, "
            r"as the layer before it has 3 outputs",
        ),
        (no_inputs, RuntimeError, r"layer 1: weight \(3, 0\): \(n_out, n_in\), none of them 0"),
    ],
)
def test_models_without_a_direct_pass_are_refused(
    make: object, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        direct.Trainer(make(), lr=0.1, batch_size=2)  # type: ignore[operator]


def test_bad_options_are_refused() -> None:
    for options, words in (
        ({"reduction": "none"}, "reduction 'none' is not one of half_per_example"),
        ({"backend": "fast"}, "backend 'fast' is not one of auto, torch, native, graph"),
        ({"momentum": -1.0}, "momentum -1.0 is not a finite number of at least 0"),
        ({"batch_size": 0}, "batch_size 0 is less than 1"),
    ):
        with pytest.raises(ValueError, match=words):
            direct.Trainer(model([4, 3]), **{"lr": 0.1, "batch_size": 2, **options})  # type: ignore[arg-type]


def test_bad_data_is_refused() -> None:
    trainer = direct.Trainer(model([4, 3]), lr=0.1, batch_size=2)
    x, y = images(6, 4), labels(6, 3)
    for arguments, error, words in (
        ((images(6, 5), y), RuntimeError, r"input \(6, 5\): \(N, 4\) is expected"),
        ((x, y + 1), RuntimeError, r"labels from \d to 3: 0 … 2 is expected"),
        ((x, -y), RuntimeError, r"labels from -2 to \d: 0 … 2 is expected"),
        ((x, y[:5]), RuntimeError, r"target \(5,\): \(6, 3\), or labels \(6,\) is expected"),
        ((x, y, torch.tensor([0, 6])), RuntimeError, "indices from 0 to 6: 0 … 5 is expected"),
        ((x, y, torch.tensor([0, 1], dtype=torch.int32)), RuntimeError, "order torch.int32"),
        ((x, y, None, [0.1]), ValueError, "1 learning rates for 3 steps"),
    ):
        with pytest.raises(error, match=words):
            trainer.run(*arguments)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="between 1 and batch_size = 2 rows"):
        trainer.step(torch.rand(3, 4, dtype=torch.float64), torch.rand(3, 3, dtype=torch.float64))
    with pytest.raises(RuntimeError, match=r"target \(2, 4\)"):
        direct.backward(
            model([4, 3]),
            torch.rand(2, 4, dtype=torch.float64),
            torch.rand(2, 4, dtype=torch.float64),
        )


def test_saved_momentum_of_another_model_is_refused() -> None:
    trainer = direct.Trainer(model([4, 3]), lr=0.1, momentum=0.9, batch_size=2)
    with pytest.raises(RuntimeError, match="saved momentum for"):
        trainer.load_state_dict({"momentum": {}})
    with pytest.raises(
        RuntimeError, match=r"a state with \['state'\]: what Trainer.state_dict returned"
    ):
        trainer.load_state_dict({"state": {}})
    other = {"0.weight": torch.ones(3, 4), "0.bias": torch.ones(5)}
    with pytest.raises(RuntimeError, match=r"saved momentum of 0\.bias \(5,\): \(3,\) is expected"):
        trainer.load_state_dict({"momentum": other})
    assert not trainer.state_dict()["momentum"]["0.weight"].any()  # nothing was taken over


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_model_that_was_converted_since_is_refused(backend: str) -> None:
    network = model([4, 3], dtype=torch.float32)
    trainer = direct.Trainer(network, lr=0.1, batch_size=2, backend=backend)
    network.double()
    with pytest.raises(
        TypeError,
        match=r"layer 1 \(4→3\): weight is torch\.float64, layer 1 was torch\.float32",
    ):
        trainer.step(torch.rand(2, 4), torch.rand(2, 3))


@pytest.mark.parametrize("backend", BACKENDS)
def test_bytes_mean_the_same_to_step_as_to_run(backend: str) -> None:
    pixels, y = images(6, 8), torch.rand(6, 3, dtype=torch.float64)
    costs = []
    for use in (lambda t: t.step(pixels, y).item(), lambda t: t.run(pixels, y).cost):
        costs.append(use(direct.Trainer(model([8, 3]), lr=0.1, batch_size=6, backend=backend)))
    assert costs[0] == pytest.approx(costs[1], rel=1e-12)
    expected = mbp.functional.mse_loss(model([8, 3])(pixels.double() / 255), y)
    assert costs[0] == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_data_may_lie_in_memory_as_they_please(backend: str) -> None:
    def trained(pixels: Tensor, y: Tensor, order: Tensor, dtype: torch.dtype) -> nn.Module:
        network = model([8, 5, 3], dtype=dtype)
        direct.Trainer(network, lr=0.5, batch_size=4, backend=backend).run(pixels, y, order)
        return network

    pixels, y, order = (
        images(20, 8),
        torch.rand(20, 3),
        torch.randperm(20, generator=torch.Generator().manual_seed(0)),
    )
    for x in (pixels, pixels / 255, pixels.double() / 255):  # also of another dtype than the model
        expected = trained(x, y, order, torch.float32)
        strided = [t.t().contiguous().t() for t in (x, y)]
        assert not any(t.is_contiguous() for t in strided)
        got = trained(*strided, order.repeat_interleave(2)[::2], torch.float32)
        assert_same_parameters(got, expected, 0)
        reference = Reference(model([8, 5, 3], dtype=torch.float32).double(), "mean", 4)
        reference.run(
            x.double() / (255 if x.dtype == torch.uint8 else 1), y.double(), order, [0.5] * 5
        )
        assert_same_parameters(got, reference.network, 1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_layers_without_a_sigmoid_may_lie_inside(backend: str) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        mbp.Linear(8, 6), mbp.Linear(6, 5), mbp.Sigmoid(), mbp.Linear(5, 3)
    ).double()
    reference = Reference(twin(network), "mean", 4)
    pixels, y = images(20, 8), torch.rand(20, 3, dtype=torch.float64)
    direct.Trainer(network, lr=0.5, batch_size=4, backend=backend).run(pixels, y)
    reference.run(pixels.double() / 255, y, torch.arange(20), [0.5] * 5)
    assert_same_parameters(network, reference.network, 1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_parameters_may_be_parts_of_one_tensor(backend: str) -> None:
    network = model([8, 5, 3])
    reference = Reference(twin(network), "mean", 4)
    flat = nn.utils.parameters_to_vector(network.parameters()).detach()
    nn.utils.vector_to_parameters(flat, network.parameters())  # each is a view of it now
    pixels, y = images(20, 8), torch.rand(20, 3, dtype=torch.float64)
    direct.Trainer(network, lr=0.5, batch_size=4, backend=backend).run(pixels, y)
    reference.run(pixels.double() / 255, y, torch.arange(20), [0.5] * 5)
    assert_same_parameters(network, reference.network, 1e-12)
    assert torch.equal(nn.utils.parameters_to_vector(network.parameters()), flat)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_saved_state_does_not_change_with_the_training(backend: str) -> None:
    trainer = direct.Trainer(model([8, 3]), lr=0.5, momentum=0.9, batch_size=4, backend=backend)
    trainer.run(images(20, 8), labels(20, 3))
    saved = trainer.state_dict()
    kept = copy.deepcopy(saved)
    trainer.run(images(20, 8), labels(20, 3))
    assert all(
        torch.equal(saved["momentum"][name], value) for name, value in kept["momentum"].items()
    )


def test_steps_and_runs_of_a_wide_layer_take_turns_on_one_state() -> None:
    """With "auto" they run in two loops there, on the same parameters and momentum."""
    network, reference = (
        model([800, 40, 10]),
        Reference(model([800, 40, 10]), "mean", 8, momentum=0.9),
    )
    trainer = direct.Trainer(network, lr=0.1, momentum=0.9, batch_size=8)
    assert trainer._step_loop is not trainer._loop
    pixels, y = images(40, 800), torch.rand(40, 10, dtype=torch.float64)
    x = pixels.double() / 255
    for _ in range(2):
        cost = trainer.step(pixels[:8], y[:8])
        assert cost.item() == pytest.approx(reference.step(x[:8], y[:8]), rel=1e-10)
        trainer.run(pixels, y)
        reference.run(x, y, torch.arange(40), [0.1] * 5)
    assert_same_parameters(network, reference.network)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_model_that_was_rebuilt_since_is_refused(backend: str) -> None:
    network = model([4, 3])
    trainer = direct.Trainer(network, lr=0.1, batch_size=2, backend=backend)
    network.load_state_dict(
        network.state_dict(), assign=True
    )  # the parameters are other objects now
    with pytest.raises(RuntimeError, match="make a new Trainer"):
        trainer.step(torch.rand(2, 4), torch.rand(2, 3))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_model_that_was_resized_since_is_refused(backend: str) -> None:
    network = model([4, 3])
    trainer = direct.Trainer(network, lr=0.1, momentum=0.9, batch_size=2, backend=backend)
    network[0].weight.data = torch.zeros(
        3, 60, dtype=torch.float64
    )  # the same parameter, with other memory
    with pytest.raises(
        RuntimeError, match=r"layer 1 \(60→3\): weight \(3, 60\), it was \(3, 4\): make a new"
    ):
        trainer.step(torch.rand(2, 60), torch.rand(2, 3))


@pytest.mark.parametrize("name", ["batch_size", "reduction", "momentum", "weight_decay"])
def test_what_a_trainer_was_made_with_cannot_be_changed(name: str) -> None:
    trainer = direct.Trainer(model([4, 3]), lr=0.1, batch_size=2)
    with pytest.raises(AttributeError, match=name):
        setattr(trainer, name, getattr(trainer, name))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_lone_linear_is_a_model(backend: str) -> None:
    trainer = direct.Trainer(nn.Linear(4, 3), lr=0.1, batch_size=2, backend=backend)
    assert set(trainer.run(images(6, 4), labels(6, 3)).grad_norm) == {
        "layer01.weight",
        "layer01.bias",
    }


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_batch_is_at_most_all_examples(backend: str) -> None:
    x, y = images(6, 4), labels(6, 3)
    costs = [
        direct.Trainer(model([4, 3]), lr=0.1, batch_size=m, backend=backend).run(x, y).cost
        for m in (6, 10**30)
    ]
    assert costs[0] == costs[1]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_lazy_minus_sign_counts(backend: str) -> None:
    x, y = torch.rand(6, 4, dtype=torch.float64), torch.rand(6, 3, dtype=torch.float64)
    costs = []
    for inputs, targets in ((-x, -y), (torch._neg_view(x), torch._neg_view(y))):
        trainer = direct.Trainer(model([4, 3]), lr=0.1, batch_size=2, backend=backend)
        costs.append(trainer.run(inputs, targets).cost)
    assert costs[0] == costs[1]


def nothing(*_: object) -> None:
    return None


GLOBAL_HOOKS = [
    every_module.register_module_forward_pre_hook,
    every_module.register_module_forward_hook,
    every_module.register_module_full_backward_pre_hook,
    every_module.register_module_full_backward_hook,
]
MODULE_HOOKS = [
    "register_forward_pre_hook",
    "register_forward_hook",
    "register_full_backward_pre_hook",
    "register_full_backward_hook",
]
PARAMETER_HOOKS = ["register_hook", "register_post_accumulate_grad_hook"]


def assert_refused(network: nn.Module, trainer: direct.Trainer, words: str) -> None:
    """A new Trainer, one made before, and backward refuse `network`, and leave it as it is."""
    before = copy.deepcopy(network.state_dict())
    x, y = torch.rand(2, 4, dtype=torch.float64), torch.rand(2, 3, dtype=torch.float64)
    with pytest.raises(RuntimeError, match=words):
        direct.Trainer(network, lr=0.1, batch_size=2)
    with pytest.raises(RuntimeError, match=words):
        trainer.step(x, y)
    with pytest.raises(RuntimeError, match=words):
        trainer.run(x, y)
    with pytest.raises(RuntimeError, match=words):
        direct.backward(network, x, y)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize("register", GLOBAL_HOOKS, ids=lambda hook: hook.__name__)
def test_hooks_on_all_modules_are_refused(register: Any) -> None:
    network = model([4, 3])
    trainer = direct.Trainer(network, lr=0.1, batch_size=2)
    handle = register(nothing)
    try:
        assert_refused(network, trainer, "hooks on all modules would not run")
    finally:
        handle.remove()
    trainer.step(torch.rand(2, 4), torch.rand(2, 3))


@pytest.mark.parametrize("register", MODULE_HOOKS)
@pytest.mark.parametrize("name", ["model", "0", "1"])
def test_hooks_on_a_module_are_refused(register: str, name: str) -> None:
    network = model([4, 3])
    trainer = direct.Trainer(network, lr=0.1, batch_size=2)
    getattr(network.get_submodule(name) if name != "model" else network, register)(nothing)
    assert_refused(network, trainer, f"module '{name}' has hooks")


@pytest.mark.parametrize("register", PARAMETER_HOOKS)
def test_hooks_on_a_parameter_are_refused(register: str) -> None:
    network = model([4, 3])
    trainer = direct.Trainer(network, lr=0.1, batch_size=2)
    getattr(network[0].bias, register)(nothing)
    assert_refused(network, trainer, "parameter 'bias' of module '0' has hooks")


@pytest.mark.parametrize("name", ["model", "0", "1"])
def test_a_forward_of_its_own_is_refused(name: str) -> None:
    network = model([4, 3])
    trainer = direct.Trainer(network, lr=0.1, batch_size=2)
    module = network.get_submodule(name) if name != "model" else network
    module.forward = nothing  # type: ignore[assignment]
    assert_refused(network, trainer, f"module '{name}' has a forward of its own")


@pytest.mark.parametrize("kind", [mbp.Linear, mbp.Sigmoid, nn.Linear, nn.Sigmoid])
def test_a_class_whose_forward_was_replaced_is_refused(
    kind: type[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = kind in (mbp.Linear, mbp.Sigmoid)
    network = model([4, 3]) if ours else nn.Sequential(nn.Linear(4, 3), nn.Sigmoid()).double()
    trainer = direct.Trainer(network, lr=0.1, batch_size=2)
    monkeypatch.setattr(kind, "forward", nothing)
    assert_refused(network, trainer, rf"{kind.__name__}\.forward was replaced")


def test_a_sequence_that_runs_otherwise_is_refused() -> None:
    class Twice(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(super().forward(x))  # type: ignore[no-any-return]

    network = Twice(mbp.Linear(4, 4))
    for use in (
        lambda: direct.Trainer(network, lr=0.1, batch_size=2),
        lambda: direct.backward(network, torch.rand(2, 4), torch.rand(2, 4)),
    ):
        with pytest.raises(
            TypeError, match=r"module 'model': Twice\.forward is not nn\.Sequential\.forward"
        ):
            use()


@pytest.mark.parametrize("backend", BACKENDS)
def test_autograd_notices_that_the_parameters_changed(backend: str) -> None:
    network, x = model([4, 3]), torch.rand(2, 4, dtype=torch.float64, requires_grad=True)
    out = network(x).sum()
    direct.Trainer(network, lr=1, batch_size=2, backend=backend).step(x.detach(), torch.rand(2, 3))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(out, x)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_default_device_does_not_matter(backend: str) -> None:
    x, y, costs = images(6, 4), labels(6, 3), []
    for device in ("cpu", "meta"):
        trainer = direct.Trainer(model([4, 3]), lr=0.1, batch_size=2, backend=backend)
        with torch.device(device):
            costs.append(trainer.run(x, y).cost)
    assert costs[0] == costs[1]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_trainer_can_be_copied(backend: str) -> None:
    x, y = images(6, 4), labels(6, 3)
    network = model([4, 3])
    trainer = direct.Trainer(network, lr=0.1, momentum=0.5, batch_size=2, backend=backend)
    trainer.run(x, y)
    again = copy.deepcopy(trainer)
    assert again.run(x, y) == trainer.run(x, y)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_trainer_can_be_pickled(backend: str) -> None:
    x, y = images(6, 4), labels(6, 3)
    trainer = direct.Trainer(model([4, 3]), lr=0.1, momentum=0.5, batch_size=2, backend=backend)
    trainer.run(x, y)
    again = pickle.loads(pickle.dumps(trainer))
    for _ in range(2):
        assert again.run(x, y) == trainer.run(x, y)


def test_backward_takes_targets_of_another_dtype_as_mse_loss_does() -> None:
    network, x, y = (
        model([4, 3], dtype=torch.float32),
        torch.rand(5, 4),
        torch.rand(5, 3, dtype=torch.float64),
    )
    expected = torch.autograd.grad(
        mbp.functional.mse_loss(network(x), y), list(network.parameters())
    )
    direct.backward(network, x, y)
    for parameter, gradient in zip(network.parameters(), expected, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, gradient)


def test_what_is_no_image_or_no_number_is_refused() -> None:
    network = model([4, 3])
    trainer = direct.Trainer(network, lr=0.1, batch_size=2)
    for dtype in (torch.bool, torch.int64, torch.complex64):
        with pytest.raises(TypeError, match="uint8 or a floating dtype"):
            trainer.run(torch.ones(2, 4, dtype=dtype), labels(2, 3))
    with pytest.raises(RuntimeError, match=r"input \(4,\): \(N, 4\) is expected"):
        trainer.run(torch.ones(4), labels(2, 3))
    for rate in (math.nan, -0.1):
        with pytest.raises(ValueError, match=f"a learning rate of {rate} is not a finite number"):
            trainer.run(torch.ones(2, 4), labels(2, 3), lrs=[rate])
    with pytest.raises(ValueError, match="lr nan"):
        direct.Trainer(network, lr=math.nan, batch_size=2)
    with torch.autocast("cpu"), pytest.raises(RuntimeError, match="autocast is on"):
        trainer.step(torch.rand(2, 4), torch.rand(2, 3))
    with torch.autocast("cpu"), pytest.raises(RuntimeError, match="autocast is on"):
        direct.backward(network, torch.rand(2, 4).double(), torch.rand(2, 3).double())


@pytest.mark.parametrize("wrong", ["labels", "indices"])
def test_what_is_out_of_range_on_a_gpu_is_said_when_the_figures_are_read(
    wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU is not waited for: figures of clamped numbers are NaN."""

    class OnGpu(Tensor):
        device = torch.device("cuda")

    in_range = task._in_range

    def on_gpu(name: str, numbers: Tensor, n: int) -> tuple[Tensor, Tensor]:
        clamped, out = in_range(name, numbers.as_subclass(OnGpu), n)
        assert out is not None
        return clamped.as_subclass(Tensor), out.as_subclass(Tensor)

    monkeypatch.setattr(task, "_in_range", on_gpu)
    trainer = direct.Trainer(mbp.MLP([4, 3]), lr=0.1, batch_size=2, backend="torch")
    x, labels, order = torch.rand(6, 4), torch.tensor([0, 1, 2, 0, 1, 2]), torch.arange(6)
    assert trainer.run(x, labels, order).examples == 6
    (labels if wrong == "labels" else order)[1] = 7
    launched = trainer.launch(x, labels, order)
    with pytest.raises(RuntimeError, match="labels or indices out of range"):
        launched.read()
    assert trainer.step(x[:2], labels[:2]).isnan() == (wrong == "labels")
