"""Files and terminals: umask, folders that change under way, killed runs, odd names, clocks."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from manual_bp.escape import escaped
from manual_bp.training import run_folder
from manual_bp.training.command import main
from manual_bp.training.errors import UserError
from manual_bp.training.pictures import figure, png
from manual_bp.training.result import Result
from manual_bp.training.run_folder import RunFolder

Train = Callable[..., Result]
UNIX = pytest.mark.skipif(run_folder.fcntl is None, reason="modes and locks of Unix")


def make(logdir: Path, name: str = "run") -> RunFolder:
    return RunFolder.create(logdir, name, "default", {"a": 1}, {"b": 2})


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


@UNIX
@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022, 0o027, 0o077, 0o007])
def test_umask_is_kept(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        folder = make(tmp_path / "runs")
        folder.write_metrics([{"epoch": 1}])
        folder.write_summary(b"png")
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o777 & ~umask
    for path in folder.path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask, path


def moved_and_made_again(path: Path) -> None:
    path.rename(path.with_name("moved"))
    path.mkdir()


def another_run(path: Path) -> None:
    moved_and_made_again(path)
    (path / "checkpoint.pt").write_bytes(b"another's")


def a_link_elsewhere(path: Path) -> None:
    path.rename(path.with_name("moved"))
    path.with_name("elsewhere").mkdir()
    path.symlink_to(path.with_name("elsewhere"))


def gone(path: Path) -> None:
    shutil.rmtree(path)


def a_file(path: Path) -> None:
    shutil.rmtree(path)
    path.write_bytes(b"a file")


@pytest.mark.parametrize(
    "change", [moved_and_made_again, another_run, a_link_elsewhere, gone, a_file]
)
def test_a_folder_that_was_replaced_is_not_written_into(
    change: Callable[[Path], None], tmp_path: Path
) -> None:
    folder = make(tmp_path / "runs")
    folder.take()
    try:
        change(folder.path)
        before = {p: p.read_bytes() for p in (tmp_path / "runs").rglob("*") if p.is_file()}
        for write in (
            lambda: folder.write_checkpoint({"b": 3}),
            lambda: folder.write_metrics([{"epoch": 1}]),
            lambda: folder.write_summary(b"png"),
        ):
            with pytest.raises(UserError, match=r"is gone|is another folder"):
                write()
        assert before == {p: p.read_bytes() for p in (tmp_path / "runs").rglob("*") if p.is_file()}
    finally:
        folder.release()


@UNIX
def test_what_killed_processes_left_is_cleared_and_what_is_being_made_is_not(
    tmp_path: Path,
) -> None:
    (tmp_path / ".new-dead").mkdir()
    (tmp_path / ".new-dead" / "config.json").write_text("{}")
    (tmp_path / ".new-file").write_text("no folder")
    (tmp_path / ".mine").mkdir()
    living = run_folder._make_alone(tmp_path / ".new-living")
    assert living is not None
    try:
        make(tmp_path)
        assert hidden(tmp_path) == [".mine", ".new-file", ".new-living"]
    finally:
        os.close(living)
    make(tmp_path, "another")
    assert hidden(tmp_path) == [".mine", ".new-file"]


@UNIX
def test_a_run_killed_while_it_makes_its_folder_leaves_nothing_for_ever(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from manual_bp.training import run_folder\n"
        "run_folder.RunFolder.write_checkpoint = lambda *_: os.kill(os.getpid(), 9)\n"
        "run_folder.RunFolder.create(Path(sys.argv[1]), 'run', 'run', {}, {})"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert killed.returncode == -9
    assert len(hidden(tmp_path)) == 1
    make(tmp_path)
    assert hidden(tmp_path) == []


def test_data_that_may_not_be_read_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = tmp_path / "secret\x1b[2J"

    def load(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(secret))

    monkeypatch.setattr("manual_bp.training.data.load", load)
    with pytest.raises(SystemExit):
        main(["--dataset", "mnist", "--logdir", str(tmp_path)])
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{tmp_path}/secret\\x1b[2J: Permission denied: nothing was saved" in line


def test_a_clock_that_was_set_back_changes_nothing(train: Train) -> None:
    folder = train("--epochs", "1").folder
    assert folder is not None
    tomorrow = (folder / "config.json").stat().st_mtime + 86_400
    for path in [*folder.iterdir(), folder]:
        os.utime(path, (tomorrow, tomorrow))
        if path.name.startswith("events.out.tfevents."):
            parts = path.name.split(".")
            parts[3] = str(int(parts[3]) + 86_400)
            path.rename(path.with_name(".".join(parts)))
    found = train("--resume", str(folder), "--epochs", "2")
    assert [row["epoch"] for row in found.metrics] == [1, 2, 2]


BACKENDS = ["nonsense", "", "module://nowhere.at.all", "TkAgg", "\x1b"]


@UNIX
@pytest.mark.slow
def test_any_backend_of_matplotlib_will_do() -> None:
    """Each in a process that has not imported matplotlib: torch, which takes longer, it has."""
    program = (
        "import ast, os, sys; from manual_bp.training.pictures import figure, png\n"
        "for backend in ast.literal_eval(sys.argv[1]):\n"
        "    if os.fork() == 0:\n"
        "        os.environ['MPLBACKEND'] = backend\n"
        "        assert png(figure(1, 1))\n"
        "        print(ascii(os.environ.get('MPLBACKEND', '')))\n"
        "        sys.exit()\n"
        "    assert os.wait()[1] == 0, backend"
    )
    # numpy's threads, which do nothing here, would make a newer Python warn of the fork
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program, repr(BACKENDS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    expected = "".join(f"{backend!a}\n" for backend in BACKENDS)
    assert (done.returncode, done.stdout, done.stderr) == (0, expected, "")


NAMES = [
    "$^",
    "a$b$",
    "$\\frac{$",
    "漢字 العربية",
    "🎉",
    "x\x1b[2Jy",
    "bell\x07",
    "\u202eabc",
    "_^{",
]


@pytest.mark.usefixtures("drawn_pictures")
@pytest.mark.parametrize("name", NAMES)
def test_a_title_is_drawn_as_it_is(name: str) -> None:
    from manual_bp.training.pictures import verdict

    rows = [{"epoch": 1, "accuracy/train": 0.5, "accuracy/validation": 0.5}, {"epoch": 1}]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert verdict(rows, f"{name}\n{name}", [name]).size == (320, 210)
        assert png(figure(1, 1))


@pytest.mark.slow
@pytest.mark.usefixtures("drawn_pictures")
@pytest.mark.parametrize(
    "name",
    ["$^", "x\x1b[2Jy\x07", "a`b|c<b>*_"]
    + [pytest.param(name, marks=pytest.mark.soak) for name in ("漢字", "\u202eabc")],
)
def test_a_run_of_any_name_ends_well(
    name: str, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    result = train("--epochs", "1", "--hidden", "5", "--run-name", name)
    assert result.folder is not None
    assert result.folder.name == name
    with pytest.raises(SystemExit):
        train("--epochs", "1", "--hidden", "5", "--run-name", name)
    with pytest.raises(SystemExit):
        train("--resume", name + "\x1b[2J\nfalse: line")
    out, err = capsys.readouterr()
    for line in [*out.splitlines(), *err.splitlines()]:
        assert line.isprintable(), line
    assert len(err.splitlines()) == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("η → 漢字", "η → 漢字"),
        ("a\nb\r\t", "a\\nb\\r\\t"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x7f\x9b31m", "\\x7f\\x9b31m"),
        ("\u202e\u2066\u200b", "\\u202e\\u2066\\u200b"),
        ("\u2028", "\\u2028"),
        ("\udcff", "\\udcff"),
        ("\U000e0001", "\\U000e0001"),
        (Path("a\x1bb"), "a\\x1bb"),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(text: object, expected: str) -> None:
    assert escaped(text) == expected
    assert UserError(str(text)).args == (expected,)
