"""The C++ loop: how it is built, its threads, and its two ways through the first layer."""

from __future__ import annotations

import ctypes
import math
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import manual_bp as mbp
from manual_bp import direct
from manual_bp.direct import library, native

BUILD = (  # with -O3 the compiler takes ten times as long
    "from manual_bp.direct import library, native; "
    "library.FLAGS = [flag for flag in library.FLAGS if flag != '-O3']; native.load()"
)


def data(share: float, n: int = 300, n_in: int = 70) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(1, 256, (n, n_in), dtype=torch.uint8, generator=generator)
    pixels *= torch.rand(n, n_in, generator=generator) < share
    return pixels, torch.randint(0, 10, (n,), generator=generator)


def trained(
    share: float,
    *,
    dtype: torch.dtype = torch.float32,
    progress: Callable[[int], object] = lambda _: None,
    **options: float,
) -> tuple[nn.Module, direct.Statistics[float]]:
    torch.manual_seed(0)
    network = mbp.MLP([70, 45, 33, 10], dtype=dtype)
    trainer = direct.Trainer(network, lr=2.0, batch_size=64, backend="native", **options)  # type: ignore[arg-type]
    rates = [2.0 / (1 + step) for step in range(5)]
    return network, trainer.launch(*data(share), lrs=rates, progress=progress).read()


@pytest.mark.parametrize("share", [0.2, 1.0], ids=["sparse", "dense"])
def test_bytes_do_not_depend_on_the_number_of_threads(
    share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "WORK_PER_THREAD", 1)
    found = []
    for threads in (1, 2, 3, 7):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        found.append(trained(share, momentum=0.5, weight_decay=0.01))
    for network, statistics in found[1:]:
        assert statistics == found[0][1]
        for p, q in zip(network.parameters(), found[0][0].parameters(), strict=True):
            assert torch.equal(p, q)


