"""The learning rate that a run takes when none is given."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from manual_bp.training.recipe import DIGITS, MNIST, learning_rate
from manual_bp.training.result import Result

DEFAULT = {
    "cost": "half_per_example",
    "sizes": (784, 128, 10),
    "output": "sigmoid",
    "batch_size": 10,
    "momentum": 0.0,
}


def rate(**other: object) -> float:
    return learning_rate(MNIST, **{**DEFAULT, **other})  # type: ignore[arg-type]


def test_the_recipe_itself() -> None:
    assert rate() == MNIST.lr
    assert learning_rate(DIGITS, **{**DEFAULT, "batch_size": DIGITS.batch_size}) == DIGITS.lr  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cost", "factor"), [("half_per_element", 10), ("mean", 5), ("sum", 1 / 20)]
)
def test_another_normalisation_takes_the_same_step(cost: str, factor: float) -> None:
    assert rate(cost=cost) == pytest.approx(factor * MNIST.lr, rel=5e-3)


def test_longer_steps_of_their_own_take_a_smaller_rate() -> None:
    assert rate(momentum=0.9) < 0.1 * MNIST.lr
    assert rate(sizes=(784, 30, 10)) == MNIST.lr
    assert [
        rate(sizes=(784, n, 10)) < 0.5 * rate(sizes=(784, n // 2, 10)) for n in (256, 512, 1024)
    ] == [True] * 3
    assert rate(output="linear") < 0.05 * MNIST.lr


FLAGS = [
    "--hidden 512",
    "--cost sum",
    "--cost mean --batch-size 50 --epochs 60",
    "--momentum 0.9",
    "--output linear",
    "--output linear --hidden 512",
    "--batch-size 1 --epochs 10",
    "--hidden",
]


@pytest.mark.parametrize(
    "flags",
    [*FLAGS[:2], *(pytest.param(flags, marks=pytest.mark.soak) for flags in FLAGS[2:])],
)
def test_no_flag_alone_freezes_a_run(
    train: Callable[..., Result], capsys: pytest.CaptureFixture[str], flags: str
) -> None:
    result = train("--engine", "direct", "--epochs", "30", *flags.split())
    assert result.test_accuracy > 0.85
    assert "trouble" not in capsys.readouterr().out
