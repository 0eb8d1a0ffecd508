"""The compiled library is code: it is loaded only as it was built, from a folder of the user's."""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from manual_bp import MLP, direct
from manual_bp.direct import library, native

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the loop is PyTorch calls there")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small library with the right functions, which a compiler of the tests then hands out."""
    folder = tmp_path_factory.mktemp("compiled")
    source = folder / "small.cpp"
    source.write_text(
        'extern "C" { int train_float(void*) { return 0; } int train_double(void*) { return 0; }\n'
        f"void layout(long long* f) {{ f[0] = {native.LAYOUT}; "
        f"f[1] = {native.ctypes.sizeof(native._Layer)}; "
        f"f[2] = {native.ctypes.sizeof(native._Run)}; }} }}\n"
    )
    try:
        compiler = library.find_compiler()
    except library.NativeUnavailableError as error:
        pytest.skip(str(error))
    built = folder / "small.so"
    result = library._run([*compiler, "-shared", "-fPIC", str(source), "-o", str(built)])
    assert result.returncode == 0, result.stderr
    return built


def script(folder: Path, text: str) -> str:
    file = folder / "compiler"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return shlex.quote(str(file))


@pytest.fixture
def cache(compiled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the library, which counts how often it was built in `tmp_path/builds`."""
    copies = f'for last; do :; done\n[ "$1" = --version ] || {{ cp {shlex.quote(str(compiled))} '
    monkeypatch.setenv("CXX", script(tmp_path, f'{copies} "$last"; echo >> {tmp_path}/builds; }}'))
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "cache"))
    native._load.cache_clear()
    yield tmp_path / "cache" / "manual_bp"
    native._load.cache_clear()


def builds(cache: Path) -> int:
    file = cache.parents[1] / "builds"
    return len(file.read_text().splitlines()) if file.exists() else 0


def test_it_is_built_once_into_a_folder_of_the_owner_alone(cache: Path) -> None:
    assert not library.is_built()
    before = os.umask(0)
    try:
        native.load()
    finally:
        os.umask(before)
    native._load.cache_clear()
    native.load()
    assert builds(cache) == 1
    assert library.is_built()
    assert len(list(cache.iterdir())) == 1
    for folder in (cache, cache.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def cut(file: Path, share: float) -> None:
    os.truncate(file, int(share * file.stat().st_size))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "emptied": lambda file: cut(file, 0),
    "a byte": lambda file: os.truncate(file, 1),
    "its header alone": lambda file: os.truncate(file, 64),
    "a third": lambda file: cut(file, 0.33),
    "half": lambda file: cut(file, 0.5),
    "nearly all": lambda file: cut(file, 0.99),
    "one byte more": lambda file: file.write_bytes(file.read_bytes() + b"\0"),
    "one bit": lambda file: file.write_bytes(file.read_bytes()[:-1] + b"\1"),
    "text": lambda file: file.write_text("no library"),
    "another library": lambda file: shutil.copy(native.torch._C.__file__, file),
    "a folder": lambda file: (file.unlink(), file.mkdir()),
    "a broken link": lambda file: (file.unlink(), file.symlink_to("nowhere")),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_library_that_is_not_as_it_was_built_is_built_anew(
    damage: Callable[[Path], object], cache: Path
) -> None:
    damage(library.build())  # not loaded: a process maps what it loads
    native.load()
    assert builds(cache) == 2


def test_what_others_could_have_written_is_not_loaded(cache: Path) -> None:
    native.load()
    for mode, again in ((0o755, 1), (0o777, 2), (0o770, 3)):
        cache.chmod(mode)
        native._load.cache_clear()
        native.load()
        assert builds(cache) == again, oct(mode)
        assert stat.S_IMODE(cache.stat().st_mode) == 0o700


def test_a_folder_of_another_user_is_refused(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    native.load()
    native._load.cache_clear()
    monkeypatch.setattr(os, "geteuid", lambda: cache.stat().st_uid + 1)
    assert not library.is_built()
    trainer = direct.Trainer(MLP([4, 3]), lr=0.1, batch_size=2)
    assert trainer.backend == "torch"
    (line,) = capsys.readouterr().err.splitlines()[1:]
    assert f"{cache} belongs to another user: name a folder of your own" in line


def test_a_folder_that_anybody_can_replace_is_refused(cache: Path) -> None:
    cache.parent.mkdir()
    cache.parent.chmod(0o777)
    with pytest.raises(RuntimeError, match=f"anybody can write to {cache.parent}, and so replace"):
        native.load()
    native._load.cache_clear()
    cache.parent.chmod(0o1777)  # as /tmp is: nobody replaces what is another's
    native.load()


COMPILERS = [
    ("'g++", "no C++ compiler: $CXX is 'g++ (No closing quotation): quote it as for a shell"),
    ('g++ "-O2', 'no C++ compiler: $CXX is g++ "-O2 (No closing quotation)'),
    ("g++ \\", "No escaped character"),
    ("  ", "no C++ compiler was found (  ; $CXX names another)"),
    ("/", "no C++ compiler was found (/; "),
    ("a\x1b[2Jb", "no C++ compiler was found (a\\x1b[2Jb; "),
    ("true", "true cannot build the C++ loop: no message"),
    ("false", "false cannot build the C++ loop: no message"),
]


@pytest.mark.parametrize(("compiler", "words"), COMPILERS)
def test_a_compiler_that_is_none_is_one_line(
    compiler: str, words: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", compiler)
    with pytest.raises(RuntimeError) as raised:
        native.load()
    assert words in str(raised.value)
    assert str(raised.value).isprintable()


SCRIPTS = [
    ("printf '\\377\\376\\200' >&2; printf '\\377'; exit 1", "cannot build the C++ loop: \ufffd"),
    ("printf '\\033[2Jred\\nmore' >&2; exit 1", "cannot build the C++ loop: \\x1b[2Jred"),
    ("printf '\\n\\n  late\\n' >&2; exit 1", "cannot build the C++ loop: late"),
    ("kill -9 $$", "cannot build the C++ loop: no message"),
    ('for last; do :; done; echo text > "$last"', "no C++ loop: "),
    ('for last; do :; done; mkdir -p "$last"', "cannot build the C++ loop: no message"),
    ("cat; exit 1", "cannot build the C++ loop: no message"),  # it would wait for input
]


@pytest.mark.parametrize(("text", "words"), SCRIPTS)
def test_a_compiler_that_answers_oddly_is_one_line(
    text: str, words: str, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CXX", script(tmp_path, text))
    monkeypatch.chdir(tmp_path)  # asked for its version, one writes a file of that name
    with pytest.raises(RuntimeError) as raised:
        native.load()
    assert words in str(raised.value)
    assert str(raised.value).isprintable()


def test_a_library_without_the_functions_is_one_line(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source, built = tmp_path / "empty.cpp", tmp_path / "empty.so"
    source.write_text("int nothing;\n")
    monkeypatch.delenv("CXX")
    library._run([*library.find_compiler(), "-shared", "-fPIC", str(source), "-o", str(built)])
    monkeypatch.setenv(
        "CXX", script(tmp_path, f'for last; do :; done; cp {shlex.quote(str(built))} "$last"')
    )
    with pytest.raises(RuntimeError, match=r"the library lacks a function .*layout"):
        native.load()
