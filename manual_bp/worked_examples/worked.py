"""What a worked example returns: named values, autograd's answer, and sums over paths.

Document 1 first writes a partial derivative by the chain rule along every path, added up:

    ∂J/∂θ_ij^(l) = Σ over the paths from unit i of layer l+1 to an output  Π of the factors along it

Nothing is reused from one path to the next. The δ recursion saves that work.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import product
from operator import add, mul

from torch import Tensor

from manual_bp import pencil
from manual_bp.functional import mse_loss
from manual_bp.notation import NOTATIONS, Document1
from manual_bp.worked_examples.networks import Network, sigma, tensor


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
        """A line a path, then the numbers: as fractions and multiples of λ where they are."""
        chains = [" ".join(f"({f.symbol})" for f in path) for path in self.paths]
        numbers = [[pencil.exact(f.value) for f in path] for path in self.paths]
        products = [" · ".join(map(pencil.factor, path)) for path in numbers]
        value = reduce(add, (reduce(mul, path) for path in numbers))
        under = " " * len(self.symbol)
        lines = [*(f"{under} + {chain}" for chain in chains), f"{under} = {' + '.join(products)}"]
        lines.append(f"{under} {pencil.written(value)[0]}")
        return "\n".join([f"{self.symbol} = {chains[0]}", *lines[1:]])


@dataclass(frozen=True)
class Worked:
    """A worked example, its values by their symbols in the document."""

    values: Mapping[str, float]
    autograd: Mapping[str, float] = field(default_factory=dict)  # of the gradients among them
    partials: tuple[Partial, ...] = ()  # as sums over paths, where the document writes them so

    @property
    def max_relative_error(self) -> float:
        """The largest |value − autograd| / |autograd|; 0 where nothing is compared."""
        errors = (abs(self.values[name] - g) / (abs(g) or 1) for name, g in self.autograd.items())
        return max(errors, default=0.0)


def gradients(network: Network, x: Tensor | None = None, y: Tensor | None = None) -> list[Tensor]:
    """The gradients of W and b, layer by layer, by `.backward()` through our layers.

    Of the batch x (m, n_in), y (m, n_out), or of the network's own example.
    """
    x = tensor([network.x]) if x is None else x
    y = tensor([network.y]) if y is None else y
    model = network.model()
    mse_loss(model(x), y, network.cost).backward()
    return [p.grad for p in model.parameters() if p.grad is not None]


def partials(network: Network, matrices: Sequence[Tensor]) -> dict[str, float]:
    """Entries of each ∂C/∂W by their symbols in the network's document, the last layer's first.

    For a network without bias; `matrices` are of all layers, the first layer's first.
    """
    n = NOTATIONS[network.document](network.sizes, network.units)
    return {
        n.derivative(n.weight(layer, (i, j))): value
        for layer in range(n.last, 0, -1)
        for i, row in enumerate(matrices[layer - 1].tolist())
        for j, value in enumerate(row)
    }


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