@pytest.mark.parametrize("share", [0.2, 1.0], ids=["sparse", "dense"])
def test_wide_layers_in_large_batches(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows and columns are copied together before use, and every sum has several pieces."""
    monkeypatch.setattr(native, "WORK_PER_THREAD", 1)
    found = []
    for backend, threads in (("torch", 2), ("native", 1), ("native", 3)):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        torch.manual_seed(0)
        network = mbp.MLP([1100, 1050, 150, 10], dtype=torch.float64)
        trainer = direct.Trainer(network, lr=0.5, momentum=0.5, batch_size=1200, backend=backend)
        found.append((trainer.run(*data(share, n=1500, n_in=1100)), list(network.parameters())))
    (expected, parameters), (alone, alone_parameters), (shared, shared_parameters) = found
    assert alone == shared
    assert alone.grad_norm == pytest.approx(expected.grad_norm, rel=1e-10)
    for p, q, r in zip(parameters, alone_parameters, shared_parameters, strict=True):
        torch.testing.assert_close(q, p, rtol=1e-10, atol=1e-12)
        assert torch.equal(q, r)


@pytest.mark.parametrize(
    ("dtype", "rtol"), [(torch.float64, 1e-12), (torch.float32, 2e-6)], ids=str
)
@pytest.mark.parametrize("options", [{}, {"momentum": 0.5, "weight_decay": 0.01}], ids=str)
@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_skipping_zeros_is_exact_to_rounding(
    share: float,
    options: dict[str, float],
    dtype: torch.dtype,
    rtol: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = []
    for threshold in (0.0, 2.0):  # never, always
        monkeypatch.setattr(native, "DENSE", threshold)
        found.append(trained(share, dtype=dtype, **options))
    for p, q in zip(found[0][0].parameters(), found[1][0].parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=rtol, atol=rtol / 100)
    assert found[0][1].grad_norm == pytest.approx(found[1][1].grad_norm, rel=rtol)


def test_sigmoid_at_its_ends_and_in_between() -> None:
    z = torch.tensor(
        [
            -1e30,
            -300.0,
            -88.0,
            -20.0,
            -1e-3,
            0.0,
            0.3,
            5.0,
            17.0,
            300.0,
            1e30,
            torch.inf,
            -torch.inf,
        ]
    )
    expected = torch.sigmoid(z.double())
    for dtype, relative in ((torch.float32, 2e-7), (torch.float64, 1e-15)):
        layer = mbp.MLP([1, z.numel()], dtype=dtype)
        with torch.no_grad():
            layer[0].weight.zero_()
            layer[0].bias.copy_(z)
        zero = torch.zeros(1, 1, dtype=dtype)
        cost = [
            float(
                direct.Trainer(layer, reduction="sum", lr=0.0, batch_size=1, backend="native").step(
                    zero, y[None]
                )
            )
            for y in torch.eye(z.numel(), dtype=dtype)
        ]
        # ‖a − e_k‖² = ‖a‖² + 1 − 2 a_k, from which a_k
        square = float(expected.square().sum())
        a = torch.tensor([(square + 1 - c) / 2 for c in cost], dtype=torch.float64)
        torch.testing.assert_close(a, expected, rtol=0, atol=16 * relative)


@pytest.mark.parametrize("share", [0.2, 1.0], ids=["sparse", "dense"])
@pytest.mark.parametrize("options", [{}, {"momentum": 0.5, "weight_decay": 0.01}], ids=str)
def test_bytes_do_not_depend_on_the_slices(
    share: float, options: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """300 examples in batches of 64: two slices of two steps, and the last step, a smaller one."""
    whole = trained(share, **options)
    monkeypatch.setattr(native, "SLICE_WORK", 2.5 * 64 * (70 * 45 + 45 * 33 + 33 * 10))
    calls: list[int] = []
    sliced = trained(share, progress=calls.append, **options)
    assert calls == [2, 2, 1]
    assert sliced[1] == whole[1]
    for p, q in zip(sliced[0].parameters(), whole[0].parameters(), strict=True):
        assert torch.equal(p, q)


def test_what_progress_raises_ends_the_epoch_between_two_slices(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(native, "SLICE_WORK", 0)

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(0.2, progress=interrupt)


def test_threads_that_cannot_be_had_are_an_error_not_the_end_of_the_process() -> None:
    code = f"""
import resource, torch
from pathlib import Path
from tests.direct import test_native
from manual_bp.direct import native
native.WORK_PER_THREAD = 1
test_native.trained(0.2)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + {60 << 20}, resource.RLIM_INFINITY))
torch.get_num_threads = lambda: 64
test_native.trained(0.2)
"""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    assert (
        "ran out of memory or threads: take a smaller batch, fewer threads"
        in done.stderr.splitlines()[-1]
    )


def test_a_parameter_may_lie_in_another_order_of_memory() -> None:
    plain, other = mbp.MLP([70, 10]), mbp.MLP([70, 10])
    other.load_state_dict(plain.state_dict())
    other[0].weight.data = other[0].weight.data.t().contiguous().t()
    for network in (plain, other):
        direct.Trainer(network, lr=1.0, batch_size=10, momentum=0.5, backend="native").run(
            *data(0.2)
        )
    assert torch.equal(plain[0].weight, other[0].weight)
    assert not other[0].weight.is_contiguous()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("flushed", [True, False])
def test_numbers_below_the_normal_ones_count_as_0_within_the_loop_alone(
    dtype: torch.dtype, threads: int, flushed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are a hundred times slower. The caller's setting stays as it was."""
    if platform.machine().lower() not in ("x86_64", "amd64", "aarch64", "arm64"):
        pytest.skip("the loop knows no setting against denormals on this processor")
    monkeypatch.setattr(native, "WORK_PER_THREAD", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    small = torch.finfo(dtype).tiny / 4
    try:
        network = mbp.MLP([64, 48, 5], output="linear", dtype=dtype)
        for p in network.parameters():
            p.data.zero_()
        network[2].weight.data.numpy()[...] = small
        assert (network[2].weight.detach().numpy() != 0).all()
        torch.set_flush_denormal(flushed)
        trainer = direct.Trainer(network, lr=1.0, batch_size=48, backend="native")
        trainer.run(torch.rand(48, 64, dtype=dtype), torch.zeros(48, 5, dtype=dtype))
        # W − η · 0 is W again, unless W counts as 0
        bits = {4: torch.int32, 8: torch.int64}[dtype.itemsize]
        assert not network[2].weight.detach().view(bits).any()
        assert bool(torch.full((), small, dtype=dtype) * 0.5 == 0) is flushed
    finally:
        torch.set_flush_denormal(False)


@pytest.mark.parametrize("share", [0.2, 1.0], ids=["sparse", "dense"])
def test_sums_over_a_large_batch_are_as_good_as_small_ones(share: float) -> None:
    pixels, labels = data(share, n=60_000, n_in=3)
    found = []
    for dtype in (torch.float32, torch.float64):
        torch.manual_seed(0)
        network = mbp.MLP([3, 20, 10]).to(dtype)
        trainer = direct.Trainer(
            network, reduction="sum", lr=1e-5, batch_size=60_000, backend="native"
        )
        found.append((network, trainer.run(pixels, labels)))
    (single, single_statistics), (double, double_statistics) = found
    assert single_statistics.grad_norm == pytest.approx(double_statistics.grad_norm, rel=3e-6)
    for p, q in zip(single.parameters(), double.parameters(), strict=True):
        torch.testing.assert_close(p.double(), q, rtol=1e-5, atol=2e-6)


def test_diverged_training_shows_in_the_cost() -> None:
    torch.manual_seed(0)
    network = mbp.MLP([70, 10], output="linear")
    trainer = direct.Trainer(network, lr=1e30, batch_size=10, backend="native")
    assert not math.isfinite(trainer.run(*data(1.0)).cost)


@pytest.fixture
def not_loaded() -> Iterator[None]:
    """The library is loaded anew within the test, and once more after it."""
    native._load.cache_clear()
    yield
    native._load.cache_clear()


def test_without_a_compiler_auto_uses_pytorch_calls(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    not_loaded: None,
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(RuntimeError, match="no C\\+\\+ compiler was found"):
        direct.Trainer(mbp.MLP([4, 3]), lr=0.1, batch_size=2, backend="native")
    trainer = direct.Trainer(mbp.MLP([4, 3]), lr=0.1, batch_size=2)
    assert trainer.backend == "torch"
    assert "no C++ compiler was found" in capsys.readouterr().err


def test_a_compiler_that_fails_is_named(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    not_loaded: None,
) -> None:
    monkeypatch.setenv("CXX", "false")
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    trainer = direct.Trainer(mbp.MLP([4, 3]), lr=0.1, batch_size=2)
    assert trainer.backend == "torch"
    assert "false cannot build the C++ loop" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("CXX", "true", "true cannot build the C++ loop"),
        ("CXX", "nowhere -O2", "no C++ compiler was found (nowhere -O2; $CXX names another)"),
        ("TORCH_EXTENSIONS_DIR", __file__, "($TORCH_EXTENSIONS_DIR names a folder to keep it in)"),
    ],
)
def test_why_there_is_no_native_loop_is_said(
    variable: str,
    value: str,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    not_loaded: None,
) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setenv(variable, value)
    with pytest.raises(RuntimeError) as raised:
        native.load()
    assert words in str(raised.value)


