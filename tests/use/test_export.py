"""`manual-bp export` writes what was trained, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch

import manual_bp as mbp
from manual_bp.use import export, formats


def test_every_format_is_written_read_and_compared(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for form, (suffix, _) in export.FORMATS.items():
        path = tmp_path / f"network{suffix}"
        assert export.main([str(digits), "--format", form, "--out", str(path)]) == 0
        assert path.stat().st_size > 64 * 30
        assert f"{path}: " in capsys.readouterr().out
    assert len(list(tmp_path.iterdir())) == len(export.FORMATS)


def test_torch_alone_reads_the_state_dict(digits: Path, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    export.main([str(digits), "--format", "torch", "--out", str(path)])
    plain = torch.nn.Sequential(
        torch.nn.Linear(64, 30), torch.nn.Sigmoid(), torch.nn.Linear(30, 10), torch.nn.Sigmoid()
    )
    plain.load_state_dict(torch.load(path, weights_only=True))
    x = torch.rand(5, 64)
    torch.testing.assert_close(plain(x), mbp.load(digits)(x))


def test_input_and_output_are_named(digits: Path, tmp_path: Path, capsys: Any) -> None:
    export.main([str(digits), "--format", "torch", "--out", str(tmp_path / "w.pt")])
    _, x, a, _ = capsys.readouterr().out.splitlines()
    assert x == "input x (m, 64): pixels from 0 to 1, bright on dark, row by row"
    assert a == "output a (m, 10): 0, 1, 2, 3, 4, 5, 6, 7, 8, 9"


def test_onnxruntime_runs_any_batch(digits: Path, tmp_path: Path) -> None:
    path = tmp_path / "network.onnx"
    export.main([str(digits), "--out", str(path)])
    session = onnxruntime.InferenceSession(path)
    for m in (1, 7):
        x = torch.rand(m, 64)
        (a,) = session.run(["a"], {"x": x.numpy()})
        torch.testing.assert_close(torch.from_numpy(a), mbp.load(digits)(x).detach())


def test_a_file_that_computes_something_else_is_not_left(
    digits: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def broken(model: torch.nn.Module, _: torch.Tensor, path: Path) -> None:
        torch.save({name: 2 * value for name, value in model.state_dict().items()}, path)

    monkeypatch.setitem(formats._WAYS, "torch", (broken, formats._read_torch))
    out = tmp_path / "weights.pt"
    assert export.main([str(digits), "--format", "torch", "--out", str(out)]) == 1
    assert "not written: read again, the activations differ by 0." in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_bad_use_is_one_line(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = tmp_path / "there.pt"
    there.write_text("mine")
    cases = {
        ("nowhere", "--logdir", str(tmp_path)): "there is no such run",
        (str(digits), "--format", "torch", "--out", str(there)): "exists already",
        (str(digits), "--format", "torch", "--out", str(tmp_path / "no" / "a.pt")): "cannot be",
    }
    for argv, expected in cases.items():
        assert export.main(list(argv)) == 1
        assert expected in (said := capsys.readouterr().err), said
        assert said.count("\n") == 1
    assert there.read_text() == "mine"
