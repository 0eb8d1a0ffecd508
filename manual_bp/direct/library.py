"""The C++ loop as a shared library: compiled on first use and kept.

The source needs a C++17 compiler and nothing of PyTorch's, so it is built in seconds and fits every
version of PyTorch. `$CXX` names the compiler, with options if need be (default c++, g++ or clang++,
the first that is there). The library is kept in `$TORCH_EXTENSIONS_DIR`, or else in the user's
cache folder, where its owner alone can write. Its name holds a hash of everything that went into
it, and a digest of what came out, which is checked before it is loaded.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

from manual_bp.direct.task import LoopUnavailableError
from manual_bp.escape import escaped

FOLDER = Path(__file__).parent
SOURCES = ("native.cpp", "state.h", "nonzeros.h", "products.h", "kernels.h")
FLAGS = ("-std=c++17", "-O3", "-fno-math-errno", "-fPIC", "-shared", "-pthread")
TUNINGS = ("-march=native", "-mcpu=native", "")  # the first that the compiler takes


class NativeUnavailableError(LoopUnavailableError):
    """There is no C++ loop here. The message says why."""


def build() -> Path:
    """The library's file, compiled if it is not there yet, or is not as it was built.

    Raises:
        NativeUnavailableError: no compiler, a compiler that fails, or a cache folder that others
            can write.
        OSError: a cache folder that cannot be written.
        RuntimeError: a home folder that is not known.
    """
    compiler = find_compiler()
    folder = own_folder(cache_folder())
    name = f"native-{_key(compiler)}"
    library = _kept(folder, name)
    if library is not None:
        return library
    print(
        f"manual_bp: building the C++ training loop once, into {escaped(folder)}", file=sys.stderr
    )
    # Built in a folder beside the library's place and then renamed: processes that build at the
    # same time never see half a file.
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        built = Path(temporary) / "native.so"
        for tuning in TUNINGS:
            options = [*FLAGS, *filter(None, [tuning])]
            command = [*compiler, *options, str(FOLDER / SOURCES[0]), "-o", str(built)]
            result = _run(command)
            if result.returncode == 0 and built.is_file():
                library = folder / f"{name}-{_digest(built)}.so"
                os.replace(built, library)
                return library
    message = ([*filter(str.strip, result.stderr.splitlines())] or ["no message"])[0].strip()
    raise NativeUnavailableError(
        f"{escaped(shlex.join(compiler))} cannot build the C++ loop: {escaped(message)[:300]}"
    )


def _kept(folder: Path, name: str) -> Path | None:
    """The library in `folder` whose content has the digest in its name. Others are cleared away."""
    for library in sorted(folder.glob(f"{name}-*.so")):
        if library.is_file() and library.stem == f"{name}-{_digest(library)}":
            return library
        if library.is_dir() and not library.is_symlink():
            shutil.rmtree(library)
        else:
            library.unlink(missing_ok=True)
    return None


def _digest(library: Path) -> str:
    """Of the content: a damaged library would end the process that loads it."""
    return hashlib.sha256(library.read_bytes()).hexdigest()[:32]


def own_folder(folder: Path) -> Path:
    """Make `folder` one that its owner alone can read and write, or find it so.

    Raises:
        NativeUnavailableError: it is a link or another user's, or anybody can put another in its
            place.
        OSError: it cannot be made.
    """
    if folder.is_symlink():  # its mode is changed below
        raise NativeUnavailableError(
            f"no C++ loop: {escaped(folder)} is a link: name a folder of your own in "
            f"$TORCH_EXTENSIONS_DIR"
        )
    missing = []
    while not folder.is_dir() and folder != folder.parent:
        missing.append(folder.name)
        folder = folder.parent
    for name in reversed(missing):
        folder = folder / name
        with contextlib.suppress(FileExistsError):  # another process makes it too
            folder.mkdir(mode=0o700)
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "not a folder", str(folder))
    if not hasattr(os, "geteuid"):  # Windows
        return folder
    folder = folder.resolve()
    for parent in folder.parents:
        mode = parent.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise NativeUnavailableError(
                f"no C++ loop: anybody can write to {escaped(parent)}, and so replace the library: "
                f"name another folder in $TORCH_EXTENSIONS_DIR"
            )
    found = folder.stat()
    if found.st_uid != os.geteuid():
        raise NativeUnavailableError(
            f"no C++ loop: {escaped(folder)} belongs to another user: name a folder of your own in "
            f"$TORCH_EXTENSIONS_DIR"
        )
    if found.st_mode & 0o022:  # others may have put their libraries there
        for library in folder.glob("native-*.so"):
            library.unlink()
    if found.st_mode & 0o077:
        folder.chmod(0o700)
    return folder


def _key(compiler: list[str]) -> str:
    """A hash of all that decides what `compiler` makes of today's sources on this machine."""
    sources = ((FOLDER / name).read_text("utf-8") for name in SOURCES)
    version = _run([*compiler, "--version"]).stdout
    ingredients = [version, *compiler, _processor(), *FLAGS, *TUNINGS, *sources]
    text = "\0".join(ingredients).encode("utf-8", "surrogateescape")
    return hashlib.sha256(text).hexdigest()[:16]


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run `command` without input. Whatever it prints becomes text."""
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )


def is_built() -> bool:
    """Whether the library is there, so that its first use compiles nothing."""
    try:
        return _kept(own_folder(cache_folder()), f"native-{_key(find_compiler())}") is not None
    except (NativeUnavailableError, OSError, RuntimeError):
        return False


def find_compiler() -> list[str]:
    """The command that compiles C++.

    Raises:
        NativeUnavailableError: there is none.
    """
    wanted = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    try:
        commands = [*map(shlex.split, wanted)]
    except ValueError as error:
        raise NativeUnavailableError(
            f"no C++ compiler: $CXX is {escaped(wanted[0])} ({error}): quote it as for a shell"
        ) from None
    for command in commands:
        if command and shutil.which(command[0]):
            return command
    raise NativeUnavailableError(
        f"no C++ compiler was found ({escaped(', '.join(wanted))}; $CXX names another)"
    )


def _processor() -> str:
    """What -march=native depends on: machines that share a cache folder may differ."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return platform.processor()
    lines = cpuinfo.read_text("utf-8", "replace").splitlines()
    return "\n".join(
        sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    )


def cache_folder() -> Path:
    root = os.environ.get("TORCH_EXTENSIONS_DIR")
    if root:
        return Path(root) / "manual_bp"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "manual_bp"
