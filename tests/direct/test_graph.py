"""The CUDA engine: its arithmetic on any machine, with recording replaced by repeating; recording where CUDA is."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

import manual_bp as mbp
from manual_bp import direct
from manual_bp.direct import eager
from manual_bp.direct.graph import GraphEngine
from manual_bp.direct.layers import layers

OPTIONS = [{}, {"momentum": 0.9}, {"weight_decay": 0.01}, {"momentum": 0.5, "weight_decay": 0.01}]


def data(device: str = "cpu") -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (700, 40), dtype=torch.uint8, generator=generator)
    return pixels.to(device), torch.randint(0, 10, (700,), generator=generator).to(device)


def assert_same_training(device: str, batch_size: int, options: dict[str, float]) -> None:
    """Two epochs against the loop of PyTorch calls; 700 examples leave a shorter chunk and a smaller batch."""
    torch.manual_seed(0)
    expected = mbp.MLP([40, 20, 10], dtype=torch.float64, device=device)
    got = copy.deepcopy(expected)
    common = {"lr": 0.0, "batch_size": batch_size, **options}
    reference = direct.Trainer(expected, backend="torch", **common)  # type: ignore[arg-type]
    if device == "cpu":
        trainer = direct.Trainer(got, backend="torch", **common)  # type: ignore[arg-type]
        trainer._engine = GraphEngine(
            layers(got),
            trainer._engine.buffers,  # type: ignore[attr-defined]
            reduction="mean",
            momentum=options.get("momentum", 0.0),
            weight_decay=options.get("weight_decay", 0.0),
            batch_size=batch_size,
        )
    else:
        trainer = direct.Trainer(got, **common)  # type: ignore[arg-type]
        assert trainer.backend == "graph"
    pixels, labels = data(device)
    for epoch in range(2):
        order = torch.randperm(700, generator=torch.Generator().manual_seed(epoch)).to(device)
        rates = torch.linspace(1.0, 0.1, -(-700 // batch_size))
        images, targets = pixels.roll(epoch, 0), labels.roll(2 * epoch)  # other data, at another address
        want = reference.run(images, targets, order, rates)
        found = trainer.run(images, targets, order, rates)
        assert found.correct == want.correct
        assert found.squared_error == pytest.approx(want.squared_error, rel=1e-10)
        assert found.grad_norm == pytest.approx(want.grad_norm, rel=1e-9)
        assert found.delta_norm == pytest.approx(want.delta_norm, rel=1e-9)
    for p, q in zip(got.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("batch_size", [10, 64])
def test_its_arithmetic_is_that_of_the_loop(
    batch_size: int, options: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = []
    monkeypatch.setattr(GraphEngine, "_record", lambda _, work: recorded.append(work) or work)
    monkeypatch.setattr(eager, "CHUNK_EXAMPLES", 200)
    assert_same_training("cpu", batch_size, options)
    assert len(recorded) == 1  # once for both epochs


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("batch_size", [10, 64])
def test_recorded_on_cuda_it_is_that_of_the_loop(
    batch_size: int, options: dict[str, float], capsys: pytest.CaptureFixture[str]
) -> None:
    assert_same_training("cuda", batch_size, options)
    assert "no CUDA graph" not in capsys.readouterr().err


def test_it_needs_cuda() -> None:
    with pytest.raises(RuntimeError, match="backend 'graph' needs a model on CUDA, not on cpu"):
        direct.Trainer(mbp.MLP([4, 3]), lr=0.1, batch_size=2, backend="graph")
