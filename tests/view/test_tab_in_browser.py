"""The tab in a real browser, in TensorBoard as it is."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from manual_bp.view import bundle
from tests.view.conftest import PATIENCE, data_in

pytestmark = [pytest.mark.browser, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
HOSTILE = "a<img src=x onerror=alert(1)>"
SERVER = """
import sys
from tensorboard import default, program
from manual_bp.view.tensorboard_tab import Tab

server = program.TensorBoard(plugins=[*default.get_static_plugins(), Tab])
flags = ["--host", "127.0.0.1", "--port", "0", "--load_fast", "false"]
server.configure(argv=["tensorboard", "--logdir", sys.argv[1], *flags])
print(server.launch(), flush=True)
sys.stdin.read()  # until the test is over, or gone
"""


@pytest.fixture
def logdir(run_folder: Path, tmp_path: Path) -> Path:
    """Three runs: one whose name is hostile, one that goes on, and one whose page is damaged."""
    for name in (HOSTILE, "sweep/b"):
        shutil.copytree(run_folder, tmp_path / "runs" / name)
    going_on = tmp_path / "runs" / "sweep" / "b" / "look.html"
    data = data_in(going_on)
    data |= {"finished": False, "epochs": [0, 1], "weights": data["weights"][:2]}
    going_on.write_text(bundle.page(data), encoding="utf-8")
    damaged = tmp_path / "runs" / "z damaged"
    damaged.mkdir()
    (damaged / "look.html").write_text("half a page")
    return tmp_path / "runs"


@pytest.fixture
def address(logdir: Path) -> Iterator[str]:
    """TensorBoard on a free port of this machine."""
    command = [sys.executable, "-W", "ignore", "-c", SERVER, str(logdir)]
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


def test_the_tab_shows_every_run(
    browser: Any, address: str, logdir: Path, run_folder: Path
) -> None:
    wrong: list[str] = []
    asked: list[str] = []
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    try:
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("console", lambda said: said.type == "error" and wrong.append(said.text))
        page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda r: r.url.startswith(("http", "ws")) and asked.append(r.url))
        page.goto(f"{address}#backpropagation")
        element = page.wait_for_selector("iframe[src*='backpropagation']")
        frame = element.content_frame()
        frame.wait_for_function("globalThis.look")
        names = frame.eval_on_selector_all(
            "select[aria-label=Run] option", "all => all.map(o => o.value)"
        )
        assert names == [HOSTILE, "sweep/b", "z damaged"]
        assert frame.evaluate("look.epochs") == [0, 1, 2, 3]
        frame.select_option("select[aria-label=Run]", "sweep/b")
        frame.wait_for_function("look.epochs.length === 2")
        shutil.copy(run_folder / "look.html", logdir / "sweep" / "b")  # the run goes on
        frame.wait_for_function("look.epochs.length === 4")
        assert wrong == []
        frame.select_option("select[aria-label=Run]", "z damaged")
        frame.wait_for_function(
            "document.body.innerText.includes('z damaged: no run with a whole')"
        )
        assert all("404" in line for line in wrong)  # the browser's own word on it
        assert [url for url in asked if not url.startswith(address.rstrip("/"))] == []
    finally:
        context.close()
