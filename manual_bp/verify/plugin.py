"""`pytest --verify-functions`: check every autograd Function that a test suite runs.

Without the option nothing is imported and nothing is changed. A test with the marker
`unverified(reason="…")` is not listened to. The ini option `unverified` leaves Functions out, a
line each:

    unverified =
        my_ops.py:*:Round: straight-through on purpose
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest

OPTION = "--verify-functions"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the option and its ini line."""
    group = parser.getgroup("verify", "checking autograd Functions")
    group.addoption(
        OPTION,
        action="store_true",
        help="record every autograd Function that the tests run, and check its gradients at the "
        "end",
    )
    parser.addini(
        "unverified", "Functions that are left out, a line each: NAME: reason", type="linelist"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker; listen only where the option is given."""
    config.addinivalue_line(
        "markers", "unverified(reason): with --verify-functions, do not listen to this test"
    )
    if config.getoption(OPTION, default=False):
        config.pluginmanager.register(_Listener(config), "verify-functions-listener")


class _Listener:
    """One process of a test run: pytest itself, or a worker of xdist."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.leave_out: dict[str, str] = {}
        for line in config.getini("unverified"):
            name, _, reason = line.rpartition(": ")
            if not name or not reason.strip():
                raise pytest.UsageError(f"ini option unverified: {line!r}: expected NAME: reason")
            self.leave_out[name.strip()] = reason.strip()
        self.recorder: Any = None
        self.rows: list[dict[str, Any]] = []

    def listen(self) -> None:
        """Begin as soon as somebody has imported torch; this plugin never does."""
        if self.recorder is None and "torch" in sys.modules:
            from manual_bp.verify import apply, recorder

            self.recorder = recorder.Recorder()
            apply.start(self.recorder)

    def pytest_collection_finish(self) -> None:
        """The test modules are imported."""
        self.listen()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Pause for a test that is left out."""
        self.listen()
        marker = item.get_closest_marker("unverified")
        if marker is not None and not (marker.args or marker.kwargs.get("reason")):
            raise pytest.UsageError(f"{item.nodeid}: the marker unverified needs a reason")
        if self.recorder is not None:
            self.recorder.paused = marker is not None
        return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Iterator[None]:
        """Check when everything else has been said: a check that ends the process takes nothing.

        A run whose tests passed fails where there is a finding.
        """
        if self.recorder is not None:
            from manual_bp.verify import apply

            apply.stop(self.recorder)
        output = getattr(self.config, "workeroutput", None)
        if output is not None:  # a worker's output leaves in what is wrapped
            output["verify_functions"] = [*self._checked()]
            return (yield)
        result = yield
        terminal = self.config.pluginmanager.get_plugin("terminalreporter")
        self._print(terminal)
        if any(row["status"] == "finding" for row in self.rows) and not session.exitstatus:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        return result

    def _checked(self) -> Iterator[dict[str, Any]]:
        if self.recorder is None:
            return
        from manual_bp.verify import survey

        for line in survey.Seen(self.recorder).lines(leave_out=self.leave_out):
            yield {
                "name": line.name,
                "place": line.place,
                "calls": line.calls,
                "verdict": line.verdict,
                "status": line.status,
                "detail": "\n".join(survey.Survey([line]).details()),
            }

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """What a worker of xdist has found: of one Function keep the worst, and add the calls."""
        rank = ("left out", "ok", "incomplete", "question", "finding")
        for row in getattr(node, "workeroutput", {}).get("verify_functions", ()):
            same = next((r for r in self.rows if _one(r) == _one(row)), None)
            if same is None:
                self.rows.append(row)
                continue
            calls = same["calls"] + row["calls"]
            if rank.index(row["status"]) > rank.index(same["status"]):
                same.update(row)
            same["calls"] = calls

    def _print(self, terminal: Any) -> None:
        """A line a Function as it becomes known, then the details of what is not ok."""
        terminal.section("autograd Functions")
        heard = self.recorder.found.values() if self.recorder is not None else ()
        names = [(r["name"], r["place"]) for r in self.rows] + [(h.name, h.place) for h in heard]
        if not names:
            terminal.write_line("no autograd Function ran")
            return
        name, place = (max(map(len, part)) for part in zip(*names, strict=True))
        known, self.rows = sorted(self.rows, key=_one), []
        for row in known or self._checked():
            terminal.write_line(
                f"{row['name']:<{name}}  {row['place']:<{place}}  {row['calls']:>7,}×  "
                f"{row['verdict']}",
                flush=True,
            )
            self.rows.append(row)
        for row in self.rows:
            if row["detail"]:
                terminal.write_line(row["detail"])


def _one(row: dict[str, Any]) -> tuple[str, str]:
    return row["name"], row["place"]
