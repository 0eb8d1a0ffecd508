"""Two hundred malformed command lines, data files and checkpoints: one line each, no traceback,
nothing overwritten.
"""

from __future__ import annotations

import dataclasses
import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from manual_bp.training import data
from manual_bp.training.command import main
from manual_bp.training.plan import Plan
from tests.training import idx

MINIMAL = ["--dataset", "digits", "--epochs", "1"]


def refused(argv: list[str], capsys: pytest.CaptureFixture[str], *, status: int) -> str:
    """Run the command, which must fail with `status` and one line; that line."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    err = capsys.readouterr().err
    assert stopped.value.code == status, err
    assert err.startswith("train.py: error: "), err
    assert err.endswith("\n"), err
    assert err.count("\n") == 1, err
    assert "Traceback" not in err
    return err


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- command lines
# -------------------------------------------------------------------------------------------------

NOT_A_NUMBER = ["", "x", "1e", "--", "nan", "0x10", "½", "1,5", "ten"]
COMMAND_LINES: list[list[str]] = [
    *(
        [flag, value]
        for flag in ("--epochs", "--seed", "--threads")
        for value in [*NOT_A_NUMBER, "-1", "1.5", "inf"]
    ),
    *(
        [flag, value]
        for flag in ("--lr", "--momentum", "--weight-decay")
        for value in [*NOT_A_NUMBER, "-0.1", "inf"]
    ),
    *(["--batch-size", value] for value in [*NOT_A_NUMBER, "0", "-3", "1.5", "Full", "all"]),
    *(["--hidden", value] for value in ["0", "-5", "1.5", "x", "", "30,30"]),
    ["--hidden", "30", "0"],
    ["--hidden", "99999999999999999999"],
    ["--init-epsilon", "1e300"],
    ["--device", "cuda:99999999999999999999"],
    ["--lr", "0"],
    ["--momentum", "1"],
    ["--threads", "0"],
    ["--seed", str(2**63)],
    ["--histograms", "-1"],
    ["--init-epsilon", "0"],
    ["--init-epsilon", "-1"],
    *(
        [flag, "nonsense"]
        for flag in ("--dataset", "--output", "--init", "--cost", "--lr-schedule", "--impl")
    ),
    *([flag, "nonsense"] for flag in ("--engine", "--device", "--dtype", "--amp")),
    ["--cost", "none"],
    ["--device", "cuda:"],
    ["--device", "cuda:x"],
    ["--device", "cuda:-1"],
    ["--device", ""],
    *(
        ["--run-name", name]
        for name in ("", ".", "..", ".hidden", "a/b", "/abs", "a\nb", "x" * 201, "a\\b", "a\0b")
    ),
    ["--epoch", "1"],  # no abbreviations
    ["--unknown"],
    ["stray"],
    ["--epochs"],
    ["--resume"],
    ["--augment", "yes"],
]


@pytest.mark.parametrize(
    "flags", COMMAND_LINES, ids=lambda flags: " ".join(flags)[:40].encode("unicode_escape").decode()
)
def test_wrong_usage(flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused([*MINIMAL, "--logdir", str(tmp_path / "runs"), *flags], capsys, status=2)
    assert "see python train.py --help" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "flags", [["--impl", "builtin"], ["--amp", "bf16"], ["--compile"]], ids=" ".join
)
def test_flags_that_contradict_each_other(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(
        [*MINIMAL, "--logdir", str(tmp_path / "runs"), "--engine", "direct", *flags],
        capsys,
        status=2,
    )
    assert f"--engine direct does not go with {' '.join(flags)}: use --engine autograd" in line
    assert list(tmp_path.iterdir()) == []


CONTRADICTIONS = [
    (["--resume", "nowhere"], "nowhere: there is no such run; no runs in runs: train one first"),
    (["--resume", "latest"], "latest: there is no such run; no runs in runs: train one first"),
    (["--resume", ""], "checkpoint"),
    (["--logdir", "/dev/null"], "is not a folder"),
    (["--logdir", "/dev/null/runs"], "is not a folder"),
    (["--logdir", "/proc/runs"], "no run can be made in '/proc/runs'"),
    (["--logdir", "runs\0"], "no run can be made"),
]
if not torch.cuda.is_available():
    CONTRADICTIONS += [
        (["--device", "cuda"], "0 usable CUDA"),
        (["--device", "cuda:3"], "0 usable CUDA"),
    ]
if not torch.backends.mps.is_available():
    CONTRADICTIONS += [(["--device", "mps"], "no usable Apple GPU")]


@pytest.mark.parametrize(("flags", "words"), CONTRADICTIONS, ids=lambda value: str(value)[:40])
def test_what_cannot_be_done(
    flags: list[str],
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert words in refused([*MINIMAL, "--logdir", "runs", *flags], capsys, status=1)
    assert contents(tmp_path) == {}


# --- data files
# -------------------------------------------------------------------------------------------------

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda whole: b"",
    "one byte": lambda whole: whole[:1],
    "half a header": lambda whole: whole[:6],
    "truncated": lambda whole: whole[: len(whole) // 2],
    "a byte short": lambda whole: whole[:-1],
    "a byte long": lambda whole: whole + b"\0",
    "gzip magic": lambda whole: b"\x1f\x8b" + whole[2:],
    "a web page": lambda whole: b"<!doctype html><title>404</title>" + whole[33:],
    "other count": lambda whole: whole[:4] + b"\0\0\0\1" + whole[8:],
}


@pytest.fixture
def linked(made_up_mnist: Path, tmp_path: Path) -> Path:
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in idx.FILES:
        os.link(made_up_mnist / "MNIST" / "raw" / name, raw / name)
    return raw


@pytest.mark.parametrize("name", idx.FILES)
@pytest.mark.parametrize("damage", [*DAMAGES, "a folder", "missing"])
def test_damaged_data(
    linked: Path,
    name: str,
    damage: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(data, "_download", _no_network)
    path = linked / name
    whole = path.read_bytes()
    path.unlink()  # a link to the file that all tests share
    if damage == "a folder":
        path.mkdir()
    elif damage != "missing":
        path.write_bytes(DAMAGES[damage](whole))
    seen = path.read_bytes() if path.is_file() else None
    argv = [
        "--dataset",
        "mnist",
        "--data-dir",
        str(linked.parent.parent),
        "--logdir",
        str(linked / "runs"),
    ]
    line = refused(argv, capsys, status=1)
    assert name in line
    assert (path.read_bytes() if path.is_file() else None) == seen
    assert not (linked / "runs").exists()


def _no_network(name: str, root: Path) -> None:
    from manual_bp.training.errors import UserError

    raise UserError("the download failed (no network)")


# --- checkpoints
# -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder; not to be changed."""
    logdir = tmp_path_factory.mktemp("runs")
    folder = main(
        [
            *MINIMAL,
            "--engine",
            "direct",
            "--momentum",
            "0.5",
            "--run-name",
            "good",
            "--logdir",
            str(logdir),
        ]
    ).folder
    assert folder is not None
    return folder


