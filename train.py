"""Train a network whose backward pass is derived by hand: `python train.py --help`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from manual_bp.training.command import main

if TYPE_CHECKING:
    from manual_bp.training.run import Result as Result

__all__ = ["main"]

if __name__ == "__main__":
    import sys

    from manual_bp import console

    def work() -> int:
        main()
        from manual_bp.training.world import leave

        leave()
        return 0

    sys.exit(console.run(work, "train.py"))
