"""A gradient checker for anybody's Function that names the fault.

    import manual_bp as mbp
    mbp.verify.check(MyFunction, (torch.randn(4, 3), torch.randn(5, 3))).raise_if_failed()

`python -m manual_bp.verify FILE:NAME --inputs "randn(4,3) randn(5,3)"` does the same from a
terminal. Every name is imported when it is first used: help, and a pytest plugin that is not asked
for, need no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from manual_bp.verify.checker import check
    from manual_bp.verify.intent import meant
    from manual_bp.verify.kinds import KINDS
    from manual_bp.verify.report import Finding, Report, Row, VerificationError
    from manual_bp.verify.survey import Survey, watch

_HOMES = {
    "KINDS": "kinds",
    "Finding": "report",
    "Report": "report",
    "Row": "report",
    "Survey": "survey",
    "VerificationError": "report",
    "check": "checker",
    "meant": "intent",
    "watch": "survey",
}

__all__ = [
    "KINDS",
    "Finding",
    "Report",
    "Row",
    "Survey",
    "VerificationError",
    "check",
    "meant",
    "watch",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
