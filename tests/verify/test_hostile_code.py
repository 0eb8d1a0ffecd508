"""Code that ends or silences the process: a verdict or one line, never status 0 alone."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import manual_bp as mbp
from manual_bp.verify.__main__ import main
from manual_bp.verify.inputs import parse_inputs

FUNCTION = """
import torch

class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        {forward}
        return x * 2

    @staticmethod
    def backward(ctx, g):
        {backward}
        return g * 2
"""


def source(folder: Path, top: str = "", forward: str = "pass", backward: str = "pass") -> str:
    path = folder / "theirs.py"
    path.write_text(f"{top}\n" + FUNCTION.format(forward=forward, backward=backward))
    return f"{path}:Double"


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(mbp.__file__).parents[1])}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, as its guard needs it."""
    command = [sys.executable, "-m", "manual_bp.verify", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment())


# What is imported, and what the one line says.
IMPORTED = {
    "sys.exit(0)": ("import sys; sys.exit(0)", "importing it raises SystemExit: 0"),
    "a text as exit": ("raise SystemExit('done')", "SystemExit: done"),
    "GeneratorExit": ("raise GeneratorExit", "GeneratorExit"),
    "a class of its own": ("class Stop(BaseException): pass\nraise Stop('x')", "Stop: x"),
    "a message that raises": (
        "class Odd(Exception):\n    def __str__(self): return 1 / 0\nraise Odd",
        "importing it raises Odd",
    ),
    "no end": ("def again(): again()\nagain()", "RecursionError"),
    "a coloured message": (r"raise ValueError('\x1b[31mred')", r"\x1b[31mred"),
}


