"""The C++ loop under the sanitizers: nothing outside its arrays, nothing undefined, no race.

random_training.cpp trains small random networks without Python, each with 1 and with more threads.
The planted faults show that every kind of fault would be seen.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from manual_bp.direct import library

DRIVER = Path(__file__).with_name("random_training.cpp")
FLAGS = ("-std=c++17", "-O0", "-g1", "-pthread")  # -O3 would take four times as long to compile
ADDRESS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
THREAD = ("-fsanitize=thread",)


def compiled(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*library.find_compiler(), *FLAGS, *arguments, "-o", str(program)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def executed(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TSAN_OPTIONS": "halt_on_error=1"}
    return subprocess.run(
        [program, *arguments], capture_output=True, text=True, check=False, env=environment
    )


def need(options: tuple[str, ...], folder: Path) -> None:
    """Skip the test where a program of one line cannot be built with `options`, or does not run."""
    source = folder / "empty.cpp"
    source.write_text("int main() {}\n")
    try:
        built = compiled(folder / "empty", *options, str(source))
    except library.NativeUnavailableError as error:
        pytest.skip(str(error))
    done = executed(folder / "empty") if built.returncode == 0 else built
    if done.returncode != 0:
        why = (done.stderr.strip().splitlines() or ["no message"])[0]
        pytest.skip(f"the compiler has no {' '.join(options)}: {why}")


def trained(
    folder: Path, options: tuple[str, ...], count: int, sources: Path = library.FOLDER
) -> subprocess.CompletedProcess[str]:
    """So many random networks, in both precisions, trained by the C++ loop of `sources`."""
    native = sources / library.SOURCES[0]
    built = compiled(folder / "train", *options, f"-I{sources}", str(DRIVER), str(native))
    assert built.returncode == 0, built.stderr
    return executed(folder / "train", "1", str(count))


@pytest.mark.soak
@pytest.mark.parametrize(
    ("options", "count"),
    [
        ((*ADDRESS, "-march=native"), 2000),
        (ADDRESS, 500),
        ((*THREAD, "-march=native"), 800),
    ],
    ids=["address", "address, portable", "thread"],
)
def test_random_training_is_sound(options: tuple[str, ...], count: int, tmp_path: Path) -> None:
    need(options, tmp_path)
    done = trained(tmp_path, options, count)
    *_, last, told = [None, *done.stdout.splitlines()]
    assert done.returncode == 0, f"the network drawn from {last}: {told}\n{done.stderr}"
    assert (last, told) == (str(count), "all the same")


FAULTS = {
    "a vector beyond the end of a row": (
        "-fsanitize=address",
        "native.cpp",
        "if (used >= L) {",
        "if (true) {",
        "AddressSanitizer",
    ),
    "an aligned load at any address": (
        "-fsanitize=alignment",
        "kernels.h",
        "aligned(sizeof(T)), ",
        "",
        "misaligned address",
    ),
    "no barrier after the examples": (
        "-fsanitize=thread",
        "native.cpp",
        "examples(step, t);\n            barrier_.wait();",
        "examples(step, t);",
        "data race",
    ),
    "no barrier after a δ": (
        "-fsanitize=thread",
        "native.cpp",
        "delta_back(step, l - 1, t);\n                    barrier_.wait();",
        "delta_back(step, l - 1, t);",
        "data race",
    ),
    "no barrier after a step": (
        "-fsanitize=thread",
        "native.cpp",
        "if (l != 1) barrier_.wait();",
        "if (l > 1) barrier_.wait();",
        "data race",
    ),
}


@pytest.mark.soak
@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_seen(name: str, tmp_path: Path) -> None:
    sanitizer, file, right, wrong, words = FAULTS[name]
    options = (sanitizer, "-fno-sanitize-recover=all", "-march=native")
    need(options, tmp_path)
    for source in library.SOURCES:
        text = (library.FOLDER / source).read_text("utf-8")
        if source == file:
            assert text.count(right) == 1
            text = text.replace(right, wrong)
        (tmp_path / source).write_text(text, "utf-8")
    done = trained(tmp_path, options, 60, tmp_path)
    assert done.returncode != 0
    assert words in done.stderr
