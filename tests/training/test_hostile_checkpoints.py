"""Checkpoints that a stranger wrote: one line each, before anything is used, made or asked for."""

from __future__ import annotations

import copy
import io
import math
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from manual_bp.training import archive, checkpoint
from manual_bp.training.command import main
from manual_bp.training.errors import UserError

State = dict[str, Any]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    logdir = tmp_path_factory.mktemp("runs")
    argv = ["--dataset", "digits", "--hidden", "6", "--epochs", "2", "--engine", "direct"]
    folder = main([*argv, "--momentum", "0.5", "--logdir", str(logdir)]).folder
    assert folder is not None
    return folder


@pytest.fixture
def state(good: Path) -> State:
    found: State = torch.load(good / "checkpoint.pt", weights_only=True)
    found["metrics"] = checkpoint.Table.rows(found["metrics"])  # a list is read too
    return copy.deepcopy(found)


def refused(path: Path) -> str:
    with pytest.raises(UserError) as raised:
        checkpoint.read(path)
    line = str(raised.value)
    assert line.isprintable(), line
    assert line.startswith(f"{path}: ")
    assert len(line) < 700, line
    return line


def laughs() -> list[Any]:
    """Ten lists of ten lists of … : printed in full they would fill every disk."""
    found: list[Any] = ["ha"]
    for _ in range(60):
        found = [found] * 10
    return found


def itself() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


ODD = {
    "None": None,
    "true": True,
    "−5": -5,
    "a half": 0.5,
    "NaN": math.nan,
    "∞": math.inf,
    "2⁷⁰": 2**70,
    "10⁵⁰⁰⁰": 10**5000,
    "1e300": 1e300,
    "text": "x",
    "a flag": "0 --logdir /nowhere",
    "control": "\x1b[2J\n\x07",
    "a long text": "x" * 10_000_000,
    "a list": [],
    "a list of a flag": ["30", "--logdir", "/nowhere"],
    "laughs": laughs(),
    "itself": itself(),
    "a dict": {},
    "a tensor": torch.ones(2, 2),
    "a set": {1},
}
# What may well be there: the number of a flag that may be at its default, or any path.
FINE = {
    *(("data_dir", kind) for kind in ("None", "text", "a flag", "control")),
    *(("dataset", kind) for kind in ("text", "a flag", "control")),
    *(("data_fingerprint", kind) for kind in ("text", "a flag", "control")),
    *(("device", kind) for kind in ("text", "a flag", "control")),
    *((name, "None") for name in ("batch_size_asked", "threads_asked")),
    *((name, "true") for name in ("augment", "compile", "deterministic")),
    ("init_epsilon", "a half"),
    ("lr", "a half"),
    ("momentum", "a half"),
    ("weight_decay", "a half"),
    ("lr", "2⁷⁰"),
    ("weight_decay", "2⁷⁰"),
}


