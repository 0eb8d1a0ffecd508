"""Partial derivatives as document 1 first writes them: the chain rule along every path, added up.

    ∂J/∂θ_ij^(l) = Σ over the paths from unit i of layer l+1 to an output  Π of the factors along it

Nothing is reused from one path to the next: that is what the δ recursion saves.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from manual_bp.worked_examples.networks import Network, minus

SUPERSCRIPT = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
SUBSCRIPT = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


@dataclass(frozen=True)
class Factor:
    """One partial-derivative term of a chain, such as ∂a₁⁽³⁾/∂z₁⁽³⁾, and its value."""

    symbol: str
    value: float


@dataclass(frozen=True)
class Partial:
    """∂J/∂θ as a sum over paths of products of factors.

    Attributes:
        symbol: ∂J/∂θ₁₁⁽¹⁾.
        paths: one chain of factors for each path, the cost's end first.
    """

    symbol: str
    paths: tuple[tuple[Factor, ...], ...]

    @property
    def value(self) -> float:
        """Σ_paths Π_factors."""
        return sum(math.prod(factor.value for factor in path) for path in self.paths)

    @property
    def terms(self) -> int:
        """How many partial-derivative terms the document writes for it."""
        return sum(len(path) for path in self.paths)

    def __str__(self) -> str:
        chains = (" ".join(f"({factor.symbol})" for factor in path) for path in self.paths)
        numbers = (" · ".join(f"({factor.value:.6g})" for factor in path) for path in self.paths)
        return minus(
            f"{self.symbol} = {' + '.join(chains)}\n    = {' + '.join(numbers)}\n    = "
            f"{self.value:.10g}"
        )


def partials_by_paths(network: Network) -> list[Partial]:
    """Every weight's partial derivative as its sum over paths (document 1), the last layer's first.

    For a network without bias, with sigmoids throughout and the cost ½ Σ (y − a)² of one example.

    Raises:
        ValueError: a network of another kind.
    """
    if (
        network.biases is not None
        or network.output != "sigmoid"
        or network.cost != "half_per_example"
    ):
        raise ValueError(
            f"partials_by_paths: {network.name}: a network of document 1 is needed (sigmoids, no "
            f"bias)"
        )
    a = _activations(network)
    return [
        Partial(f"∂J/∂{_weight(network, i, j, layer)}", tuple(_chains(network, a, i, j, layer)))
        for layer in reversed(range(1, len(network.weights) + 1))
        for i in range(network.sizes[layer])
        for j in range(network.sizes[layer - 1])
    ]


def _chains(
    network: Network, a: Sequence[Sequence[float]], i: int, j: int, layer: int
) -> Iterator[tuple[Factor, ...]]:
    """The chains of θ_ij^(layer): one for each way from unit i of the next layer to an output."""
    last = len(network.sizes)
    widths = network.sizes[layer + 1 :]
    for onward in product(*(range(width) for width in reversed(widths))):
        units = (*onward, i)  # from the output back to unit i of layer + 1
        o = units[0]
        output = _unit(network, "a", o, last)
        chain = [Factor(f"∂J/∂{output}", a[-1][o] - network.y[o])]  # ∂J/∂a = a − y
        for step, unit in enumerate(units):
            level = last - step  # the documents count layers from 1
            here = a[level - 1][unit]
            name, z = _unit(network, "a", unit, level), _unit(network, "z", unit, level)
            chain.append(Factor(f"∂{name}/∂{z}", here * (1 - here)))  # σ′(z) = a(1 − a)
            if step + 1 < len(units):
                before = units[step + 1]
                weight = network.weights[level - 2][unit][before]
                chain.append(Factor(f"∂{z}/∂{_unit(network, 'a', before, level - 1)}", weight))  # θ
            else:
                chain.append(
                    Factor(f"∂{z}/∂{_weight(network, i, j, layer)}", a[layer - 1][j])
                )  # the input
        yield tuple(chain)


def _activations(network: Network) -> list[list[float]]:
    """a^(1) = x, a^(l+1) = σ(Θ^(l) a^(l))."""
    a = [list(network.x)]
    for matrix in network.weights:
        a.append([_sigma(sum(w * v for w, v in zip(row, a[-1], strict=True))) for row in matrix])
    return a


def _sigma(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def _unit(network: Network, letter: str, unit: int, layer: int) -> str:
    """a₁⁽³⁾, or a⁽³⁾ where every layer has one neuron."""
    index = "" if max(network.sizes) == 1 else str(unit + 1).translate(SUBSCRIPT)
    return f"{letter}{index}⁽{str(layer).translate(SUPERSCRIPT)}⁾"


def _weight(network: Network, i: int, j: int, layer: int) -> str:
    """θ₂₁⁽¹⁾, to neuron 2 from neuron 1; θ₁ where every layer has one neuron."""
    if max(network.sizes) == 1:
        return f"θ{str(layer).translate(SUBSCRIPT)}"
    return f"θ{f'{i + 1}{j + 1}'.translate(SUBSCRIPT)}⁽{str(layer).translate(SUPERSCRIPT)}⁾"