@pytest.mark.parametrize("name", IMPORTED)
def test_what_a_module_raises_when_imported_is_one_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    top, words = IMPORTED[name]
    assert main([source(tmp_path, top), "--inputs", "randn(2)"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert words in err
    assert "\x1b" not in err


# How the checked code ends the process, and what is said of that.
ENDED = {
    "os._exit(0)": "ends with exit status 0 in: the first half",
    "os._exit(3)": "ends with exit status 3 in: the first half",
    "sys.exit(0)": "ends with exit status 0 in: the first half",
    "sys.exit('a text')": "ends with exit status 1 in: the first half",
    "exec('raise GeneratorExit')": "ends with exit status 2 in: the first half",
    "os.kill(os.getpid(), signal.SIGTERM)": "is ended by SIGTERM in: the first half",
    "os.kill(os.getpid(), 40)": "is ended by signal 40 in: the first half",
    "os.abort()": "is ended by SIGABRT in: the first half",
}
GUARD = """
import os, signal, sys, time
from manual_bp import console
from manual_bp.verify.guard import guarded

def work(tell):
    tell("so far", "the first half")
    {}
    return 7

def crashed(report, how):
    print(report, how, sep=": ")
    return 1

sys.exit(console.run(lambda: guarded(work, crashed, "check"), "check"))
"""


def guard(code: str) -> list[str]:
    """The guard around `code`, without torch, whose import would take seconds."""
    return [sys.executable, "-c", GUARD.format(code)]


@pytest.mark.parametrize("code", ENDED)
def test_code_that_ends_the_process_is_said(code: str) -> None:
    done = subprocess.run(guard(code), capture_output=True, text=True, env=environment())
    assert (done.returncode, done.stdout, done.stderr) == (1, f"so far: {ENDED[code]}\n", "")


def test_the_status_of_work_that_was_done_is_kept() -> None:
    done = subprocess.run(guard("pass"), capture_output=True, text=True, env=environment())
    assert (done.returncode, done.stdout, done.stderr) == (7, "", "")


@pytest.mark.slow
def test_code_that_ends_the_process_is_a_finding(tmp_path: Path) -> None:
    function = source(tmp_path, backward="__import__('os')._exit(0)")
    done = run(function, "--inputs", "randn(2)", "--json")
    assert (done.returncode, done.stderr) == (1, "")
    told = json.loads(done.stdout)
    assert told["ok"] is False
    assert told["findings"][0]["kind"] == "crash"
    assert "ends with exit status 0 in: " in told["findings"][0]["detail"]


def test_where_nothing_is_forked_an_exit_is_a_finding_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    function = source(tmp_path, forward="__import__('sys').exit(0)")
    assert main([function, "--inputs", "randn(2)"]) == 1
    assert "it ends with exit status 0 in: " in capsys.readouterr().out


@pytest.mark.slow
def test_json_stands_alone_on_stdout(tmp_path: Path) -> None:
    """Whoever prints: Python, the file itself, another process, and code that runs at the end."""
    top = "import atexit, os; os.system('echo noise'); atexit.register(print, 'noise')"
    parts = {"forward": "print('noise')", "backward": "__import__('os').write(1, b'noise')"}
    done = run(source(tmp_path, top, **parts), "--inputs", "randn(2)", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["ok"] is True


@pytest.mark.slow
def test_a_watched_programs_json_stands_alone_too(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("import os\nprint('noise')\nos.system('echo noise')\n")
    done = run("--json", "--watch", str(program))
    assert json.loads(done.stdout) == {"ok": True, "lines": []}
    assert done.stderr.count("noise") == 2


@pytest.mark.parametrize("name", ["no_such_module_x", "no_such.module", "json.nothing", ".", ""])
def test_a_program_that_is_not_there_is_one_line(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--watch", "-m", name]) == 3
    err = capsys.readouterr().err
    assert err == f"the program itself is not there: no module is named {name}\n"


@pytest.mark.slow
def test_code_that_takes_stdout_away_is_checked_all_the_same(tmp_path: Path) -> None:
    top = "import sys; sys.stdout.close(); sys.stdout = None"
    done = run(source(tmp_path, top), "--inputs", "randn(2)")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Double: ok" in done.stdout


TOO_MUCH = [
    "randn(99999999999)",
    "zeros(99999999999,99999999999)",
    f"ones({10**40})",
    "arange(999999999999)",
    f"randint({2**64},2)",
    f"randn({'9' * 5000})",
    f"rand({','.join(['1'] * 70)})",
    "randn(0,-1)",
]


@pytest.mark.parametrize("text", TOO_MUCH, ids=lambda text: text[:30])
def test_inputs_that_nobody_can_check_are_one_line(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([source(tmp_path), "--inputs", text]) == 2
    err = capsys.readouterr().err
    assert err.startswith("python -m manual_bp.verify: --inputs: ")
    assert err.count("\n") == 1
    assert len(err) < 300


def test_the_largest_high_and_no_element_are_inputs(tmp_path: Path) -> None:
    values = parse_inputs(f"randint({2**63 - 1},2) randn(0,3)", torch.float32, 0)
    assert [tuple(value.shape) for value in values] == [(2,), (0, 3)]


@contextlib.contextmanager
def waiting(folder: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Code under guard that does not end: the command, and the process that the code runs in."""
    begun = folder / "begun"
    os.mkfifo(begun)
    code = f"open({str(begun)!r}, 'w').write(str(os.getpid())); time.sleep(10_000)"
    process = subprocess.Popen(
        guard(code),
        env=environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield process, int(begun.read_text())
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.parametrize("to_all", [True, False])
def test_ctrl_c_is_one_line(to_all: bool, tmp_path: Path) -> None:
    with waiting(tmp_path) as (process, _):
        (os.killpg if to_all else os.kill)(process.pid, signal.SIGINT)
        out, err = process.communicate()
    assert (process.returncode, out, err) == (130, "", "check: interrupted\n")


def test_sigterm_leaves_no_process_behind(tmp_path: Path) -> None:
    with waiting(tmp_path) as (process, child):
        process.terminate()
        out, err = process.communicate()
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)
    assert (process.returncode, out, err) == (143, "", "")
