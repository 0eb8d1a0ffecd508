"""TensorBoard's tab "Backpropagation": the look.html of each run below --logdir, also while it goes
on. TensorBoard finds the class by the entry point in pyproject.toml.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tensorboard.backend import http_util
from tensorboard.plugins import base_plugin
from werkzeug import Request, Response

from manual_bp.view import bundle

_LARGEST = 16_000_000  # bytes: twice what a page may have


def _respond(request: Request, content: Any, kind: str, code: int = 200) -> Response:
    response: Response = http_util.Respond(request, content, kind, code=code)
    return response


class Tab(base_plugin.TBPlugin):  # type: ignore[misc]
    """Three routes, below /data/plugin/backpropagation: the tab's code, its runs, and one run."""

    plugin_name = "backpropagation"

    def __init__(self, context: base_plugin.TBContext) -> None:
        self._logdir = context.logdir or ""  # empty with --logdir_spec: then there is no run

    def get_plugin_apps(self) -> dict[str, Callable[..., Any]]:
        routes = {"/index.js": self.module, "/runs": self.runs, "/run": self.run}
        return {path: Request.application(answer) for path, answer in routes.items()}

    def is_active(self) -> bool:
        return any(self._pages())

    def frontend_metadata(self) -> base_plugin.FrontendMetadata:
        return base_plugin.FrontendMetadata(
            es_module_path="/index.js", tab_name="Backpropagation", disable_reload=True
        )

    def module(self, request: Request) -> Response:
        return _respond(request, bundle.tab(), "text/javascript")

    def runs(self, request: Request) -> Response:
        """[{"name", "modified"}]; a run must be asked for again when `modified` changed."""
        found = [
            {"name": name, "modified": path.stat().st_mtime_ns // 1_000_000}
            for name, path in self._pages()
        ]
        return _respond(request, found, "application/json")

    def run(self, request: Request) -> Response:
        """The data of the page of run ?name=…, as JSON."""
        name = request.args.get("name", "")
        path = dict(self._pages()).get(name)  # so that no other file is ever opened
        data = None if path is None else bundle.data_of(path.read_text("utf-8", "replace"))
        if data is None:
            missing = {"error": f"{name}: no run with a whole look.html below --logdir"}
            return _respond(request, missing, "application/json", code=404)
        return _respond(request, data, "application/json")

    def _pages(self) -> Iterator[tuple[str, Path]]:
        """Each run with a page: its path below --logdir, and its look.html. No link is followed."""
        for folder, inside, files in os.walk(self._logdir):
            inside[:] = sorted(name for name in inside if not name.startswith("."))
            path = Path(folder, "look.html")
            name = os.path.relpath(folder, self._logdir).replace(os.sep, "/")
            if path.name not in files or path.is_symlink() or not name.isprintable():
                continue
            if path.is_file() and path.stat().st_size <= _LARGEST:
                yield name, path
