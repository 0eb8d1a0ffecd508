"""The compiled loop: how it is built and where it is not, its threads, and the two ways through the first layer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import manual_bp as mbp
from manual_bp import direct
from manual_bp.direct import native

BUILD = "from manual_bp.direct import native; native.load(); print(len(list(native._cache_folder().iterdir())))"


def data(share: float, n: int = 300, n_in: int = 70) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(1, 256, (n, n_in), dtype=torch.uint8, generator=generator)
    pixels *= torch.rand(n, n_in, generator=generator) < share
    return pixels, torch.randint(0, 10, (n,), generator=generator)


def trained(
    share: float, *, dtype: torch.dtype = torch.float32, **options: float
) -> tuple[nn.Module, direct.Statistics]:
    torch.manual_seed(0)
    network = mbp.MLP([70, 45, 33, 10], dtype=dtype)
    trainer = direct.Trainer(network, lr=2.0, batch_size=64, backend="native", **options)  # type: ignore[arg-type]
    return network, trainer.run(*data(share))


@pytest.mark.parametrize("share", [0.2, 1.0], ids=["sparse", "dense"])
def test_bytes_do_not_depend_on_the_number_of_threads(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "THREADED_WORK", 0)
    found = []
    before = torch.get_num_threads()
    for threads in (1, 2, 3, 7):
        torch.set_num_threads(threads)
        found.append(trained(share, momentum=0.5, weight_decay=0.01))
    torch.set_num_threads(before)
    for network, statistics in found[1:]:
        assert statistics == found[0][1]
        for p, q in zip(network.parameters(), found[0][0].parameters(), strict=True):
            assert torch.equal(p, q)


@pytest.mark.parametrize("options", [{}, {"momentum": 0.5, "weight_decay": 0.01}], ids=str)
@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_skipping_zeros_is_exact_to_rounding(
    share: float, options: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for threshold in (0.0, 2.0):  # never, always
        monkeypatch.setattr(native, "DENSE", threshold)
        found.append(trained(share, dtype=torch.float64, **options))
    for p, q in zip(found[0][0].parameters(), found[1][0].parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14)
    assert found[0][1].grad_norm == pytest.approx(found[1][1].grad_norm, rel=1e-12)


def test_sigmoid_at_its_ends_and_in_between() -> None:
    z = torch.tensor([-1e30, -300.0, -88.0, -20.0, -1e-3, 0.0, 0.3, 5.0, 17.0, 300.0, 1e30, torch.inf, -torch.inf])
    expected = torch.sigmoid(z.double())
    for dtype, relative in ((torch.float32, 2e-7), (torch.float64, 1e-15)):
        layer = mbp.MLP([1, z.numel()], dtype=dtype)
        with torch.no_grad():
            layer[0].weight.zero_()
            layer[0].bias.copy_(z)
        zero = torch.zeros(1, 1, dtype=dtype)
        cost = [
            float(direct.Trainer(layer, reduction="sum", lr=0.0, batch_size=1, backend="native").step(zero, y[None]))
            for y in torch.eye(z.numel(), dtype=dtype)
        ]
        # ‖a − e_k‖² = ‖a‖² + 1 − 2 a_k, from which a_k
        square = float(expected.square().sum())
        a = torch.tensor([(square + 1 - c) / 2 for c in cost], dtype=torch.float64)
        torch.testing.assert_close(a, expected, rtol=0, atol=16 * relative)


def test_diverged_training_shows_as_nan() -> None:
    torch.manual_seed(0)
    network = mbp.MLP([70, 10], output="linear")
    trainer = direct.Trainer(network, lr=1e30, batch_size=10, backend="native")
    assert not trainer.run(*data(1.0)).cost < 1e30


def test_without_a_compiler_auto_uses_pytorch_calls(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    native.load.cache_clear()
    try:
        with pytest.raises(RuntimeError, match="no C\\+\\+ compiler was found"):
            direct.Trainer(mbp.MLP([4, 3]), lr=0.1, batch_size=2, backend="native")
        trainer = direct.Trainer(mbp.MLP([4, 3]), lr=0.1, batch_size=2)
    finally:
        native.load.cache_clear()
    assert trainer.backend == "torch"
    assert "no C++ compiler was found" in capsys.readouterr().err


def test_a_compiler_that_fails_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("CXX", "false")
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    native.load.cache_clear()
    try:
        trainer = direct.Trainer(mbp.MLP([4, 3]), lr=0.1, batch_size=2)
    finally:
        native.load.cache_clear()
    assert trainer.backend == "torch"
    assert "false cannot build the native loop" in capsys.readouterr().err


@pytest.mark.slow
def test_processes_that_build_at_once_do_not_disturb_each_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    processes = [
        subprocess.Popen([sys.executable, "-c", BUILD], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    results = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    again = subprocess.run([sys.executable, "-c", BUILD], capture_output=True, text=True, check=True)
    assert again.stdout.strip() == "1"  # one library, nothing left over
    assert "building" in results[0][1]
    assert "building" not in again.stderr
