"""The documents' example networks as data: weights, one example, cost and learning rate.

The documents give no numbers. Here every weight is rational or a rational multiple of λ = ln 3, and
each pre-activation is a whole multiple of λ. Then everything can be worked by hand, unrounded:

    σ(kλ) = 3ᵏ / (1 + 3ᵏ):  σ(−λ) = 1/4   σ(0) = 1/2   σ(λ) = 3/4   σ(2λ) = 9/10
    σ′(kλ) = a(1 − a):      σ′(±λ) = 3/16  σ′(0) = 1/4  σ′(2λ) = 9/100
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from random import Random
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # torch takes a second to import: the commands print their help without torch
    from torch import Tensor

    from manual_bp.mlp import MLP

LN3 = math.log(3)  # λ

Row = tuple[float, ...]
Matrix = tuple[Row, ...]


@dataclass(frozen=True)
class Network:
    """One network of the documents with the example it is worked for."""

    name: str  # as the commands of trace and worked_examples take it
    document: Literal[1, 2, 3]
    title: str
    weights: tuple[Matrix, ...]  # W of each layer, (n_out, n_in), rows first
    x: Row  # (n_in,)
    y: Row  # (n_out,)
    cost: str = "half_per_example"  # a `reduction` of `manual_bp.functional.mse_loss`
    biases: tuple[Row, ...] | None = None  # b of each layer, if the network has any
    output: Literal["sigmoid", "linear"] = "sigmoid"
    lr: float = 0.5  # η
    units: tuple[tuple[str, ...], ...] | None = None  # document 2's names, the input's first

    @property
    def sizes(self) -> tuple[int, ...]:
        """The width of each layer, the input's first."""
        return (len(self.x), *(len(matrix) for matrix in self.weights))

    def model(self) -> MLP:
        """Our layers in float64 with the network's weights."""
        import torch

        from manual_bp.linear import Linear
        from manual_bp.mlp import MLP

        with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they are
            model = MLP(
                self.sizes, output=self.output, bias=self.biases is not None, dtype=torch.float64
            )
        layers = [layer for layer in model if isinstance(layer, Linear)]
        with torch.no_grad():
            for layer, matrix in zip(layers, self.weights, strict=True):
                layer.weight.copy_(tensor(matrix))
            for layer, row in zip(layers, self.biases or (), strict=False):
                layer.bias.copy_(tensor(row))
        return model

    def drawn(self, seed: int) -> Network:
        """The network with random weights: ±0.1, ±0.2, … ±1, which a pencil can start from."""
        random = Random(seed)

        def row(n: int) -> Row:
            return tuple(random.choice((-1, 1)) * random.randint(1, 10) / 10 for _ in range(n))

        weights = tuple(tuple(row(len(old)) for old in matrix) for matrix in self.weights)
        biases = None if self.biases is None else tuple(row(len(old)) for old in self.biases)
        return replace(self, weights=weights, biases=biases)


def random_network(sizes: Sequence[int], document: Literal[1, 2, 3], seed: int) -> Network:
    """A network of these sizes as the document has it: document 3 alone has biases, and 1/n_out.

    Inputs are 0.1, 0.2, … 1, targets 0 or 1, weights those of `Network.drawn`.
    """
    random, third = Random(f"example {seed}"), document == 3
    network = Network(
        name="random",
        document=document,
        title=f"A {'-'.join(map(str, sizes))} network",
        weights=tuple(((0.0,) * n_in,) * n_out for n_in, n_out in pairwise(sizes)),
        x=tuple(random.randint(1, 10) / 10 for _ in range(sizes[0])),
        y=tuple(float(random.randint(0, 1)) for _ in range(sizes[-1])),
        cost="half_per_element" if third else "half_per_example",
        biases=tuple((0.0,) * n for n in sizes[1:]) if third else None,
    )
    return network.drawn(seed)


def tensor(values: Sequence[float] | Sequence[Sequence[float]]) -> Tensor:
    """A float64 tensor: the worked examples are exact, and float32 would round them."""
    import torch

    return torch.tensor(values, dtype=torch.float64)


def sigma(z: float) -> float:
    """σ(z) of a number."""
    return 1 / (1 + math.exp(-z))


def _lambdas(rows: Iterable[Iterable[float]]) -> Matrix:
    """Multiples of λ."""
    return tuple(tuple(k * LN3 for k in row) for row in rows)


NETWORKS: dict[str, Network] = {
    network.name: network
    for network in (
        Network(
            name="one-neuron",
            document=1,
            title="one input neuron, one hidden layer neuron, one output neuron",
            weights=(_lambdas([[1 / 2]]), _lambdas([[8 / 3]])),
            x=(2.0,),
            y=(1.0,),
        ),
        Network(
            name="two-two-two",
            document=1,
            title="two neurons in the input, hidden and output layers, no bias",
            weights=(_lambdas([[3, -1], [1, -1]]), _lambdas([[2, -2], [2, 2]])),
            x=(1.0, 2.0),
            y=(1.0, 0.0),
        ),
        Network(
            name="symmetry",
            document=1,
            title="two-two-two with equal weights in each layer",
            weights=(_lambdas([[1 / 3] * 2] * 2), _lambdas([[2 / 3] * 2] * 2)),
            x=(1.0, 2.0),
            y=(1.0, 0.0),
        ),
        Network(
            name="one-path",
            document=2,
            title="case 1: i → j → k → o, linear output",
            weights=(_lambdas([[1 / 2]]), _lambdas([[8 / 3]]), ((2.0,),)),
            x=(2.0,),
            y=(1.0,),
            output="linear",
            units=(("i",), ("j",), ("k",), ("o",)),
        ),
        Network(
            name="several-inputs",
            document=2,
            title="case 2: {i, j} → k → o, linear output",
            weights=(_lambdas([[2, -1]]), ((3.0,),)),
            x=(2.0, 3.0),
            y=(1.0,),
            output="linear",
            units=(("i", "j"), ("k",), ("o",)),
        ),
        Network(
            name="branching",
            document=2,
            title="case 3: in → i → {j, k} → o, linear output",
            weights=(_lambdas([[1 / 2]]), _lambdas([[4 / 3], [8 / 3]]), ((2.0, -1.0),)),
            x=(2.0,),
            y=(1.0,),
            output="linear",
            units=(("in",), ("i",), ("j", "k"), ("o",)),
        ),
        Network(
            name="single-layer",
            document=3,
            title="the output layer alone: two activations in, two neurons, bias",
            weights=(_lambdas([[2, -4], [1, 4]]),),
            biases=_lambdas([[1, -1]]),
            x=(1.0, 0.5),
            y=(1.0, 0.0),
            cost="half_per_element",
        ),
        Network(
            name="vector-form",
            document=3,
            title="two layers of two neurons, bias",
            weights=(_lambdas([[1, -1], [2, -1]]), _lambdas([[2, -2], [2, 2]])),
            biases=_lambdas([[2, -1], [1, -1]]),
            x=(1.0, 2.0),
            y=(1.0, 0.0),
            cost="half_per_element",
        ),
    )
}
