"""Document 3: the output layer's derivatives, the vector form, three kinds of descent as one rule.

Every number is worked by hand; λ = ln 3 = 1.0986122886681098 (see `networks`).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from manual_bp.worked_examples.networks import LN3, NETWORKS, Network, sigma, tensor
from manual_bp.worked_examples.worked import Worked, gradients


def single_layer() -> Worked:
    """∂C/∂w_jk and ∂C/∂b_j of the output layer, neuron by neuron (document 3).

    aᴸ⁻¹ = (1, 1/2), y = (1, 0), w = λ [[2, −4], [1, 4]], b = λ (1, −1), L_n = 2.

        z₁ = 2λ − 2λ + λ = λ     a₁ = 3/4     ∂a₁/∂z₁ = 3/16     ∂C/∂a₁ = ½ (3/4 − 1)  = −1/8
        z₂ = λ + 2λ − λ  = 2λ    a₂ = 9/10    ∂a₂/∂z₂ = 9/100    ∂C/∂a₂ = ½ (9/10 − 0) = 9/20
        C = ½ (½ · 1/16 + ½ · 81/100) = 349/1600

        ∂C/∂w₁₁ = −1/8 · 3/16 · 1    = −3/128      ∂C/∂w₂₁ = 9/20 · 9/100 · 1   = 81/2000
        ∂C/∂w₁₂ = −1/8 · 3/16 · 1/2  = −3/256      ∂C/∂w₂₂ = 9/20 · 9/100 · 1/2 = 81/4000
        ∂C/∂b₁  = −1/8 · 3/16 · 1    = −3/128      ∂C/∂b₂  = 9/20 · 9/100 · 1   = 81/2000
    """
    network = NETWORKS["single-layer"]
    w, (b,) = network.weights[0], network.biases or ()
    a_before, y, L_n = network.x, network.y, len(network.y)
    values: dict[str, float] = {}
    cost = 0.0
    for j in range(L_n):
        # z_j = Σ_k w_jk a_k + b_j
        z = sum(w[j][k] * a_before[k] for k in range(len(a_before))) + b[j]
        a = sigma(z)  # a_j = σ(z_j)
        cost += (a - y[j]) ** 2 / (2 * L_n)  # C = 1/L_n Σ_j ½(a_j − y_j)²
        dC_da = (a - y[j]) / L_n  # ∂C/∂a_j = 1/L_n (a_j − y_j)
        da_dz = a * (1 - a)  # ∂a_j/∂z_j = a_j (1 − a_j)
        values |= {f"z_{j + 1}": z, f"a_{j + 1}": a}
        values |= {f"∂C/∂a_{j + 1}": dC_da, f"∂a_{j + 1}/∂z_{j + 1}": da_dz}
        for k in range(len(a_before)):
            values[f"∂C/∂w_{j + 1}{k + 1}"] = dC_da * da_dz * a_before[k]  # ∂z_j/∂w_jk = a_k
        values[f"∂C/∂b_{j + 1}"] = dC_da * da_dz * 1  # ∂z_j/∂b_j = 1
    values["C"] = cost
    dW, db = gradients(network)
    return Worked(values, _named("∂C/∂w_", dW) | _named("∂C/∂b_", db))


def vector_form() -> Worked:
    """δᴸ, δˡ = (Wˡ⁺¹)ᵀ δˡ⁺¹ ⊙ σ′(zˡ), ∇Wˡ = δˡ (aˡ⁻¹)ᵀ, ∇bˡ = δˡ with column vectors (document 3).

    x = a⁰ = (1, 2), y = (1, 0), W¹ = λ [[1, −1], [2, −1]], b¹ = λ (2, −1),
    W² = λ [[2, −2], [2, 2]], b² = λ (1, −1).

        z¹ = λ (1 − 2 + 2, 2 − 2 − 1) = λ (1, −1)          a¹ = (3/4, 1/4)     σ′ = (3/16, 3/16)
        z² = λ (3/2 − 1/2 + 1, 3/2 + 1/2 − 1) = λ (2, 1)   a² = (9/10, 3/4)    σ′ = (9/100, 3/16)

        δ² = ½ (−1/10, 3/4) ⊙ (9/100, 3/16) = (−9/2000, 9/128)
        (W²)ᵀ δ² = 2λ (−9/2000 + 9/128, 9/2000 + 9/128) = λ/8000 (1053, 1197)
        δ¹ = λ/8000 (1053, 1197) ⊙ (3/16, 3/16) = λ/128000 (3159, 3591)

        ∇W² = δ² (a¹)ᵀ = [[−27/8000, −9/8000], [27/512, 9/512]]          ∇b² = δ²
        ∇W¹ = δ¹ (a⁰)ᵀ = λ/128000 [[3159, 6318], [3591, 7182]]           ∇b¹ = δ¹
    """
    network = NETWORKS["vector-form"]
    W1, W2 = (tensor(matrix) for matrix in network.weights)
    b1, b2 = (tensor(row).unsqueeze(1) for row in network.biases or ())
    a0, y = tensor(network.x).unsqueeze(1), tensor(network.y).unsqueeze(1)  # columns  (n, 1)

    a1 = torch.sigmoid(W1 @ a0 + b1)  # a¹ = σ(W¹ a⁰ + b¹)  (n₁, 1)
    a2 = torch.sigmoid(W2 @ a1 + b2)  # a² = σ(W² a¹ + b²)  (n₂, 1)
    delta2 = (a2 - y) / len(y) * (a2 * (1 - a2))  # δᴸ = 1/L_n (aᴸ − y) ⊙ σ′(zᴸ)  (n₂, 1)
    delta1 = W2.t() @ delta2 * (a1 * (1 - a1))  # δˡ = (Wˡ⁺¹)ᵀ δˡ⁺¹ ⊙ σ′(zˡ)  (n₁, 1)
    dW2, dW1 = delta2 @ a1.t(), delta1 @ a0.t()  # ∇Wˡ = δˡ (aˡ⁻¹)ᵀ  (n, 1)(1, m) = (n, m)

    values = _named("a¹_", a1) | _named("a²_", a2) | _named("δ²_", delta2) | _named("δ¹_", delta1)
    values |= _gradients([dW1, delta1, dW2, delta2])
    return Worked(values, _gradients(gradients(network)))


def descent(
    weight: Tensor, bias: Tensor, x: Tensor, y: Tensor, *, lr: float, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """W := W − η · (average of ∇W over a batch), b likewise, for one epoch (document 3).

    One rule for the document's three descents: `batch_size` 1 is stochastic gradient descent, N
    (all examples) is batch, and a size between them mini-batch gradient descent. The cost of one
    example is 1/L_n Σ ½(a − y)². Its average over the batch is the cost `half_per_element`.

    Args:
        weight: W (n_out, n_in) of a single sigmoid layer.
        bias: b (n_out,).
        x: examples (N, n_in), taken in this order; the document draws them at random: shuffle them.
        y: targets (N, n_out).
        lr: η.
        batch_size: how many examples are averaged for one update; the last batch may be smaller.

    Yields:
        W and b after each update.

    Raises:
        ValueError: a batch size below 1.
    """
    if batch_size < 1:
        raise ValueError(f"descent: batch_size {batch_size}: at least one example makes a batch")
    for x_batch, y_batch in zip(x.split(batch_size), y.split(batch_size), strict=True):
        a = torch.sigmoid(x_batch @ weight.t() + bias)  # a = σ(x Wᵀ + b)  (m, n_out)
        # δ = 1/L_n (a − y) ⊙ σ′(z) of each example  (m, n_out)
        delta = (a - y_batch) / y.shape[1] * a * (1 - a)
        # W − η · average of ∇W  (n_out, n_in)
        weight = weight - lr * (delta.t() @ x_batch) / len(x_batch)
        bias = bias - lr * delta.mean(0)  # b − η · average of ∇b  (n_out,)
        yield weight, bias


def three_descents() -> Worked:
    """The first update of stochastic, mini-batch and batch descent by one rule (document 3).

    Each averages ∇w and ∇b over its batch and steps against them. Only the size of the batch
    differs.

    One neuron with one input, w = λ, b = 0, η = 1, N = 4 examples (x, y): (−1, 0), (0, 1), (1, 1),
    (2, 0).

        x     a      a − y   σ′      δ = ∇b     ∇w = δ x
        −1    1/4     1/4    3/16     3/64      −3/64
         0    1/2    −1/2    1/4     −1/8        0
         1    3/4    −1/4    3/16    −3/64      −3/64
         2    9/10    9/10   9/100    81/1000    81/500

        stochastic (1 example):   w − λ = 3/64                             b = −3/64
        mini-batch (2 examples):  w − λ = 3/128                            b = ½ · 5/64    = 5/128
        batch      (4 examples):  w − λ = −¼ (81/500 − 3/32) = −273/16000  b = ¼ · 44/1000 = 11/1000
    """
    w, b = tensor([[LN3]]), tensor([0.0])
    x, y = tensor([[-1.0], [0.0], [1.0], [2.0]]), tensor([[0.0], [1.0], [1.0], [0.0]])
    values: dict[str, float] = {}
    by_autograd: dict[str, float] = {}
    for name, size in (("stochastic", 1), ("mini-batch", 2), ("batch", 4)):
        new_w, new_b = next(descent(w, b, x, y, lr=1.0, batch_size=size))
        values[f"w − λ, {name}"], values[f"b, {name}"] = (new_w - w).item(), new_b.item()
        network = Network(
            name, 3, name, (((LN3,),),), (0.0,), (0.0,), "half_per_element", biases=((0.0,),)
        )
        dw, db = gradients(network, x[:size], y[:size])
        by_autograd |= {f"w − λ, {name}": -dw.item(), f"b, {name}": -db.item()}
    return Worked(values, by_autograd)


def _gradients(matrices: list[Tensor]) -> dict[str, float]:
    dW1, db1, dW2, db2 = matrices
    return _named("∇W²_", dW2) | _named("∇b²_", db2) | _named("∇W¹_", dW1) | _named("∇b¹_", db1)


def _named(symbol: str, values: Tensor) -> dict[str, float]:
    """Entries by document 3's indices: row j, column k; a vector (n,) or (n, 1) has only j."""
    if values.dim() == 1 or values.shape[1] == 1:
        return {f"{symbol}{j}": value for j, value in enumerate(values.flatten().tolist(), start=1)}
    return {
        f"{symbol}{j}{k}": value
        for j, row in enumerate(values.tolist(), start=1)
        for k, value in enumerate(row, start=1)
    }
