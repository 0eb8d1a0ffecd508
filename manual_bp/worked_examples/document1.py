"""Document 1: one neuron per layer, two-two-two without bias, and why the first weights are random.

Every number below is worked by hand; λ = ln 3 = 1.0986122886681098 (see `networks`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from manual_bp.notation import Document1
from manual_bp.worked_examples.networks import NETWORKS, Network, tensor
from manual_bp.worked_examples.worked import Worked, gradients, partials, partials_by_paths


@dataclass(frozen=True)
class Backpropagation:
    """One forward and one backward pass; lists run from the first layer to the last."""

    a: list[Tensor]  # activations a⁽¹⁾ = x, …, a⁽ᴸ⁾, each (m, n)
    delta: list[Tensor]  # error signals δ⁽²⁾, …, δ⁽ᴸ⁾, each (m, n)
    gradients: list[Tensor]  # ∂J/∂Θ⁽¹⁾, …, ∂J/∂Θ⁽ᴸ⁻¹⁾, each (n_out, n_in)


def backpropagate(weights: list[Tensor], x: Tensor, y: Tensor) -> Backpropagation:
    """Document 1's seven steps, mended (see the table of slips in README.md here).

    Args:
        weights: Θ⁽¹⁾, …, Θ⁽ᴸ⁻¹⁾, each (n_out, n_in); no bias, as in the document.
        x: inputs (m, n_in).
        y: targets (m, n_out); the cost is J = 1/(2m) Σ (y − a)².
    """
    a = [x]
    for theta in weights:  # step 1: forward
        a.append(torch.sigmoid(a[-1] @ theta.t()))  # a⁽ˡ⁺¹⁾ = f(a⁽ˡ⁾ Θ⁽ˡ⁾ᵀ)  (m, n_out)
    # step 2: δ⁽ᴸ⁾ = 1/m (a⁽ᴸ⁾ − y) ⊙ f′(z⁽ᴸ⁾)  (m, n_out)
    delta = [(a[-1] - y) / len(y) * a[-1] * (1 - a[-1])]
    for layer in reversed(range(1, len(weights))):  # steps 4 and 7: go back one layer
        slope = a[layer] * (1 - a[layer])  # f′(z⁽ˡ⁾)  (m, n)
        # step 5: δ⁽ˡ⁾ = δ⁽ˡ⁺¹⁾ Θ⁽ˡ⁾ ⊙ f′(z⁽ˡ⁾)  (m, n)
        delta.insert(0, delta[0] @ weights[layer] * slope)
    # steps 3 and 6: ∂J/∂Θ⁽ˡ⁻¹⁾ = (δ⁽ˡ⁾)ᵀ a⁽ˡ⁻¹⁾  (n_out, n_in)
    return Backpropagation(a, delta, [d.t() @ before for d, before in zip(delta, a, strict=False)])


def one_neuron_per_layer() -> Worked:
    """x → z⁽²⁾, a⁽²⁾ → z⁽³⁾, a⁽³⁾ → J: two derivatives, eight terms (document 1).

    x = 2, y = 1, θ₁ = λ/2, θ₂ = 8λ/3, J = ½ (y − a⁽³⁾)².

        z⁽²⁾ = θ₁ x    = λ/2 · 2    = λ     a⁽²⁾ = 3/4    ∂a⁽²⁾/∂z⁽²⁾ = 3/4 · 1/4  = 3/16
        z⁽³⁾ = θ₂ a⁽²⁾ = 8λ/3 · 3/4 = 2λ    a⁽³⁾ = 9/10   ∂a⁽³⁾/∂z⁽³⁾ = 9/10 · 1/10 = 9/100
        J = ½ (1/10)² = 1/200               ∂J/∂a⁽³⁾ = 9/10 − 1 = −1/10

        ∂J/∂θ₂ = (−1/10)(9/100)(3/4)             = −27/4000 = −0.00675
        ∂J/∂θ₁ = (−1/10)(9/100)(8λ/3)(3/16)(2)   = −9λ/1000 = −0.009887510598
    """
    return _by_paths(NETWORKS["one-neuron"])


def two_two_two() -> Worked:
    """Two inputs, two hidden, two output neurons: 8 partials, 52 terms (document 1).

    x = (1, 2), y = (1, 0), Θ⁽¹⁾ = λ [[3, −1], [1, −1]], Θ⁽²⁾ = λ [[2, −2], [2, 2]], no bias,
    J = ½ Σ (y − a⁽³⁾)².

        z₁⁽²⁾ = 3λ − 2λ = λ         a₁⁽²⁾ = 3/4     slope 3/16
        z₂⁽²⁾ = λ − 2λ = −λ         a₂⁽²⁾ = 1/4     slope 3/16
        z₁⁽³⁾ = 3λ/2 − λ/2 = λ      a₁⁽³⁾ = 3/4     slope 3/16
        z₂⁽³⁾ = 3λ/2 + λ/2 = 2λ     a₂⁽³⁾ = 9/10    slope 9/100
        J = ½ (1/16 + 81/100) = 349/800

        δ₁⁽³⁾ = (3/4 − 1)(3/16)   = −3/64        δ₂⁽³⁾ = (9/10 − 0)(9/100) = 81/1000
        δ₁⁽²⁾ = (−3/64 · 2λ + 81/1000 · 2λ)(3/16)  = 3λ/8 ·  273/8000 =  819λ/64000 = 0.01405880413
        δ₂⁽²⁾ = ( 3/64 · 2λ + 81/1000 · 2λ)(3/16)  = 3λ/8 · 1023/8000 = 3069λ/64000 = 0.05268189240

        ∂J/∂Θ⁽²⁾ = [[δ₁⁽³⁾ · 3/4, δ₁⁽³⁾ · 1/4], [δ₂⁽³⁾ · 3/4, δ₂⁽³⁾ · 1/4]]
                 = [[−9/256, −3/256], [243/4000, 81/4000]]
        ∂J/∂Θ⁽¹⁾ = [[δ₁⁽²⁾ · 1, δ₁⁽²⁾ · 2], [δ₂⁽²⁾ · 1, δ₂⁽²⁾ · 2]]
                 = λ/64000 [[819, 1638], [3069, 6138]]

    Terms: each of the 4 weights in Θ⁽²⁾ has one path of 3 factors, each of the 4 weights in Θ⁽¹⁾
    two paths of 5 factors: 4 · 3 + 4 · 2 · 5 = 52.
    """
    return _by_paths(NETWORKS["two-two-two"])


def symmetry(steps: int = 500, seed: int = 0) -> Worked:
    """Equal weights keep all hidden units equal; random ones break the symmetry (document 1).

    two-two-two with x = (1, 2), y = (1, 0), every θ⁽¹⁾ = λ/3, every θ⁽²⁾ = 2λ/3:

        z₁⁽²⁾ = z₂⁽²⁾ = λ/3 + 2λ/3 = λ              a₁⁽²⁾ = a₂⁽²⁾ = 3/4
        z₁⁽³⁾ = z₂⁽³⁾ = 2λ/3 (3/4 + 3/4) = λ        a₁⁽³⁾ = a₂⁽³⁾ = 3/4
        δ₁⁽³⁾ = (−1/4)(3/16) = −3/64               δ₂⁽³⁾ = (3/4)(3/16) = 9/64
        δ₁⁽²⁾ = δ₂⁽²⁾ = 2λ/3 (−3/64 + 9/64)(3/16) = 3λ/256 = 0.01287436276
        ∂J/∂Θ⁽²⁾ = [[−9/256, −9/256], [27/256, 27/256]]
        ∂J/∂Θ⁽¹⁾ = λ/256 [[3, 6], [3, 6]]

    Both hidden units have the same row of Θ⁽¹⁾ and the same column of Θ⁽²⁾. Therefore their a, δ
    and gradient are equal, and the update leaves the rows and the columns equal. The two output
    units differ, because their targets do. The two columns of ∂J/∂Θ⁽¹⁾ differ, because their inputs
    do.

    A second example, x = (2, 1), y = (0, 1), is the first with its units swapped. With both, all
    four weights of a layer stay equal, and all outputs are one number a. Then
    J = ½ (1 − a)² + ½ a² is ¼ at best. Weights drawn from [−0.1, 0.1] part in as many updates, with
    η = ½, and learn both examples.

    Args:
        steps: how many updates both networks get.
        seed: of the random weights.
    """
    network = NETWORKS["symmetry"]
    values = _named(network)
    generator = torch.Generator().manual_seed(seed)
    equal = [tensor(matrix) for matrix in network.weights]
    random = [torch.empty_like(W).uniform_(-0.1, 0.1, generator=generator) for W in equal]
    x, y = tensor([network.x, (2.0, 1.0)]), tensor([network.y, (0.0, 1.0)])
    for kind, weights in (("equal", equal), ("random", random)):
        first, *_, last = updates(weights, x, y, lr=network.lr, steps=steps)
        for when, thetas in (("at the start", first), (f"after {steps} updates", last)):
            rows, a = thetas[0], backpropagate(thetas, x, y).a[-1]
            spread, cost = (rows[0] - rows[1]).abs().max(), ((y - a) ** 2).sum() / (2 * len(y))
            values[f"|Θ⁽¹⁾ row 1 − row 2|, {kind} weights, {when}"] = float(spread)
            values[f"J of both examples, {kind} weights, {when}"] = float(cost)
    return Worked(values, partials(network, gradients(network)))


def updates(
    weights: list[Tensor], x: Tensor, y: Tensor, *, lr: float, steps: int
) -> Iterator[list[Tensor]]:
    """The weights at the start and after each of `steps` updates Θ := Θ − η ∂J/∂Θ.

    Shapes as in `backpropagate`.
    """
    yield weights
    for _ in range(steps):
        moves = backpropagate(weights, x, y).gradients
        weights = [theta - lr * move for theta, move in zip(weights, moves, strict=True)]
        yield weights


def _by_paths(network: Network) -> Worked:
    exact = partials(network, gradients(network))
    return Worked(_named(network), exact, tuple(partials_by_paths(network)))


def _named(network: Network) -> dict[str, float]:
    """The values of both passes over the network's own example, by document 1's symbols."""
    n = Document1(network.sizes)
    weights = [tensor(matrix) for matrix in network.weights]
    passes = backpropagate(weights, tensor([network.x]), tensor([network.y]))

    def row(letter: str, layer: int, values: Tensor) -> dict[str, float]:
        return {n.symbol(letter, layer, u): value for u, value in enumerate(values[0].tolist())}

    values: dict[str, float] = {}
    for layer, a in enumerate(passes.a[1:], start=1):
        values |= row("a", layer, a)
    values["J"] = float(((tensor(network.y) - passes.a[-1]) ** 2).sum() / 2)
    for layer in range(n.last, 0, -1):
        values |= row("δ", layer, passes.delta[layer - 1])
    return values | partials(network, passes.gradients)
