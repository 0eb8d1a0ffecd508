"""An epoch asks its device for nothing until its end, and then once.

On fake tensors, which have shapes and no values, whatever needs a value raises: a figure that is
read, a branch on one, a shape that depends on one. On CUDA whatever waits raises, copies to the
device too.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import _disable_current_modes

from manual_bp.devices import to_host
from manual_bp.training import data, engines, measures
from manual_bp.training import run as run_module
from manual_bp.training.dataset import Part
from manual_bp.training.options import parse
from manual_bp.training.plan import settle
from manual_bp.training.run import Run
from manual_bp.training.world import World

CPU = torch.device("cpu")
ENGINES = [["autograd"], ["autograd", "--impl", "builtin"]]  # direct: test_fake_cuda.py


def run_of(*flags: str, device: torch.device = CPU, examples: int | None = None) -> Run:
    options, _ = parse(["--dataset", "digits", "--epochs", "2", "--engine", *flags])
    digits = data.load("digits")
    digits = replace(digits, train=digits.train[:examples])
    return Run(settle(options, digits, device, World(), None), digits, World(), None)


def fake_run(mode: FakeTensorMode, flags: list[str]) -> Run:
    """A run on the digits whose network and data are fake tensors."""
    run = run_of(*flags, examples=100)  # a fake step takes many times as long as a true one
    for module in run.model:
        for name, parameter in list(module.named_parameters()):
            setattr(module, name, nn.Parameter(mode.from_tensor(parameter.detach())))
    run.parts = replace(
        run.parts,
        **{
            name: Part(mode.from_tensor(part.images), mode.from_tensor(part.labels))
            for name, part in (("train", run.parts.train), ("validation", run.parts.validation))
        },
    )
    with mode:
        run.engine = engines.build(run.plan, run.model, run.world)
    return run


@pytest.fixture
def mode() -> FakeTensorMode:
    return FakeTensorMode()


@pytest.mark.parametrize("flags", ENGINES, ids=" ".join)
def test_an_epoch_is_read_once(
    flags: list[str], mode: FakeTensorMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = fake_run(mode, flags)
    reads: list[Any] = []

    def read(tree: Any) -> Any:
        values, state = tree
        reads.append(tree)
        with _disable_current_modes():  # what comes back is real
            return torch.zeros(values.shape, dtype=torch.float64), state

    monkeypatch.setattr(run_module, "to_host", read)
    with mode:
        row, state = run._epoch(1)
    assert len(reads) == 1
    assert {
        "cost/train",
        "cost/validation",
        "delta_norm/layer02",
        "slope/layer01",
        "update_ratio/layer02.bias",
    } <= set(row)
    assert list(state["model"]) == ["0.weight", "0.bias", "2.weight", "2.bias"]


def test_a_figure_read_on_the_way_is_found(
    mode: FakeTensorMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = fake_run(mode, ["autograd"])
    of_epoch = measures.of_epoch

    def curious(*args: Any) -> dict[str, torch.Tensor]:
        found = of_epoch(*args)
        print(found["cost/validation"].item())
        return found

    monkeypatch.setattr(measures, "of_epoch", curious)
    with mode, pytest.raises(DataDependentOutputException):
        run._epoch(1)


@pytest.mark.cuda
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype:UserWarning")
@pytest.mark.parametrize(
    "flags",
    [
        *ENGINES,
        ["direct"],
        ["direct", "--momentum", "0.5"],
        ["direct", "--augment"],
        ["autograd", "--amp", "bf16", "--weight-decay", "0.1"],
    ],
    ids=" ".join,
)
def test_on_cuda_an_epoch_is_waited_for_once(
    flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(*flags, device=torch.device("cuda", 0))
    run._epoch(1)  # records the graph; its libraries start
    reads: list[Any] = []

    def read(tree: Any) -> Any:
        torch.cuda.set_sync_debug_mode("default")
        reads.append(tree)
        return to_host(tree)

    monkeypatch.setattr(run_module, "to_host", read)
    torch.cuda.set_sync_debug_mode("error")
    try:
        row, _ = run._epoch(2)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(reads) == 1
    assert row["cost/train"] < 0.5


def test_what_is_on_the_cpu_is_handed_on_as_it_is() -> None:
    weight = torch.rand(2)
    tree = {"model": {"0.weight": weight}, "lrs": [0.5, (weight, "name")], "none": None}
    host = to_host(tree)
    assert str(host) == str(tree)
    assert host["model"]["0.weight"].data_ptr() == weight.data_ptr()
