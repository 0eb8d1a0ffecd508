"""The kernel of a whole epoch, without a GPU: in Triton's interpreter, and compiled for one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

triton = pytest.importorskip("triton", reason="no Triton: it comes with PyTorch for CUDA")

import manual_bp as mbp  # noqa: E402
from manual_bp import direct  # noqa: E402
from manual_bp.direct.task import LoopUnavailableError  # noqa: E402
from tests.direct.epoch_on_cpu import CASES  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found() -> Any:
    """What the interpreter gave. It takes seconds: only what hangs takes half an hour."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.direct.epoch_on_cpu"],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    if "only 0-dimensional arrays can be converted to Python scalars" in done.stderr:
        pytest.skip(f"the interpreter of Triton {triton.__version__} cannot use this NumPy")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", CASES)
def test_interpreted_it_is_that_of_the_loop(name: str, found: Any) -> None:
    case = found["cases"][name]
    assert case["off"] <= 1e-6
    seen, expected = case["figures"]
    assert seen == pytest.approx(expected, rel=1e-5)


def test_several_programs_exchange_their_shares(found: Any) -> None:
    """Two processes, each one program of the kernel, which meet at its barrier."""
    several = found["several"]
    assert several["programs"] == 2
    assert several["off"] <= 1e-6
    seen, expected = several["figures"]
    assert seen == pytest.approx(expected, rel=1e-5)


def test_slices_change_nothing(found: Any) -> None:
    assert found["slices"] == {"told": [2, 1], "equal": True}


def test_what_it_is_not_for_is_said(found: Any) -> None:
    assert found["refusals"] == [
        "no epoch kernel: it takes one hidden layer with a sigmoid",
        "no epoch kernel: hidden 600 is more than 512",
        "no epoch kernel: batch 65 is more than 64",
        "no epoch kernel: the model is torch.float64",
    ]


def test_it_needs_cuda() -> None:
    with pytest.raises(LoopUnavailableError, match="no epoch kernel: the model is on cpu"):
        direct.Trainer(mbp.MLP([4, 3, 2]), lr=0.1, batch_size=2, backend="epoch")


def test_without_triton_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "manual_bp.direct.epoch_kernel", raising=False)
    with pytest.raises(LoopUnavailableError, match="no epoch kernel: no Triton"):
        direct.Trainer(mbp.MLP([4, 3, 2]), lr=0.1, batch_size=2, backend="epoch")


def test_auto_on_cuda_falls_back_with_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The order for a GPU, asked on a CPU: the epoch kernel, CUDA graphs, PyTorch calls."""
    monkeypatch.setitem(direct.trainer.AUTO, "cpu", ("epoch", "torch"))
    trainer = direct.Trainer(mbp.MLP([4, 3, 2]), lr=0.1, batch_size=2)
    assert trainer.backend == "torch"
    assert capsys.readouterr().err == (
        "manual_bp: no epoch kernel: the model is on cpu; training with PyTorch calls instead\n"
    )
    assert direct.trainer.AUTO["cuda"] == ("epoch", "graph")


# What the kernel's arguments are, in Triton's words.
TYPES = {"images": "*u8", "order": "*i64", "arrived": "*i32"}
TYPES |= dict.fromkeys(("n_in", "n_hidden", "n_out", "m", "examples"), "i32")
TYPES |= dict.fromkeys(("pixel_scale", "two_s", "two_s_last", "momentum", "decay"), "fp32")
BLOCKS = {"PROGRAMS": 2, "BM": 16, "BH": 16, "BO": 16, "BK": 64, "SIGMOID_OUTPUT": True}


def test_it_compiles_for_an_h100(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """ptxas is in Triton's wheel. Two programs, without momentum: the default recipe."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from manual_bp.direct import epoch_kernel

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    names = epoch_kernel.train.arg_names
    nothing = [name for name in names if name.startswith("v_")]
    constants = BLOCKS | dict.fromkeys(nothing)
    signature = {n: "constexpr" if n in constants else TYPES.get(n, "*fp32") for n in names}
    kernel = triton.compile(
        ASTSource(fn=epoch_kernel.train, signature=signature, constexprs=constants),
        target=GPUTarget("cuda", 90, 32),
        options={"num_warps": 4, "launch_cooperative_grid": True, "enable_fp_fusion": True},
    )
    assert len(kernel.asm["cubin"]) > 1000
    for order in ("gpu.release.add", "gpu.acquire"):  # the barrier
        assert order in kernel.asm["ptx"]
    assert kernel.metadata.shared <= 227 * 1024  # what a block may have of an H100's
    assert kernel.metadata.launch_cooperative_grid