@pytest.mark.parametrize("kind", ODD)
def test_every_value_of_the_plan_is_checked(state: State, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    for name in state["plan"]:
        torch.save({**state, "plan": {**state["plan"], name: ODD[kind]}}, path)
        if (name, kind) in FINE:
            checkpoint.read(path)
        elif kind in ("a set", "10⁵⁰⁰⁰"):
            refused(path)  # before it is read, or by torch
        else:
            line = refused(path)
            assert "is that of no run" in line, (name, line)


@pytest.mark.parametrize("kind", ODD)
def test_every_other_value_is_checked(state: State, kind: str, tmp_path: Path) -> None:
    path, value = tmp_path / "checkpoint.pt", ODD[kind]
    for name in ("format", "epoch", "model", "engine", "shuffle", "metrics", "plan", "snapshots"):
        if (name, kind) not in {("engine", "a dict")}:  # the engine refuses that
            torch.save({**state, name: value}, path)
            refused(path)
    for name in ("epoch", "cost/train", "accuracy/validation", "lr", "grad_norm/total"):
        if (name, kind) not in {
            *((name, "a half") for name in ("cost/train", "accuracy/validation", "lr")),
            *(("grad_norm/total", kind) for kind in ("a half",)),
            *((name, "2⁷⁰") for name in ("cost/train", "lr", "grad_norm/total")),
        }:
            rows = [{**state["metrics"][0], name: value}, state["metrics"][1]]
            torch.save({**state, "metrics": rows}, path)
            assert "metrics" in refused(path) or kind in ("a set", "10⁵⁰⁰⁰")
    for name in state["model"]:
        torch.save({**state, "model": {**state["model"], name: value}}, path)
        refused(path)
    if kind not in ("None", "true", "−5", "a half", "2⁷⁰", "a list", "a dict", "a tensor"):
        for engine in ({"momentum": value}, {"scaler": {"scale": [value]}}):
            torch.save({**state, "engine": engine}, path)
            refused(path)


CHANGES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "float16": lambda t: t.half(),
    "float64": lambda t: t.double(),
    "int64": lambda t: t.long(),
    "complex": lambda t: t + 0j,
    "bool": lambda t: t > 0,
    "sparse": lambda t: t.to_sparse(),
    "meta": lambda t: t.to("meta"),
    "a parameter": lambda t: torch.nn.Parameter(t),
    "another shape": lambda t: t[..., :-1].clone(),
    "one dimension": lambda t: t.flatten()[None],
    "one number for all": lambda t: t.flatten()[:1].expand(t.numel()).view(t.shape).clone()[:0],
    "expanded": lambda t: torch.zeros(()).expand(t.shape),
    "NaN": lambda t: t.clone().fill_(math.nan),
    "one ∞": lambda t: torch.cat([t.flatten()[:-1], torch.tensor([math.inf])]).view(t.shape),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_every_tensor_is_checked(
    change: Callable[[torch.Tensor], torch.Tensor], state: State, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint.pt"
    for name, tensor in state["model"].items():
        torch.save({**state, "model": {**state["model"], name: change(tensor)}}, path)
        refused(path)


def test_a_network_larger_than_its_file_is_refused(state: State, tmp_path: Path) -> None:
    """A view shows four bytes as 4 TB: nothing of that size is made."""
    path = tmp_path / "checkpoint.pt"
    huge = torch.zeros(()).expand(1_000_000, 64)
    plan = {**state["plan"], "sizes": [64, 1_000_000, 10]}
    model = {**state["model"], "0.weight": huge, "0.bias": huge[:, 0], "2.weight": huge.t()[:10]}
    torch.save({**state, "plan": plan, "model": model}, path)
    assert "a view of other memory" in refused(path)


def packed(whole: bytes, method: int, extra: int = 0) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(out, "w", method) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
        if extra:
            new.writestr("archive/data/99", bytes(extra))
    return out.getvalue()


class Call:
    """A pickle that calls a function when it is read."""

    def __init__(self, function: Any, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[object, ...]]:
        return self.call


def saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


FILES: dict[str, Callable[[bytes], bytes]] = {
    "packed": lambda whole: packed(whole, zipfile.ZIP_DEFLATED),
    "packed zeros": lambda whole: packed(whole, zipfile.ZIP_DEFLATED, 50_000_000),
    "packed otherwise": lambda whole: packed(whole, zipfile.ZIP_BZIP2),
    "3 GB of nothing": lambda whole: saved({"format": 3, "x": Call(bytearray, 3 * 10**9)}),
    "a set": lambda whole: saved({"format": 3, "x": Call(set, [1])}),
    "a size": lambda whole: saved({"format": 3, "x": torch.Size([1])}),
    "a dtype": lambda whole: saved({"format": 3, "x": torch.float32}),
    "a device": lambda whole: saved({"format": 3, "x": torch.device("cuda:99")}),
    "code": lambda whole: saved({"format": 3, "x": Call(os.system, "touch trap")}),
    "code of the old kind": lambda whole: pickle.dumps(Call(os.system, "touch trap")),
    "tensors of the old kind": lambda whole: old_kind({"format": 3}),
    "an empty zip": lambda whole: b"PK\5\6" + bytes(18),
    "text": lambda whole: b"\x1b[2J not a checkpoint",
    "every second byte": lambda whole: whole[::2],
    "counted wrong": lambda whole: whole.replace(b"K\x02", b"K\x7f"),
}


def old_kind(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_bounded_before_it_is_read(
    name: str, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(FILES[name]((good / "checkpoint.pt").read_bytes()))
    refused(path)
    assert not (tmp_path / "trap").exists()


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "checkpoint.pt"
    os.mkfifo(pipe)
    assert "no file, but a pipe or a device" in refused(pipe)
    assert "no file, but a pipe or a device" in refused(Path("/dev/zero"))
    refused(tmp_path)  # a folder


@pytest.mark.parametrize("engine", [{}, {"momentum": {}}, {"momentum": {"0.weight": None}}, None])
def test_an_engine_that_does_not_fit_is_one_line(
    engine: Any, state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({**state, "engine": engine}, tmp_path / "checkpoint.pt")
    with pytest.raises(SystemExit):
        main(["--resume", str(tmp_path)])
    (line,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path) in line


@pytest.mark.parametrize("dataset", ["mnist", "fashion-mnist", "letters", "/nowhere/at/all"])
def test_a_checkpoint_makes_no_folder_and_asks_no_network(
    dataset: str,
    state: State,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("manual_bp.training.data._download", lambda *_: pytest.fail("it asked"))
    elsewhere = tmp_path / "elsewhere"
    plan = {**state["plan"], "dataset": dataset, "data_dir": str(elsewhere)}
    torch.save({**state, "plan": plan}, tmp_path / "checkpoint.pt")
    with pytest.raises(SystemExit) as stopped:
        main(["--resume", str(tmp_path)])
    assert stopped.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{tmp_path / 'checkpoint.pt'}: its data: " in line
    assert not elsewhere.exists()


def test_a_model_in_order_is_read_whatever_dict_holds_it(state: State, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save({**state, "model": OrderedDict(state["model"])}, path)
    assert checkpoint.read(path).epoch == 2


def test_text_that_looks_like_code_is_text(tmp_path: Path) -> None:
    """In a large checkpoint any bytes may follow any others."""
    torch.save({"a": "cposix\nsystem\n", "b": torch.ones(2)}, tmp_path / "a.pt")
    assert archive.load(tmp_path / "a.pt")["a"] == "cposix\nsystem\n"
