"""Partial derivatives as document 1 first writes them: the chain rule along every path, added up.

    ∂J/∂θ_ij^(l) = Σ over the paths from unit i of layer l+1 to an output  Π of the factors along it

Nothing is reused from one path to the next. The δ recursion saves that work.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from manual_bp.notation import Document1, minus
from manual_bp.worked_examples.networks import Network, sigma


@dataclass(frozen=True)
class Factor:
    """One partial-derivative term of a chain, such as ∂a₁⁽³⁾/∂z₁⁽³⁾, and its value."""

    symbol: str
    value: float


@dataclass(frozen=True)
class Partial:
    """∂J/∂θ as a sum over paths of products of factors."""

    symbol: str  # ∂J/∂θ₁₁⁽¹⁾
    paths: tuple[tuple[Factor, ...], ...]  # one chain of factors for each, the cost's end first

    @property
    def value(self) -> float:
        """Σ_paths Π_factors."""
        return sum(math.prod(factor.value for factor in path) for path in self.paths)

    @property
    def terms(self) -> int:
        """How many partial-derivative terms the document writes for it."""
        return sum(len(path) for path in self.paths)

    def __str__(self) -> str:
        chains = " + ".join(" ".join(f"({f.symbol})" for f in path) for path in self.paths)
        numbers = " + ".join(" · ".join(f"({f.value:.6g})" for f in path) for path in self.paths)
        return minus(f"{self.symbol} = {chains}\n    = {numbers}\n    = {self.value:.10g}")


def partials_by_paths(network: Network) -> list[Partial]:
    """Every weight's partial derivative as its sum over paths (document 1), the last layer's first.

    For a network without bias, with sigmoids throughout and the cost ½ Σ (y − a)² of one example.

    Raises:
        ValueError: a network of another kind.
    """
    kind = (network.biases, network.output, network.cost)
    if kind != (None, "sigmoid", "half_per_example"):
        raise ValueError(
            f"partials_by_paths: {network.name}: a network of document 1 is needed (sigmoids, no "
            f"bias)"
        )
    n = Document1(network.sizes)
    a = [list(network.x)]  # a⁽¹⁾ = x
    for matrix in network.weights:  # a⁽ˡ⁺¹⁾ = σ(Θ⁽ˡ⁾ a⁽ˡ⁾)
        a.append([sigma(sum(w * v for w, v in zip(row, a[-1], strict=True))) for row in matrix])
    return [
        Partial(n.derivative(n.weight(layer, (i, j))), tuple(_chains(network, a, i, j, layer)))
        for layer in range(n.last, 0, -1)
        for i in range(network.sizes[layer])
        for j in range(network.sizes[layer - 1])
    ]


def _chains(
    network: Network, a: Sequence[Sequence[float]], i: int, j: int, layer: int
) -> Iterator[tuple[Factor, ...]]:
    """The chains of one θ_ij: one for each way from unit i of its layer to an output.

    Layers are counted from the input, which is 0, as `Document1` takes them.
    """
    n = Document1(network.sizes)
    for onward in product(*map(range, network.sizes[:layer:-1])):
        units = (*onward, i)  # from the output back to unit i
        output = n.symbol("a", n.last, units[0])
        chain = [Factor(n.derivative(output), a[-1][units[0]] - network.y[units[0]])]  # a − y
        for step, unit in enumerate(units):
            at = n.last - step
            z, here = n.symbol("z", at, unit), a[at][unit]
            chain.append(Factor(f"∂{n.symbol('a', at, unit)}/∂{z}", here * (1 - here)))  # σ′(z)
            if at > layer:
                before = units[step + 1]
                theta = network.weights[at - 1][unit][before]
                chain.append(Factor(f"∂{z}/∂{n.symbol('a', at - 1, before)}", theta))  # ∂z/∂a = θ
            else:  # ∂z/∂θ = a
                chain.append(Factor(f"∂{z}/∂{n.weight(layer, (i, j))}", a[layer - 1][j]))
        yield tuple(chain)
