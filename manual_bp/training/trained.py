"""A run that was trained: its plan, and its network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from manual_bp.mlp import MLP
from manual_bp.training import checkpoint, network
from manual_bp.training.errors import UserError
from manual_bp.training.plan import Plan

RUNS = Path("runs")  # where train.py puts runs by default


@dataclass(frozen=True)
class Trained:
    """A run as its checkpoint has it."""

    folder: Path
    plan: Plan
    epoch: int  # epochs that were trained
    model: MLP  # on the CPU, in eval mode, without gradients to come


def read(run: str | Path, runs: Path = RUNS) -> Trained:
    """Read a run's network from its checkpoint.

    Args:
        run: a run folder, the name of one in `runs`, its checkpoint.pt, or "latest", the one whose
            checkpoint was written last there.
        runs: the folder of run folders.

    Raises:
        UserError: no such run, or a damaged or foreign checkpoint.
    """
    saved = checkpoint.read(checkpoint.find(str(run), runs))
    plan = saved.plan
    # --impl builtin's torch.nn twin has the same state dict.
    model = network.build(replace(plan, impl="manual"), torch.device("cpu"))
    assert isinstance(model, MLP)
    try:
        model.load_state_dict(saved.model)
    except (AttributeError, RuntimeError, TypeError):
        keys = ", ".join(map(str, list(saved.model)[:4])) or "nothing"
        raise UserError(
            f"{saved.path}: holds {keys}, which do not make the network {plan.network} of its "
            f"plan: the file was changed"
        ) from None
    return Trained(saved.path.parent, plan, saved.epoch, model.eval())


def load(run: str | Path = "latest", logdir: str | Path = RUNS) -> MLP:
    """The network that a run of `train.py` trained, on the CPU, in eval mode.

        model = mbp.load("latest")
        a = model(x)  # x (m, n_in): pixels from 0 to 1, bright strokes on 0; a (m, n_out)

    Args:
        run: a run folder, the name of one in `logdir`, its checkpoint.pt, or "latest", the one
            whose checkpoint was written last in `logdir`.
        logdir: the folder of run folders.

    Raises:
        UserError: no such run, or a damaged or foreign checkpoint.
    """
    return read(run, Path(logdir)).model
