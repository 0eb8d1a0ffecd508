"""Second derivatives by hand: σ″, the cost's Hessian, the network's H v."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.func import grad, hessian, jvp

from tests.correctness import compare
from tests.correctness.operations import LINEAR, MSE, NETWORK, SIGMOID, Operation


def test_second_derivative_of_the_sigmoid() -> None:
    """σ″(z) = σ′(z)(1 − 2σ(z)), and through g: ∂/∂g (g σ′) = σ′."""
    z = SIGMOID.inputs()[0].requires_grad_()
    a = SIGMOID.ours(z)
    g = compare.make_cotangent(a).requires_grad_()
    first = torch.autograd.grad(a, z, g, create_graph=True)[0]
    h = (compare.make_cotangent(a) + 1).cos()
    dz, dg = torch.autograd.grad(first, (z, g), h)
    sigma = 1 / (1 + torch.exp(-z.detach()))
    slope = sigma * (1 - sigma)
    compare.agree(dz, h * g.detach() * slope * (1 - 2 * sigma))
    compare.agree(dg, h * slope)


def test_second_derivative_of_the_sigmoid_at_points_worked_by_hand() -> None:
    """σ″(0) = 0; σ″(ln 3) = ¾ · ¼ · (1 − 3/2) = −3/32."""
    for z, expected in ((0.0, 0.0), (math.log(3.0), -3 / 32), (-math.log(3.0), 3 / 32)):
        second = hessian(SIGMOID.ours)(torch.tensor(z, dtype=torch.float64))
        compare.agree(second, torch.tensor(expected, dtype=torch.float64), zero=expected == 0)


def s_of(op: Operation, m: int, n_out: int) -> float:
    return {
        "mse half_per_example": 1 / (2 * m),
        "mse half_per_element": 1 / (2 * m * n_out),
        "mse mean": 1 / (m * n_out),
        "mse sum": 1.0,
    }[op.name]


SCALAR_COSTS = [op for name, op in MSE.items() if name != "none"]


@pytest.mark.parametrize("op", SCALAR_COSTS, ids=str)
def test_hessian_of_the_cost(op: Operation) -> None:
    """∂²C/∂a² = 2s I, ∂²C/∂a∂y = −2s I, ∂²C/∂y² = 2s I, wherever it is taken."""
    for seed in range(2):
        a, y = op.inputs(seed=seed)
        blocks = hessian(op.ours, (0, 1))(a, y)
        identity = 2 * s_of(op, *a.shape) * torch.eye(a.numel(), dtype=a.dtype)
        for i in range(2):
            for j in range(2):
                block = blocks[i][j].reshape(a.numel(), a.numel())
                compare.agree(block, identity if i == j else -identity)
        for i, tensor in enumerate((a, y)):  # the same by autograd alone, twice in reverse
            leaves = [a.clone().requires_grad_(), y.clone().requires_grad_()]
            first = torch.autograd.grad(op.ours(*leaves), leaves[i], create_graph=True)[0]
            v = (tensor + 1).sin()
            both = torch.autograd.grad(first, leaves, v)
            compare.agree(both[i], 2 * s_of(op, *a.shape) * v)
            compare.agree(both[1 - i], -2 * s_of(op, *a.shape) * v)


def test_mixed_second_derivative_of_linear() -> None:
    """⟨g, x Wᵀ⟩ is bilinear: ∂/∂W ⟨δ W, u⟩ = δᵀ u and ∂/∂x ⟨δᵀ x, V⟩ = δ V; ∂²/∂x² = ∂²/∂W² = 0."""
    x, weight, bias = (t.requires_grad_() for t in LINEAR.inputs())
    z = LINEAR.ours(x, weight, bias)
    delta = compare.make_cotangent(z)
    dx, dW = torch.autograd.grad(z, (x, weight), delta, create_graph=True)
    u, v = (x.detach() + 1).sin(), (weight.detach() + 1).sin()
    compare.agree(torch.autograd.grad(dx, weight, u, retain_graph=True)[0], delta.t() @ u)
    compare.agree(torch.autograd.grad(dW, x, v, retain_graph=True)[0], delta @ v)
    assert torch.autograd.grad(dx, x, u, allow_unused=True, retain_graph=True)[0] is None
    assert torch.autograd.grad(dW, weight, v, allow_unused=True)[0] is None


def hessian_vector_product_by_hand(
    x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, y: Tensor, v: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """H v of C = 1/(2m) Σ (a2 − y)² over (W1, b1, W2, b2), by Pearlmutter's method.

    R{·} is the derivative along v. Forward: R{z1} = x V1ᵀ + c1, R{a1} = σ′ ⊙ R{z1}, R{z2} = R{a1}
    W2ᵀ + a1 V2ᵀ + c2. Backward: δ2 = (a2 − y)/m ⊙ σ′(z2), δ1 = δ2 W2 ⊙ σ′(z1), and R{δ2}, R{δ1} by
    the product rule, with R{σ′(z)} = σ′(1 − 2σ) ⊙ R{z}. Result: R{δᵀ a} = R{δ}ᵀ a + δᵀ R{a} for a
    weight, Σ_m R{δ} for a bias; x is fixed.
    """
    m = x.shape[0]
    v1, c1, v2, c2 = v
    a1 = 1 / (1 + torch.exp(-(x @ w1.t() + b1)))
    a2 = 1 / (1 + torch.exp(-(a1 @ w2.t() + b2)))
    slope1, slope2 = a1 * (1 - a1), a2 * (1 - a2)
    delta2 = (a2 - y) / m * slope2

    r_z1 = x @ v1.t() + c1
    r_a1 = slope1 * r_z1
    r_z2 = r_a1 @ w2.t() + a1 @ v2.t() + c2
    r_a2 = slope2 * r_z2
    r_delta2 = r_a2 / m * slope2 + (a2 - y) / m * slope2 * (1 - 2 * a2) * r_z2
    r_delta1 = (r_delta2 @ w2 + delta2 @ v2) * slope1 + delta2 @ w2 * slope1 * (1 - 2 * a1) * r_z1
    return (
        r_delta1.t() @ x,
        r_delta1.sum(0),
        r_delta2.t() @ a1 + delta2.t() @ r_a1,
        r_delta2.sum(0),
    )


def test_hessian_vector_product_of_the_network() -> None:
    """By hand, reverse over reverse, forward over reverse, and by the whole Hessian."""
    x, *parameters, y = NETWORK.inputs()
    v = tuple((p + 1).sin() for p in parameters)
    expected = hessian_vector_product_by_hand(x, *parameters, y, v)

    leaves = [p.clone().requires_grad_() for p in parameters]
    first = torch.autograd.grad(NETWORK.ours(x, *leaves, y), leaves, create_graph=True)
    compare.all_of(compare.agree, torch.autograd.grad(first, leaves, v), expected)

    def cost(*parameters: Tensor) -> Tensor:
        return NETWORK.ours(x, *parameters, y)

    every = tuple(range(4))
    compare.all_of(compare.agree, jvp(grad(cost, every), tuple(parameters), v)[1], expected)

    blocks = hessian(cost, every)(*parameters)
    for i, row in enumerate(blocks):
        product = sum(
            (
                block.reshape(parameters[i].numel(), -1) @ v[j].reshape(-1)
                for j, block in enumerate(row)
            ),
            torch.zeros(parameters[i].numel(), dtype=x.dtype),
        )
        compare.agree(product.reshape(parameters[i].shape), expected[i])


def test_hessian_of_the_network_is_symmetric() -> None:
    x, *parameters, y = NETWORK.inputs()
    blocks = hessian(lambda *p: NETWORK.ours(x, *p, y), tuple(range(4)))(*parameters)
    sizes = [p.numel() for p in parameters]
    full = torch.cat(
        [
            torch.cat([b.reshape(n, k) for b, k in zip(row, sizes, strict=True)], 1)
            for row, n in zip(blocks, sizes, strict=True)
        ]
    )
    compare.agree(full, full.t())
