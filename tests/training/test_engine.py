"""The engines step by step: every way to compute a step walks the same trajectory."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from manual_bp import direct, to_torch
from manual_bp.training import data, network
from manual_bp.training.autograd_engine import AutogradEngine
from manual_bp.training.options import parse
from manual_bp.training.plan import Plan, settle
from manual_bp.training.world import World

DIGITS = data.load("digits")
PART = DIGITS.train
CPU = torch.device("cpu")


def plan(*flags: str) -> Plan:
    options, _ = parse(["--batch-size", "10", *flags])
    return settle(options, DIGITS, CPU, World(), None)


def deep(*flags: str) -> Plan:
    return plan("--dtype", "float64", "--hidden", "24", "16", *flags)


def trajectory(flags: list[str], steps: int) -> list[list[Tensor]]:
    """The parameters after each of `steps` steps."""
    chosen = deep(*flags)
    model = network.build(chosen, CPU)
    engine = AutogradEngine(chosen, model, World())
    return [
        [p.detach().clone() for p in model.parameters()]
        for rows in batches(steps)
        if engine.step(PART.images[rows], PART.labels[rows], 0.5, len(rows))
    ]


def direct_trajectory(flags: list[str], steps: int) -> list[list[Tensor]]:
    chosen = deep(*flags)
    model = network.build(chosen, CPU)
    trainer = direct.Trainer(
        model,
        reduction=chosen.cost,
        lr=0.5,
        momentum=chosen.momentum,
        weight_decay=chosen.weight_decay,
        batch_size=10,
    )
    table = torch.eye(10, dtype=torch.float64)
    path = []
    for rows in batches(steps):
        trainer.step(PART.images[rows].double() / 255, table[PART.labels[rows]])
        path.append([p.detach().clone() for p in model.parameters()])
    return path


def batches(steps: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(len(PART), (10,), generator=generator) for _ in range(steps)]


def furthest_apart(one: list[list[Tensor]], other: list[list[Tensor]]) -> float:
    """The largest difference between two trajectories, over the size of what moved."""
    moved = max(
        (last - first).abs().max().item() for first, last in zip(one[0], one[-1], strict=True)
    )
    assert moved > 1e-3, "nothing moved, so agreement would mean nothing"
    pairs = [
        (p, q)
        for here, there in zip(one, other, strict=True)
        for p, q in zip(here, there, strict=True)
    ]
    return max((p - q).abs().max().item() for p, q in pairs)


@pytest.mark.parametrize("cost", ["half_per_example", "half_per_element", "mean", "sum"])
def test_manual_builtin_and_direct_agree_at_every_one_of_200_steps(cost: str) -> None:
    flags = ["--cost", cost]
    reference = trajectory([*flags, "--impl", "builtin"], 200)
    assert furthest_apart(reference, trajectory(flags, 200)) < 1e-10
    assert furthest_apart(reference, direct_trajectory(flags, 200)) < 1e-10


def test_momentum_and_weight_decay_agree_too() -> None:
    flags = ["--momentum", "0.8", "--weight-decay", "1e-3", "--output", "linear", "--cost", "mean"]
    reference = trajectory([*flags, "--impl", "builtin"], 200)
    assert furthest_apart(reference, trajectory(flags, 200)) < 1e-10
    assert furthest_apart(reference, direct_trajectory(flags, 200)) < 1e-10


def test_another_cost_walks_another_way() -> None:
    one, other = (trajectory(["--cost", cost], 50) for cost in ("half_per_example", "mean"))
    assert furthest_apart(one, other) > 1e-3


@pytest.mark.slow
def test_compiled_training_walks_the_same_way() -> None:
    flags = ["--cost", "mean"]
    assert furthest_apart(trajectory(flags, 20), trajectory([*flags, "--compile"], 20)) < 1e-10


@pytest.mark.parametrize("flag", ["off", "bf16", "fp16"])
def test_norms_are_those_of_the_gradient_and_of_delta_in_every_precision(flag: str) -> None:
    chosen = plan("--hidden", "24", "--amp", flag)
    model = network.build(chosen, CPU)
    twin = to_torch(copy.deepcopy(model)).double()
    rows = batches(1)[0]
    norms, outputs = AutogradEngine(chosen, model, World()).step(
        PART.images[rows], PART.labels[rows], 0.1, 10
    )
    z1: Any = twin[0](PART.images[rows].double() / 255)
    z2: Any = twin[2](twin[1](z1))
    a = twin[3](z2)
    cost = (a - nn.functional.one_hot(PART.labels[rows], 10)).square().sum() / 20
    expected = [g.norm().item() for g in torch.autograd.grad(cost, [*twin.parameters(), z1, z2])]
    tolerance = {"off": 1e-5, "bf16": 2e-2, "fp16": 2e-3}[flag]  # a few times 2⁻²⁴, 2⁻⁸, 2⁻¹¹
    assert [norm.item() for norm in norms] == pytest.approx(expected, rel=tolerance)
    torch.testing.assert_close(outputs.double(), a, rtol=tolerance, atol=0)