class Harmful:
    """What a hostile pickle holds: a call, made while it is read."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path(self.path),)


def _saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _with(state: dict[str, Any], **changes: Any) -> bytes:
    return _saved({**state, **changes})


def _without(state: dict[str, Any], name: str) -> bytes:
    return _saved({key: value for key, value in state.items() if key != name})


def _plan(state: dict[str, Any], **changes: Any) -> bytes:
    return _with(state, plan={**state["plan"], **changes})


def _plan_without(state: dict[str, Any], name: str) -> bytes:
    return _with(state, plan={key: value for key, value in state["plan"].items() if key != name})


def _foreign_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("hello.txt", "hello")
    return buffer.getvalue()


ENTRIES = ["epoch", "model", "engine", "shuffle", "metrics", "plan"]
PLAN = [field.name for field in dataclasses.fields(Plan)]
CHECKPOINTS: dict[str, Callable[[bytes, dict[str, Any], str], bytes]] = {
    "empty": lambda whole, state, trap: b"",
    "one byte": lambda whole, state, trap: whole[:1],
    **{
        f"cut at {part} %": lambda whole, state, trap, part=part: whole[: len(whole) * part // 100]
        for part in (5, 50, 99)
    },
    "last byte missing": lambda whole, state, trap: whole[:-1],
    "text": lambda whole, state, trap: b"not a checkpoint\n",
    "zeros": lambda whole, state, trap: bytes(1000),
    "directory of a zip damaged": lambda whole, state, trap: whole[:-30] + bytes(30),
    "foreign zip": lambda whole, state, trap: _foreign_zip(),
    "hostile pickle": lambda whole, state, trap: pickle.dumps(Harmful(trap)),
    "hostile torch file": lambda whole, state, trap: _saved(Harmful(trap)),
    "hostile entry": lambda whole, state, trap: _with(state, engine=Harmful(trap)),
    "a whole module": lambda whole, state, trap: _saved(torch.nn.Linear(2, 2)),
    "a tensor": lambda whole, state, trap: _saved(torch.ones(3)),
    "a list": lambda whole, state, trap: _saved([1, 2]),
    "another program's": lambda whole, state, trap: _saved({"state_dict": {}, "epoch": 3}),
    "bare state dict": lambda whole, state, trap: _saved(state["model"]),
    "format 2": lambda whole, state, trap: _with(state, format=2),
    "older format": lambda whole, state, trap: _with(state, format=0),
    "newer format": lambda whole, state, trap: _with(state, format=99),
    "format of another type": lambda whole, state, trap: _with(state, format="one"),
    **{
        f"without {name}": lambda whole, state, trap, name=name: _without(state, name)
        for name in ENTRIES
    },
    **{
        f"{name} of another type": lambda whole, state, trap, name=name: _with(state, **{name: 1.5})
        for name in ENTRIES
    },
    **{
        f"plan without {name}": lambda whole, state, trap, name=name: _plan_without(state, name)
        for name in PLAN
    },
    **{
        f"{name} in the plan of another type": lambda whole, state, trap, name=name: _plan(
            state, **{name: ["x"]}
        )
        for name in PLAN
    },
    "a batch of no examples": lambda whole, state, trap: _plan(state, batch_size=0),
    "no steps": lambda whole, state, trap: _plan(state, steps=-1),
    "a rate of NaN": lambda whole, state, trap: _plan(state, lr=float("nan")),
    "a negative rate": lambda whole, state, trap: _plan(state, lr=-1.0),
    "a rate of text": lambda whole, state, trap: _plan(state, lr="0.5"),
    "a layer of no units": lambda whole, state, trap: _plan(state, sizes=[64, 0, 10]),
    "a true size": lambda whole, state, trap: _plan(state, sizes=[64, True, 10]),
    "no rate": lambda whole, state, trap: _plan(state, lr=None),
    "no number of epochs": lambda whole, state, trap: _plan(state, epochs=None),
    "other data": lambda whole, state, trap: _plan(state, data_fingerprint="0" * 64),
    "other architecture": lambda whole, state, trap: _with(
        state, model={"0.weight": torch.ones(3, 3)}
    ),
    "empty model": lambda whole, state, trap: _with(state, model={}),
    "model of numbers": lambda whole, state, trap: _with(
        state, model=dict.fromkeys(state["model"], 1.0)
    ),
    "empty engine": lambda whole, state, trap: _with(state, engine={}),
    "engine of another kind": lambda whole, state, trap: _with(
        state, engine={"momentum": {"x": torch.ones(1)}}
    ),
    "momentum of another shape": lambda whole, state, trap: _with(
        state, engine={"momentum": {name: torch.ones(7) for name in state["engine"]["momentum"]}}
    ),
    "another engine": lambda whole, state, trap: _plan(state, engine="autograd"),
    "shuffle too short": lambda whole, state, trap: _with(
        state, shuffle=torch.zeros(3, dtype=torch.uint8)
    ),
    "shuffle of floats": lambda whole, state, trap: _with(state, shuffle=torch.zeros(5056)),
    "negative epoch": lambda whole, state, trap: _with(state, epoch=-1),
    "epoch without its metrics": lambda whole, state, trap: _with(state, epoch=40),
    "metrics of numbers": lambda whole, state, trap: _with(state, metrics=[1]),
    "metrics without figures": lambda whole, state, trap: _with(state, metrics=[{"epoch": 1}]),
    "no plan": lambda whole, state, trap: _with(state, plan={}),
    "a flag too many": lambda whole, state, trap: _plan(state, surprise=1),
    "sizes a number": lambda whole, state, trap: _plan(state, sizes=30),
    "sizes of text": lambda whole, state, trap: _plan(state, sizes=["x", "y"]),
    "unknown data set": lambda whole, state, trap: _plan(state, dataset="letters"),
    "lr of text": lambda whole, state, trap: _plan(state, lr="fast"),
    "unknown cost": lambda whole, state, trap: _plan(state, cost="hinge"),
    "unknown init": lambda whole, state, trap: _plan(state, init="magic"),
    "unknown dtype": lambda whole, state, trap: _plan(state, dtype="float7"),
    "batch size of text": lambda whole, state, trap: _plan(state, batch_size="some"),
}


@pytest.mark.parametrize("damage", CHECKPOINTS)
def test_damaged_checkpoints(
    damage: str, good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (good / "checkpoint.pt").read_bytes()
    folder, trap = tmp_path / "run", tmp_path / "trap"
    folder.mkdir()
    (folder / "checkpoint.pt").write_bytes(CHECKPOINTS[damage](whole, _state(good), str(trap)))
    (folder / "metrics.jsonl").write_bytes(b"earlier\n")
    before = contents(tmp_path)
    line = refused(["--resume", str(folder)], capsys, status=1)
    assert str(folder) in line
    assert not trap.exists(), "code in the checkpoint was run"
    assert contents(tmp_path) == before


def test_both_architectures_are_named(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(["--resume", str(good), "--hidden", "64", "32"], capsys, status=1)
    assert "--hidden 128" in line
    assert "--hidden 64 32" in line


@pytest.mark.parametrize(
    "flags", [["--lr", "1"], ["--cost", "mean"], ["--seed", "3"], ["--engine", "autograd"]]
)
def test_a_resumed_run_keeps_its_flags(
    flags: list[str], good: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(good)
    assert f"{flags[0]} {flags[1]}: leave {flags[0]} out" in refused(
        ["--resume", str(good), *flags], capsys, status=1
    )
    assert contents(good) == before


def _state(good: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(good / "checkpoint.pt", weights_only=True)
    return state


# --- trouble while a run is under way
# ------------------------------------------------------------------------------


@pytest.fixture
def after_epoch(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[Path], None]], None]:
    """Do something to the run folder once the epoch of that number has been computed and before it
    is saved.
    """
    from manual_bp.training.run import Run

    real = Run._epoch

    def arrange(number: int, action: Callable[[Path], None]) -> None:
        def epoch(self: Run, which: int) -> dict[str, Any]:
            row = real(self, which)
            if which == number:
                assert self.folder is not None
                action(self.folder.path)
            return row

        monkeypatch.setattr(Run, "_epoch", epoch)

    return arrange


def test_a_full_disk_leaves_the_earlier_files_intact(
    tmp_path: Path,
    after_epoch: Any,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fill(folder: Path) -> None:
        seen.update(contents(folder))

        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)

    seen: dict[str, bytes] = {}
    after_epoch(2, fill)
    argv = ["--dataset", "digits", "--epochs", "3", "--logdir", str(tmp_path), "--run-name", "full"]
    line = refused(argv, capsys, status=1)
    assert "No space left on device" in line
    after = contents(tmp_path / "full")
    for name in ("config.json", "checkpoint.pt"):
        assert after[str(tmp_path / "full" / name)] == seen[str(tmp_path / "full" / name)]
    # metrics.jsonl needs no fsync, because the checkpoint holds its rows: it may have the new row,
    # and has the earlier
    metrics = str(tmp_path / "full" / "metrics.jsonl")
    assert after[metrics].startswith(seen[metrics])
    assert len(seen[metrics]) > 0
    assert not [name for name in after if Path(name).name.startswith(".")], (
        "a half-written file was left"
    )


def test_a_run_folder_deleted_under_way_is_said_to_be(
    tmp_path: Path, after_epoch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    after_epoch(2, lambda folder: folder.rename(folder.with_name("moved")))
    argv = ["--dataset", "digits", "--epochs", "3", "--logdir", str(tmp_path), "--run-name", "gone"]
    assert "is gone" in refused(argv, capsys, status=1)
    assert (tmp_path / "moved" / "checkpoint.pt").exists()


def test_there_are_two_hundred_of_them() -> None:
    damaged = len(idx.FILES) * (len(DAMAGES) + 2)
    assert len(COMMAND_LINES) + len(CONTRADICTIONS) + damaged + len(CHECKPOINTS) >= 200
