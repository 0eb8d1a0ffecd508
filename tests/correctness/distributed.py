"""DistributedDataParallel over gloo with two processes: every operation, clean and poisoned."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from manual_bp import SigmoidFunction
from tests.correctness import compare
from tests.correctness.operations import OPERATIONS, Operation
from tests.correctness.poison import poisoned

PROCESSES = 2
STATES: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "clean": nullcontext,
    "poisoned": poisoned,
    "sigmoid poisoned": partial(poisoned, SigmoidFunction),
}


class Trainable(nn.Module):
    """An operation whose inputs are parameters; a process's data is a factor on the first."""

    def __init__(self, function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> None:
        super().__init__()
        self.function = function
        self.inputs = nn.ParameterList([t.clone() for t in inputs])

    def forward(self, factor: Tensor) -> Tensor:
        first, *others = self.inputs
        return self.function(first * factor, *others)


def factor_of(rank: int) -> Tensor:
    return torch.tensor(0.5 + rank, dtype=torch.float64)


def gradients(model: nn.Module, rank: int) -> list[Tensor]:
    """The parameters' gradients after one backward pass on this process's data."""
    value = model(factor_of(rank))
    value.backward(compare.make_cotangent(value))
    return [p.grad for p in model.parameters() if p.grad is not None]


def _work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=PROCESSES
    )
    results = {}
    for kind, state in STATES.items():
        for op in OPERATIONS:
            with state():
                results[kind, op.name] = gradients(
                    DistributedDataParallel(Trainable(op.ours, op.inputs())), rank
                )
    if rank == 0:
        torch.save(results, Path(folder) / "results.pt")
    dist.barrier()
    dist.destroy_process_group()
    # Gloo's threads may outlive the group, and abort a process whose interpreter is torn down under
    # them.
    os._exit(0)


@cache
def ran() -> dict[tuple[str, str], list[Tensor]]:
    """Every operation's gradients in every state, as process 0 has them after the all-reduce."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_work, args=(folder,), nprocs=PROCESSES)
        results: dict[tuple[str, str], list[Tensor]] = torch.load(Path(folder) / "results.pt")
    return results


def alone(op: Operation, function: Callable[..., Tensor]) -> list[Tensor]:
    """What DistributedDataParallel must give: the mean over the processes' data, computed here."""
    each = [gradients(Trainable(function, op.inputs()), rank) for rank in range(PROCESSES)]
    return [torch.stack(pair).mean(0) for pair in zip(*each, strict=True)]
