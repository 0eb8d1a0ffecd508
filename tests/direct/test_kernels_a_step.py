"""How many kernels a step of the graph loop launches, counted on tensors without values."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import manual_bp as mbp
from manual_bp import direct
from manual_bp.direct.cuda_graph import GraphLoop

# Calls that launch nothing: views and new memory.
VIEWS = {
    *("t", "transpose", "view", "select", "slice", "split", "unbind", "detach", "unsqueeze"),
    *("expand", "permute", "alias", "empty", "new_empty", "empty_like", "as_strided"),
}
CONFIGURATIONS = {
    "784-30-10 b10": ([784, 30, 10], 10, 15, 19),
    "784-128-10 b64": ([784, 128, 10], 64, 15, 19),
    "784-512-512-10 b1024": ([784, 512, 512, 10], 1024, 22, 28),
    "784-1024-1024-1024-10 b4096": ([784, 1024, 1024, 1024, 10], 4096, 29, 37),
}


class Kernels(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        if name not in VIEWS:
            self.names[name] += 1
        return func(*args, **(kwargs or {}))


def kernels(sizes: list[int], batch: int, steps: int, norms: bool, **options: float) -> int:
    """What a chunk of so many steps launches, the gather and the statistics included."""
    model = mbp.MLP(sizes, device="meta")
    trainer = direct.Trainer(model, lr=0.0, batch_size=batch, backend="torch", **options)  # type: ignore[arg-type]
    loop = trainer._loop = GraphLoop(trainer._descent)
    loop.steps_per_chunk = steps
    images = torch.empty(steps * batch, sizes[0], dtype=torch.uint8, device="meta")
    targets = torch.empty(steps * batch, sizes[-1], device="meta")
    # `launch` prepares the chunk and sums it up: the loop alone is counted.
    run = loop.run
    with Kernels() as found:

        def counted(task: Any) -> None:
            found.names.clear()
            run(task)
            counted.total = sum(found.names.values())  # type: ignore[attr-defined]

        loop.run = counted  # type: ignore[method-assign]
        trainer.launch(images, targets, norms=norms)
    return counted.total  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("norms", [False, True], ids=["plain", "norms"])
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_step_launches_few_kernels(name: str, norms: bool) -> None:
    sizes, batch, plain, with_norms = CONFIGURATIONS[name]
    few, more = (kernels(sizes, batch, steps, norms) for steps in (4, 8))
    assert (more - few) / 4 <= (with_norms if norms else plain)


def test_momentum_and_weight_decay_launch_few_kernels() -> None:
    sizes, batch, *_ = CONFIGURATIONS["784-128-10 b64"]

    def a_step(**options: float) -> float:
        few, more = (kernels(sizes, batch, steps, False, **options) for steps in (4, 8))
        return (more - few) / 4

    assert a_step(momentum=0.9) <= 18  # W ← W − η v apart, and no η in δ
    assert a_step(weight_decay=0.1) <= 19


@pytest.mark.parametrize("norms", [False, True], ids=["plain", "norms"])
def test_a_chunk_launches_few_kernels_beside_its_steps(norms: bool) -> None:
    few, more = (kernels([784, 128, 10], 64, steps, norms) for steps in (4, 8))
    assert few - (more - few) <= (34 if norms else 20)


def test_a_chunk_is_of_the_size_of_the_device() -> None:
    """What a chunk launches is shared by many steps, and its inputs fit into a GPU's memory."""
    steps = {}
    for name, (sizes, batch, *_) in CONFIGURATIONS.items():
        model = mbp.MLP(sizes, device="meta")
        trainer = direct.Trainer(model, lr=0.0, batch_size=batch, backend="torch")
        steps[name] = GraphLoop(trainer._descent).steps_per_chunk
    assert list(steps.values()) == [256, 128, 8, 4]
