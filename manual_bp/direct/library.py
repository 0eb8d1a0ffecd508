"""The C++ loop as a shared library: compiled on first use and kept.

The source needs a C++17 compiler and nothing of PyTorch's, so it is built in seconds and fits every
version of PyTorch. `$CXX` names the compiler, with options if need be (default c++, g++ or clang++,
the first that is there). The library is kept in `$TORCH_EXTENSIONS_DIR`, or else in the user's
cache folder. A hash of everything that went into it is part of its name.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from manual_bp.direct.task import LoopUnavailableError

FOLDER = Path(__file__).parent
SOURCES = ("native.cpp", "state.h", "nonzeros.h", "kernels.h")
FLAGS = ("-std=c++17", "-O3", "-fno-math-errno", "-fPIC", "-shared", "-pthread")
TUNINGS = ("-march=native", "-mcpu=native", "")  # the first that the compiler takes


class NativeUnavailableError(LoopUnavailableError):
    """There is no C++ loop here. The message says why."""


def build() -> Path:
    """The library's file, compiled if it is not there yet.

    Raises:
        NativeUnavailableError: no compiler, or a compiler that fails.
        OSError: a cache folder that cannot be written.
        RuntimeError: a home folder that is not known.
    """
    compiler = find_compiler()
    library = place(compiler)
    if library.exists():
        return library
    library.parent.mkdir(parents=True, exist_ok=True)
    print(f"manual_bp: building the C++ training loop once, into {library}", file=sys.stderr)
    # Built in a folder beside the library's place and then renamed: processes that build at the
    # same time never see half a file.
    with tempfile.TemporaryDirectory(dir=library.parent) as temporary:
        built = Path(temporary) / library.name
        for tuning in TUNINGS:
            options = [*FLAGS, *filter(None, [tuning])]
            command = [*compiler, *options, str(FOLDER / SOURCES[0]), "-o", str(built)]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            if result.returncode == 0 and built.exists():
                os.replace(built, library)
                return library
    message = (result.stderr.strip().splitlines() or ["no message"])[0]
    raise NativeUnavailableError(f"{shlex.join(compiler)} cannot build the C++ loop: {message}")


def place(compiler: list[str]) -> Path:
    """The file that `compiler` makes of today's sources on this machine, made or not."""
    version = subprocess.run(
        [*compiler, "--version"], capture_output=True, text=True, check=False
    ).stdout
    sources = ((FOLDER / name).read_text("utf-8") for name in SOURCES)
    ingredients = [version, *compiler, _processor(), *FLAGS, *TUNINGS, *sources]
    digest = hashlib.sha256("\0".join(ingredients).encode()).hexdigest()[:16]
    return cache_folder() / f"native-{digest}.so"


def is_built() -> bool:
    """Whether the library is there, so that its first use compiles nothing."""
    try:
        return place(find_compiler()).exists()
    except (NativeUnavailableError, OSError, RuntimeError):
        return False


def find_compiler() -> list[str]:
    """The command that compiles C++.

    Raises:
        NativeUnavailableError: there is none.
    """
    wanted = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    for command in map(shlex.split, wanted):
        if command and shutil.which(command[0]):
            return command
    raise NativeUnavailableError(
        f"no C++ compiler was found ({', '.join(wanted)}; $CXX names another)"
    )


def _processor() -> str:
    """What -march=native depends on: machines that share a cache folder may differ."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return platform.processor()
    lines = cpuinfo.read_text().splitlines()
    return "\n".join(
        sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    )


def cache_folder() -> Path:
    root = os.environ.get("TORCH_EXTENSIONS_DIR")
    if root:
        return Path(root) / "manual_bp"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "manual_bp"
