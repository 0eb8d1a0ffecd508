"""Defaults that suit a data set and a network: epochs, batches and learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from manual_bp.normalisation import scale


@dataclass(frozen=True)
class Recipe:
    """Of a data set: epochs, examples a step, and η for the default network and cost."""

    epochs: int
    batch_size: int
    lr: float


MNIST = Recipe(epochs=10, batch_size=10, lr=3.0)
DIGITS = Recipe(epochs=60, batch_size=5, lr=2.0)

_FEW = 10_000  # examples, of which many passes are needed
_WIDTH = 128  # of the last hidden layer, up to which the recipe's η serves
_LARGE_BATCH, _SMALL_BATCH = 32, 4


def recipe(dataset: str, examples: int) -> Recipe:
    """Of the data set, or, for other data, of the one that has about as many examples."""
    known = {"mnist": MNIST, "fashion-mnist": MNIST, "digits": DIGITS}
    return known.get(dataset, DIGITS if examples < _FEW else MNIST)


def learning_rate(
    recipe: Recipe, cost: str, sizes: Sequence[int], output: str, batch_size: int, momentum: float
) -> float:
    """η for any network and descent, so that no layer freezes in the first steps.

    At first all hidden outputs are ½, so the first update moves every output the same way, in
    proportion to the last hidden width. Beyond 128 units η is therefore multiplied by
    (128/width)^1.25. The other factors were measured.

    Args:
        recipe: the data set's.
        cost: the normalisation; the same step needs another η.
        sizes: the width of each layer, the input's first. Without a hidden layer the input's width
            counts.
        output: "linear" has no slope of at most ¼ to shorten the step.
        batch_size: m.
        momentum: μ makes steps 1/(1 − μ) times as long, and lets them overshoot.
    """
    *_, width, n_out = sizes
    shape = (batch_size, n_out)
    lr = recipe.lr * scale("half_per_example", shape) / scale(cost, shape)
    lr *= min(1.0, _WIDTH / width) ** 1.25 * (1 - momentum) ** 1.5
    if output == "linear":
        lr /= 30
    if batch_size >= _LARGE_BATCH:
        lr /= 1.5
    elif batch_size < _SMALL_BATCH:
        lr /= 3
    return float(f"{lr:.3g}")  # a number that can be read
