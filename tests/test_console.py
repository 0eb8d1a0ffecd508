"""Every command at a terminal that is closed, full, gone, or writes ASCII: one line at most."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from manual_bp.__main__ import COMMANDS

ROOT = Path(__file__).parents[1]
# What needs no torch, so that a case takes a tenth of a second.
OUTPUTS = {
    "a command's help": [sys.executable, "-m", "manual_bp", "trace", "--help"],
    "the package's help": [sys.executable, "-m", "manual_bp"],
    "the version": [sys.executable, "-m", "manual_bp", "--version"],
    "the checker's kinds": [sys.executable, "-m", "manual_bp.verify", "--kinds"],
    "the flags of train.py": [sys.executable, "train.py", "--help"],
    "more than a pipe holds": [
        sys.executable,
        "-c",
        "import sys; from manual_bp import console\n"
        "sys.exit(console.run(lambda: print('σδ⊙█' * 100_000) or 0, 'long'))",
    ],
}


def shell(output: str, way: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command of OUTPUTS with `way` behind, as a person types it."""
    given = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        ["bash", "-c", f'set -o pipefail; "$@" {way}', "bash", *OUTPUTS[output]],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=given,
    )


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize(
    ("way", "statuses", "words"),
    [
        (">&-", {0}, ""),
        ("<&- >&- 2>&-", {0}, ""),
        (">/dev/full", {1}, "error: No space left on device"),
        (">/dev/full 2>/dev/full", {1, 120}, ""),
        ("| true", {0, 141}, ""),  # 0 where the pipe held it all
    ],
)
def test_output_that_nobody_gets(output: str, way: str, statuses: set[int], words: str) -> None:
    done = shell(output, way)
    if "/dev/full" in way and "--help" in OUTPUTS[output] and done.returncode == 0:
        words = ""  # argparse keeps what goes wrong with its help to itself
    else:
        assert done.returncode in statuses
    assert words in done.stderr
    assert done.stderr.count("\n") == bool(words)


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_an_alphabet_without_greek_is_left(output: str, encoding: str) -> None:
    expected = shell(output, "", PYTHONIOENCODING="utf-8").stdout
    done = shell(output, "", PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stdout, done.stderr) == (0, expected, "")


def test_ctrl_c_is_one_line() -> None:
    code = "from manual_bp import console\ndef work(): raise KeyboardInterrupt\n"
    code += "raise SystemExit(console.run(work, 'some command'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "some command: interrupted\n")


def test_a_file_opened_while_stdout_is_closed_does_not_become_stdout(tmp_path: Path) -> None:
    code = "import os\nfrom manual_bp import console\ndef work():\n"
    code += f"    file = open({str(tmp_path / 'file')!r}, 'w')\n    os.write(1, b'noise')\n"
    code += "    return 0\nraise SystemExit(console.run(work, 'some command'))"
    command = ["bash", "-c", '"$@" >&-', "bash", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "file").read_text() == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_meets_its_terminal_the_same_way(command: str) -> None:
    spec = find_spec(f"manual_bp.{COMMANDS[command][0]}")
    assert spec is not None
    assert spec.origin is not None
    path = ROOT / "train.py" if command == "train" else Path(spec.origin)
    *_, last = path.read_text().split('if __name__ == "__main__":')
    assert "sys.exit(console.run(" in last
