"""A gradient checker for anybody's Function that names the fault.

    import manual_bp as mbp
    mbp.verify.check(MyFunction, (torch.randn(4, 3), torch.randn(5, 3))).raise_if_failed()

`python -m manual_bp.verify FILE:NAME --inputs "randn(4,3) randn(5,3)"` does the same from a
terminal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from manual_bp.verify.kinds import KINDS
from manual_bp.verify.report import Finding, Report, Row, VerificationError

if TYPE_CHECKING:
    from manual_bp.verify.checker import check

__all__ = ["KINDS", "Finding", "Report", "Row", "VerificationError", "check"]


def __getattr__(name: str) -> Any:
    """`check`, when it is first used: the command prints its help without torch."""
    if name != "check":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from manual_bp.verify.checker import check

    globals()[name] = check
    return check
