"""The loops on a GPU against one another, and what a GPU must not be asked."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import manual_bp as mbp
from manual_bp import direct, verify
from manual_bp.function import HandDerivedFunction
from manual_bp.training.autograd_engine import AutogradEngine
from tests.correctness.poison import poisoned
from tests.training.test_waiting import run_of

pytestmark = pytest.mark.cuda
CUDA = torch.device("cuda", 0)


def data(n: int = 700) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (n, 784), dtype=torch.uint8, generator=generator)
    pixels *= torch.rand(pixels.shape, generator=generator) < 0.2
    labels = torch.randint(0, 10, (n,), generator=generator)
    return pixels.cuda(), labels.cuda(), torch.randperm(n, generator=generator).cuda()


def trained(backend: str, sizes: list[int], batch: int, **options: float) -> list[Tensor]:
    torch.manual_seed(0)
    model = mbp.MLP(sizes).cuda()
    trainer = direct.Trainer(model, lr=0.5, batch_size=batch, backend=backend, **options)  # type: ignore[arg-type]
    for _ in range(2):
        trainer.run(*data())
    return [p.detach() for p in model.parameters()]


@pytest.mark.parametrize("options", [{}, {"momentum": 0.5, "weight_decay": 0.01}], ids=str)
@pytest.mark.parametrize(
    ("sizes", "batch"), [([784, 30, 10], 10), ([784, 128, 10], 64), ([784, 300, 10], 16)], ids=str
)
def test_the_epoch_kernel_is_that_of_the_loop(
    sizes: list[int],
    batch: int,
    options: dict[str, float],
    capsys: pytest.CaptureFixture[str],
) -> None:
    got, again = (trained("epoch", sizes, batch, **options) for _ in range(2))
    want = trained("torch", sizes, batch, **options)
    assert "no epoch kernel" not in capsys.readouterr().err
    assert all(torch.equal(p, q) for p, q in zip(got, again, strict=True))
    for p, q in zip(got, want, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


def test_33_loops_train_alike() -> None:
    """PyTorch has 32 streams a device."""
    torch.manual_seed(0)
    state = mbp.MLP([784, 20, 10]).state_dict()
    trainers, models = [], []
    for _ in range(33):
        model = mbp.MLP([784, 20, 10])
        model.load_state_dict(state)
        models.append(model.cuda())
        trainers.append(direct.Trainer(model, lr=0.5, batch_size=350, backend="graph"))
    for _ in range(3):
        for trainer in trainers:
            trainer.run(*data())
    del trainers[::2]
    torch.cuda.empty_cache()
    for trainer in trainers:
        trainer.run(*data())
    first, *others = (list(model.parameters()) for model in models[1::2])
    for parameters in others:
        for p, q in zip(first, parameters, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", ["epoch", "graph", "torch"])
@pytest.mark.parametrize("wrong", ["labels", "indices"])
def test_what_is_out_of_range_is_said_and_leaves_the_gpu_usable(backend: str, wrong: str) -> None:
    model = mbp.MLP([784, 30, 10]).cuda()
    trainer = direct.Trainer(model, lr=0.5, batch_size=10, backend=backend)
    images, labels, order = data()
    (labels if wrong == "labels" else order)[7] = 700
    launched = trainer.launch(images, labels, order)
    with pytest.raises(RuntimeError, match="labels or indices out of range"):
        launched.read()
    assert trainer.run(*data()).examples == 700


def test_a_step_of_functions_is_captured_and_replays_right() -> None:
    run, here = (run_of("autograd", device=device) for device in (CUDA, torch.device("cpu")))
    assert isinstance(run.engine, AutogradEngine)
    for epoch in (1, 2):
        (row, _), (expected, _) = run._epoch(epoch), here._epoch(epoch)
        for tag in ("cost/train", "grad_norm/total", "delta_norm/layer01"):
            assert row[tag] == pytest.approx(expected[tag], rel=1e-3)
    assert run.engine._recorder is not None
    replays = run.engine._recorder._replays.values()
    assert any(replay is not None for replay in replays)
    assert not run.engine._recorder._refused


def test_the_recorded_step_ran_our_rules() -> None:
    costs = []
    for function in (None, mbp.LinearFunction, mbp.SigmoidFunction, mbp.MSELossFunction):
        run = run_of("autograd", device=CUDA)
        run.plan.__dict__["impl"] = "builtin"  # without the live check, which finds the poison
        if function is None:
            costs.append(run._epoch(1)[0]["cost/train"])
            continue
        with poisoned(function):
            costs.append(run._epoch(1)[0]["cost/train"])
    assert len({round(cost, 4) for cost in costs}) == 4


def some(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(*shape, dtype=torch.float64, generator=generator).cuda()


@pytest.mark.parametrize(
    ("function", "inputs"),
    [
        (mbp.SigmoidFunction, lambda: (some(4, 3),)),
        (mbp.LinearFunction, lambda: (some(5, 3), some(4, 3), some(4))),
        (mbp.MSELossFunction, lambda: (some(5, 4), some(5, 4), "mean")),
    ],
)
def test_verify_takes_tensors_on_cuda(
    function: type[HandDerivedFunction], inputs: Callable[[], tuple[object, ...]]
) -> None:
    report = verify.check(function, inputs())
    assert report.ok, str(report)
