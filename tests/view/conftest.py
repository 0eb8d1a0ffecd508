"""One Chromium a module; pages opened from a disk, with no network, and watched."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from manual_bp.training.command import main
from manual_bp.view import bundle

Open = Callable[..., Any]
PATIENCE = 600_000  # milliseconds: only what hangs takes so long, on a machine under any load


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium, headless."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("there is no chromium on the PATH")
    with api.sync_playwright() as playwright:
        # A container's root may not make the sandbox; the pages are our own.
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox"], timeout=PATIENCE
        )
        try:
            yield browser
        finally:
            browser.close()


@pytest.fixture
def open_page(browser: Any, tmp_path: Path) -> Iterator[Open]:
    """Write a page's data as look.html and open it; at the end, see that nothing went wrong."""
    wrong: list[str] = []
    expected: list[str] = []  # beginnings of what a test provokes
    contexts = []

    def open_(data: dict[str, Any], **settings: Any) -> Any:
        path = tmp_path / f"look{len(contexts)}.html"
        path.write_text(bundle.page(data), encoding="utf-8")
        context = browser.new_context(
            **{"viewport": {"width": 1280, "height": 800}, "offline": True} | settings
        )
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("console", lambda message: wrong.append(f"console: {message.text}"))
        page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: _leaves(request.url) and wrong.append(request.url))
        page.goto(path.as_uri())
        assert page.evaluate("'look' in globalThis")  # the script ran before the page was loaded
        return page

    open_.expected = expected  # type: ignore[attr-defined]
    try:
        yield open_
    finally:
        for context in contexts:
            context.close()
    assert [line for line in wrong if not line.startswith(tuple(expected))] == []


def _leaves(address: str) -> bool:
    return not address.startswith(("file:", "data:", "blob:"))


def data_in(page: Path) -> dict[str, Any]:
    """What a page holds."""
    told = bundle.data_of(page.read_text(encoding="utf-8"))
    assert told is not None
    found: dict[str, Any] = json.loads(told)
    return found


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of three epochs on the digits; not to be changed."""
    logdir = tmp_path_factory.mktemp("runs")
    flags = ["--dataset", "digits", "--engine", "direct", "--epochs", "3", "--run-name", "done"]
    folder = main([*flags, "--logdir", str(logdir)]).folder
    assert folder is not None
    return folder