@pytest.mark.slow
def test_a_compiler_can_be_named_with_options(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, not_loaded: None
) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setenv("CXX", "c++ -O0")
    monkeypatch.setattr(library, "FLAGS", [flag for flag in library.FLAGS if flag != "-O3"])
    native.load()


@pytest.mark.slow
def test_processes_that_build_at_once_do_not_disturb_each_other(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    not_loaded: None,
) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", BUILD], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    try:
        results = [process.communicate() for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], results
    assert "building" in results[0][1]
    monkeypatch.setattr(library, "FLAGS", [flag for flag in library.FLAGS if flag != "-O3"])
    native.load()
    assert len(list(library.cache_folder().iterdir())) == 1  # one library, nothing left over
    assert "building" not in capsys.readouterr().err


def refused(state: tuple[int, int, int], python: tuple[int, int, int]) -> str:
    """The message where the two layouts are so much more than native.py's own."""
    now = (native.LAYOUT, ctypes.sizeof(native._Layer), ctypes.sizeof(native._Run))
    sides = ([n + k for n, k in zip(now, more, strict=True)] for more in (state, python))
    return re.escape("state.h has the layout {}, native.py {}".format(*sides))


@pytest.mark.parametrize(
    ("name", "more"), [("LAYOUT", (1, 0, 0)), ("_Layer", (0, 8, 0)), ("_Run", (0, 0, 8))]
)
def test_a_field_that_python_alone_has_is_refused(
    name: str,
    more: tuple[int, int, int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    not_loaded: None,
) -> None:
    message = refused((0, 0, 0), more)
    now = getattr(native, name)
    changed = {"_fields_": [("new", ctypes.c_int64)]}
    monkeypatch.setattr(native, name, now + 1 if name == "LAYOUT" else type(name, (now,), changed))
    with pytest.raises(RuntimeError, match=message):
        direct.Trainer(mbp.MLP([4, 3]), lr=0.1, batch_size=2, backend="native")
    assert direct.Trainer(mbp.MLP([4, 3]), lr=0.1, batch_size=2).backend == "torch"
    assert "training with PyTorch calls instead" in capsys.readouterr().err


CHANGES = {
    "kLayout = 2;": "kLayout = 3;",
    "int32_t sigmoid;": "int32_t sigmoid, one, more;",
    "double two_s,": "double new_field, two_s,",
}


@pytest.mark.slow
def test_fields_that_cpp_alone_has_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, not_loaded: None
) -> None:
    """All at once, for a compiler takes seconds: that each is looked at is the test above."""
    for source in library.SOURCES:
        text = (library.FOLDER / source).read_text("utf-8")
        for right, wrong in CHANGES.items() if source == "state.h" else ():
            assert text.count(right) == 1
            text = text.replace(right, wrong)
        (tmp_path / source).write_text(text, "utf-8")
    monkeypatch.setattr(library, "FOLDER", tmp_path)
    monkeypatch.setattr(library, "FLAGS", [flag for flag in library.FLAGS if flag != "-O3"])
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    with pytest.raises(RuntimeError, match=refused((1, 8, 8), (0, 0, 0))):
        native.load()
