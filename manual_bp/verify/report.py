"""What a check says, as a terminal table, as JSON, or as an exception."""

from __future__ import annotations

import json
import math
import os
import sys
import textwrap
from dataclasses import asdict, dataclass, field
from typing import TextIO

from manual_bp.escape import escaped

WIDTH = 110
SMALL = 0.02  # a check that measured a smaller share of the elements does not say plain "ok"


@dataclass(frozen=True)
class Finding:
    """One fault: its `kind` (a key of `KINDS`), its `tensor`, and a `detail` to act on.

    `index`, `analytic`, `numeric` and `ratio` are those of the worst element, if there is one.
    """

    kind: str
    tensor: str
    detail: str
    index: tuple[int, ...] | None = None
    analytic: float | None = None
    numeric: float | None = None
    ratio: float | None = None

    def __str__(self) -> str:
        return f"{self.kind} [{self.tensor}] {self.detail}"


@dataclass(frozen=True)
class Row:
    """One tensor's gradient against the derivative.

    `max_abs` is the largest |analytic − numeric|; `max_rel` is `max_abs` divided by the tensor's
    largest |numeric|.
    """

    tensor: str
    shape: tuple[int, ...]
    max_abs: float
    max_rel: float
    verdict: str


class VerificationError(AssertionError):
    """Raised by `Report.raise_if_failed`; its message is the report."""


@dataclass(frozen=True)
class Report:
    """The result of `check`.

    `findings` has the likeliest cause first, `incomplete` the checks that could not run. `ok` is
    true if both are empty: a check that looked at nothing is not ok. `verdict` says, too, at how
    many elements it looked; random directions go through all of them. `questions` holds gradients
    that are not the derivative and may be meant so: until that is declared the check is not ok.
    """

    name: str
    findings: list[Finding] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    checks: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    incomplete: list[str] = field(default_factory=list)
    looked_at: int = 0  # elements of the inputs whose derivative was measured
    elements: int = 0  # of the inputs
    questions: list[Finding] = field(default_factory=list)  # what may be meant, and is not declared

    @property
    def ok(self) -> bool:
        """Whether every check ran and found nothing."""
        return not self.findings and not self.incomplete and not self.questions

    @property
    def verdict(self) -> str:
        """The outcome in a few words, such as "sign-flip (weight)"."""
        if self.findings:
            first, more = self.findings[0], len(self.findings) - 1
            return f"{first.kind} ({first.tensor})" + (f" and {more} more" if more else "")
        if self.questions:
            asked = self.questions[0]
            return f"{asked.kind}? ({asked.tensor})"
        if self.incomplete:
            return f"incomplete: {self.incomplete[0]}"
        return self._passed()

    def _passed(self) -> str:
        if self.looked_at == self.elements:
            return "ok"
        share = f"on {self.looked_at:,} of {self.elements:,} elements"
        if self.looked_at < SMALL * self.elements:
            return f"nothing found, but only {share}"
        return f"ok, {share}"

    def raise_if_failed(self) -> None:
        """Do nothing when `ok`.

        Raises:
            VerificationError: there is a finding, or the check is incomplete. pytest shows it as a
                failed assertion, because it is an AssertionError.
        """
        if not self.ok:
            raise VerificationError("\n" + self.render(colour=False))

    def to_json(self, indent: int | None = 2) -> str:
        """The whole report as JSON; NaN and infinity, which JSON lacks, as strings."""
        content = {"ok": self.ok, **asdict(self)}
        return json.dumps(plain(content), indent=indent, ensure_ascii=False)

    def __str__(self) -> str:
        return self.render(colour=colour_wanted(sys.stdout))

    def render(self, *, colour: bool) -> str:
        """The report as text: verdict, findings, one row per tensor, the checks made, notes."""
        red, green, bold, plain = (
            ("\033[31m", "\033[32m", "\033[1m", "\033[0m") if colour else ("", "", "", "")
        )
        count = len(self.findings)
        found = f"{count} finding{'s' if count > 1 else ''}" if count else "incomplete"
        if self.questions and not count:
            found = "one question" if len(self.questions) == 1 else "questions"
        verdict = f"{green}{self._passed()}{plain}" if self.ok else f"{red}{found}{plain}"
        lines = [f"{bold}{escaped(self.name)}{plain}: {verdict}"]
        for finding in self.findings:
            lines += ["", f"  {red}{finding.kind}{plain}  {bold}{escaped(finding.tensor)}{plain}"]
            for part in finding.detail.split("\n"):
                lines += _wrapped(part, "    ", "    ")
        for question in self.questions:
            lines += [
                "",
                f"  is this meant?  {bold}{question.kind}  {escaped(question.tensor)}{plain}",
            ]
            lines += _wrapped(question.detail, "    ", "    ")
        if self.rows:
            lines += ["", *self._table(red, green, plain)]
        if self.checks:
            lines.append("")
            for status in dict.fromkeys(self.checks.values()):
                text = (
                    f"{status}: "
                    f"{', '.join(name for name, own in self.checks.items() if own == status)}"
                )
                lines += _wrapped(text, "  ", "    ")
        for text in self.incomplete:
            lines += _wrapped(f"incomplete: {text}", "  ", "        ")
        for note in self.notes:
            lines += _wrapped(f"note: {note}", "  ", "        ")
        return "\n".join(lines)

    def _table(self, red: str, green: str, plain: str) -> list[str]:
        width = max(len("tensor"), *(len(row.tensor) for row in self.rows))
        shapes = ["×".join(map(str, row.shape)) or "scalar" for row in self.rows]
        wide = max(len("shape"), *map(len, shapes))
        lines = [
            f"  {'tensor':<{width}}  {'shape':<{wide}}  {'max abs':>9}  {'max rel':>9}  verdict"
        ]
        for row, shape in zip(self.rows, shapes, strict=True):
            tint = green if row.verdict.startswith("ok") else red
            numbers = f"{_number(row.max_abs):>9}  {_number(row.max_rel):>9}"
            lines.append(
                f"  {row.tensor:<{width}}  {shape:<{wide}}  {numbers}  {tint}{row.verdict}{plain}"
            )
        return lines


def _wrapped(text: str, first: str, rest: str) -> list[str]:
    """Lines of WIDTH; what a terminal would obey is escaped."""
    words = escaped(" ".join(text.split()))
    return textwrap.wrap(words, WIDTH, initial_indent=first, subsequent_indent=rest)


def _number(value: float) -> str:
    return f"{value:.1e}" if math.isfinite(value) else ("–" if math.isnan(value) else "inf")


def colour_wanted(stream: TextIO | None) -> bool:
    """Whether `stream` is a terminal that shows colours to somebody who wants them."""
    if stream is None or stream.closed or not stream.isatty():
        return False
    return "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def plain(value: object) -> object:
    """The same with lists for tuples, and strings for the numbers that JSON lacks."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
