"""TensorBoard's tab: its routes, without a network port, and what it must not read."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from tensorboard.backend.application import TensorBoardWSGIApp
from werkzeug.test import Client, TestResponse

from manual_bp.view import bundle
from manual_bp.view.tensorboard_tab import Tab

ROOT = Path(__file__).parents[2]
PREFIX = "/data/plugin/backpropagation"


def client(logdir: str | Path) -> Client:
    """TensorBoard's own application with this plugin alone."""
    flags = argparse.Namespace(
        logdir=str(logdir), path_prefix="", samples_per_plugin={}, window_title=""
    )
    return Client(TensorBoardWSGIApp(flags, [Tab]))


def page(folder: Path, name: str = "a run") -> Path:
    """A folder with a page in it, as a run leaves one."""
    folder.mkdir(parents=True)
    (folder / "look.html").write_text(bundle.page({"format": 1, "name": name}), encoding="utf-8")
    return folder


def listed(logdir: Path) -> list[str]:
    answer = client(logdir).get(f"{PREFIX}/runs")
    assert (answer.status_code, answer.mimetype) == (200, "application/json")
    return [run["name"] for run in answer.get_json()]


def run(logdir: Path, name: str) -> TestResponse:
    answer = client(logdir).get(f"{PREFIX}/run?name={quote(name)}")
    assert answer.mimetype == "application/json"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    return answer


def active(logdir: str | Path) -> bool:
    answer = client(logdir).get("/data/plugins_listing").get_json()["backpropagation"]
    assert answer["tab_name"] == "Backpropagation"
    assert answer["loading_mechanism"]["module_path"] == f"{PREFIX}/index.js"
    enabled: bool = answer["enabled"]
    return enabled


def test_a_run_is_listed_and_given(run_folder: Path) -> None:
    logdir = run_folder.parent
    assert active(logdir)
    assert listed(logdir) == ["done"]
    answer = run(logdir, "done")
    told = bundle.data_of((run_folder / "look.html").read_text())
    assert told is not None
    assert (answer.status_code, answer.get_json()) == (200, json.loads(told))


def test_several_runs_nested_ones_and_the_log_folder_itself(tmp_path: Path) -> None:
    logdir = page(tmp_path / "logs", "itself")
    for name in ("b", "a", "sweep/lr 1", "sweep/lr 2/seed & 0", "größer"):
        page(logdir / name, name)
    names = [".", "a", "b", "größer", "sweep/lr 1", "sweep/lr 2/seed & 0"]
    assert sorted(listed(logdir)) == names
    for name in names[1:]:
        assert run(logdir, name).get_json()["name"] == name
    assert run(logdir, ".").get_json()["name"] == "itself"


def test_the_module_is_javascript() -> None:
    answer = client("").get(f"{PREFIX}/index.js")
    assert (answer.status_code, answer.mimetype) == (200, "text/javascript")
    assert answer.text == bundle.tab()
    assert "export function render" in answer.text


def test_nothing_and_no_error_where_no_run_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "events.out.tfevents.1").write_bytes(b"")
    (tmp_path / "run2" / "look.html").mkdir(parents=True)  # a folder
    for logdir in (tmp_path, tmp_path / "missing", ""):
        assert not active(logdir)
        assert listed(Path(logdir) if logdir else tmp_path) == []


def test_without_logdir_the_current_folder_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with --logdir_spec."""
    page(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    assert not active("")
    assert client("").get(f"{PREFIX}/runs").get_json() == []


def test_a_run_that_goes_on_is_read_anew(tmp_path: Path) -> None:
    tensorboard = client(tmp_path)
    assert tensorboard.get(f"{PREFIX}/runs").get_json() == []
    folder = page(tmp_path / "run", "first")
    os.utime(folder / "look.html", (1, 1))
    (before,) = tensorboard.get(f"{PREFIX}/runs").get_json()
    (folder / "look.html").write_text(bundle.page({"name": "second"}))
    (after,) = tensorboard.get(f"{PREFIX}/runs").get_json()
    assert before["modified"] < after["modified"]
    assert tensorboard.get(f"{PREFIX}/run?name=run").get_json()["name"] == "second"


OUTSIDE = [
    "..", "../secret", "run/../../secret", "./run", "run/", "/secret", "//secret", "\\secret",
    "link", "hidden link", ".half", "file:///etc/passwd", "", "run/look.html", "~", "run\0",
]  # fmt: skip


@pytest.mark.parametrize("name", OUTSIDE)
def test_only_runs_below_the_log_folder_are_read(name: str, tmp_path: Path) -> None:
    secret = page(tmp_path / "secret", "secret")
    logdir = tmp_path / "logs"
    page(logdir / "run")
    page(logdir / ".half")
    (logdir / "link").symlink_to(secret)
    (logdir / "hidden link").mkdir()
    (logdir / "hidden link" / "look.html").symlink_to(secret / "look.html")
    assert listed(logdir) == ["run"]
    for asked in (name, name.replace("/secret", str(secret))):
        answer = run(logdir, asked)
        assert answer.status_code == 404
        assert "secret" not in answer.get_json()["error"].replace(asked, "")


def test_what_holds_no_page_is_one_line(tmp_path: Path) -> None:
    folder = page(tmp_path / "run")
    whole = (folder / "look.html").read_text()
    opened = whole.index('{"format"')
    damaged: dict[str, Any] = {
        "cut": whole[: opened + 5],
        "empty": "",
        "foreign": "<html>hello</html>",
        "no JSON": whole.replace('"format"', "format"),
    }
    for damage, text in damaged.items():
        (folder / "look.html").write_text(text)
        answer = run(tmp_path, "run")
        assert answer.status_code == 404, damage
        assert len(answer.get_json()["error"].splitlines()) == 1
    (folder / "look.html").write_bytes(b"\xff" * 10)
    assert run(tmp_path, "run").status_code == 404


def test_a_file_too_large_for_a_page_is_not_read(tmp_path: Path) -> None:
    folder = page(tmp_path / "run")
    with (folder / "look.html").open("r+b") as file:
        file.truncate(20_000_000)
    assert listed(tmp_path) == []


HOSTILE = "<script>alert(1)</script>\"'&<img src=x onerror=alert(1)>"


def test_a_hostile_name_is_never_html(tmp_path: Path) -> None:
    for name in (HOSTILE.replace("/", "∕"), "</script><script>alert(1)<"):
        page(tmp_path / name)
    tensorboard = client(tmp_path)
    for path in ("runs", "run?name=</script><script>alert(1)<", "run?name=<b>none"):
        answer = tensorboard.get(f"{PREFIX}/{path}")
        assert answer.mimetype == "application/json"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        json.loads(answer.text)


def test_a_name_that_is_no_text_is_left_out(tmp_path: Path) -> None:
    page(tmp_path / "run")
    page(tmp_path / "line\nbreak")
    os.mkdir(os.fsencode(tmp_path) + b"/\xff")
    shutil.copy(tmp_path / "run" / "look.html", os.fsencode(tmp_path) + b"/\xff/look.html")
    assert listed(tmp_path) == ["run"]


def test_tensorboard_finds_the_tab_and_loads_neither_torch_nor_matplotlib() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (found,) = project["entry-points"]["tensorboard_plugins"].values()
    module, _, name = found.partition(":")
    assert getattr(import_module(module), name) is Tab
    code = f"import sys, {module}; assert not {{'torch', 'matplotlib', 'numpy'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    source = Path(sys.modules[module].__file__ or "").read_text()
    assert len(source.splitlines()) <= 80
