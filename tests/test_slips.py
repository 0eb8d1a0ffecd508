"""The documents' slips: the printed formula fails against autograd, the mended one passes.

One test for each row of the table in manual_bp/worked_examples/README.md; the first test holds
tests and table together. The oracle is autograd through torch's built-in operations, never our own.
"""

import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from manual_bp import worked_examples
from manual_bp.worked_examples import NETWORKS
from manual_bp.worked_examples.networks import tensor


@dataclass
class Truth:
    """A sigmoid network with autograd's derivatives; index 0 is the input, as in document 3."""

    weights: list[Tensor]
    z: list[Tensor]
    a: list[Tensor]
    y: Tensor
    cost: Tensor
    grad_z: list[Tensor]
    grad_a: list[Tensor]
    grad_w: list[Tensor]


def network(sizes: tuple[int, ...], m: int, *, normalise: str = "half_per_example") -> Truth:
    """Random weights, inputs and targets; the derivatives come from `torch.autograd.grad`."""
    generator = torch.Generator().manual_seed(7)

    def random(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64) * 2 - 1

    weights = [random(n_out, n_in).requires_grad_() for n_in, n_out in pairwise(sizes)]
    a, y, z = [random(m, sizes[0]).requires_grad_()], random(m, sizes[-1]), []
    for W in weights:
        z.append(a[-1] @ W.t())
        a.append(torch.sigmoid(z[-1]))
    cost = ((y - a[-1]) ** 2).sum() / (2 * m)
    if normalise == "half_per_element":
        cost = cost / sizes[-1]

    def grad(tensors: list[Tensor]) -> list[Tensor]:
        return list(torch.autograd.grad(cost, tensors, retain_graph=True))

    dz, da, dW = grad(z), grad(a), grad(weights)
    weights, z, a = ([t.detach() for t in tensors] for tensors in (weights, z, a))
    return Truth(weights, [torch.empty(0), *z], a, y, cost.detach(), [torch.empty(0), *dz], da, dW)


def slope(z: Tensor) -> Tensor:
    """σ′(z) by its limit, not by a(1 − a): a central difference of σ."""
    h = 1e-5
    return (torch.sigmoid(z + h) - torch.sigmoid(z - h)) / (2 * h)


def assert_slip(printed: Tensor, mended: Tensor, truth: Tensor, *, rtol: float = 1e-12) -> None:
    """The mended formula equals the truth; the printed one is off by more than a hundredth."""
    torch.testing.assert_close(mended, truth, rtol=rtol, atol=0)
    assert printed.shape == truth.shape
    assert (printed - truth).norm() > 0.01 * truth.norm()


def test_the_table_names_every_test_here() -> None:
    page = Path(worked_examples.__file__).with_name("README.md").read_text(encoding="utf-8")
    section = page.split("\n## The slips\n")[1].split("\n## ")[0]
    named = re.findall(r"`(test_document\w+)`", section)
    assert sorted(named) == sorted(name for name in globals() if name.startswith("test_document"))


# Document 1. Its layer l is index l − 1 here: a⁽¹⁾ = net.a[0], z⁽³⁾ = net.z[2], Θ⁽²⁾ =
# net.weights[1].


def test_document1_sign_of_the_output_delta() -> None:
    net = network((2, 2, 2), m=5)
    a, y, m = net.a[2], net.y, 5
    assert_slip(
        printed=(y - a) / m * a * (1 - a), mended=(a - y) / m * a * (1 - a), truth=net.grad_z[2]
    )


def test_document1_printed_sign_makes_gradient_descent_climb() -> None:
    net = network((2, 2, 2), m=5)
    a, y = net.a[2], net.y
    step = ((y - a) / 5 * a * (1 - a)).t() @ net.a[1]  # ∂J/∂Θ⁽²⁾ with the printed δ

    def cost(theta: Tensor) -> float:
        return float(((y - torch.sigmoid(net.a[1] @ theta.t())) ** 2).sum() / 10)

    assert cost(net.weights[1] - 0.1 * step) > net.cost > cost(net.weights[1] + 0.1 * step)


def test_document1_slope_is_taken_at_z() -> None:
    net = network((2, 2, 2), m=5)
    error = (net.a[2] - net.y) / 5
    # 1e-8: the slope here is a difference quotient, exact to about 1e-10.
    assert_slip(error * slope(net.a[2]), error * slope(net.z[2]), net.grad_z[2], rtol=1e-8)
    # The document means the sigmoid's slope in terms of a: a(1 − a), not f′ at a.
    assert_slip(slope(net.a[2]), net.a[2] * (1 - net.a[2]), slope(net.z[2]), rtol=1e-8)


def test_document1_cost_compares_the_third_layer() -> None:
    net = network((2, 2, 2), m=5)

    def cost(a: Tensor) -> Tensor:
        return ((net.y - a) ** 2).sum() / (2 * 5)

    assert_slip(printed=cost(net.a[1]), mended=cost(net.a[2]), truth=net.cost)
    theta = net.weights[1].clone().requires_grad_()
    # a⁽²⁾ does not depend on Θ⁽²⁾: the printed cost could never train Θ⁽²⁾
    hidden = net.a[1] + 0 * theta.sum()
    assert torch.autograd.grad(cost(hidden), theta)[0].count_nonzero() == 0
    assert net.grad_w[1].count_nonzero() == 4


def test_document1_first_column_is_divided_by_m() -> None:
    """The vector form of δ⁽³⁾ has no 1/m, and two remarks say "scaled by m".

    Neither is the derivative when m > 1.
    """
    net = network((2, 2, 2), m=5)
    residual, m = net.a[2] - net.y, 5
    assert_slip(printed=residual, mended=residual / m, truth=net.grad_a[2])
    assert_slip(printed=residual * m, mended=residual / m, truth=net.grad_a[2])
    derivative = net.a[2] * (1 - net.a[2])
    assert_slip(
        printed=residual * derivative, mended=residual * derivative / m, truth=net.grad_z[2]
    )


def test_document1_second_column_differs_between_units() -> None:
    """ "the value for the second column will be the same for all four terms".

    The function is the same, its value is not.
    """
    net = network((2, 2, 2), m=1)
    derivative = net.a[2] * (1 - net.a[2])  # f′(z_i⁽³⁾), one value a unit
    error = net.a[2] - net.y
    assert_slip(printed=error * derivative[0, 0], mended=error * derivative, truth=net.grad_z[2])
    hidden = net.a[1] * (1 - net.a[1])  # f′(a⁽ˡ⁾) in δ_j⁽ˡ⁾ lacks the index j in the same way
    weighted = net.grad_z[2] @ net.weights[1]
    assert_slip(printed=weighted * hidden[0, 0], mended=weighted * hidden, truth=net.grad_z[1])


def test_document1_hidden_delta_needs_the_hadamard_product() -> None:
    """δ⁽ˡ⁺¹⁾ Θ⁽ˡ⁾ f′ without ⊙ is a product of two rows.

    As a product of matrices it could only be a number or a square matrix.
    """
    net = network((2, 3, 2), m=1)
    sent_back, derivative = net.grad_z[2] @ net.weights[1], net.a[1] * (1 - net.a[1])  # both (1, 3)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        sent_back @ derivative
    assert (sent_back @ derivative.t()).shape == (1, 1)
    assert (sent_back.t() @ derivative).shape == (3, 3)
    torch.testing.assert_close(sent_back * derivative, net.grad_z[1], rtol=1e-12, atol=0)


def test_document1_error_term_is_more_than_a_linear_combination() -> None:
    """The visualised part leaves f′ out of the hidden "error" term; step 5 has it."""
    net = network((2, 2, 2), m=5)
    sent_back = net.grad_z[2] @ net.weights[1]
    assert_slip(
        printed=sent_back, mended=sent_back * net.a[1] * (1 - net.a[1]), truth=net.grad_z[1]
    )


def test_document1_error_goes_back_through_the_transpose() -> None:
    """ "in the exact same manner that we "send forward" the inputs": with (Θ⁽²⁾)ᵀ.

    Forward the product is a⁽²⁾ (Θ⁽²⁾)ᵀ, backward δ⁽³⁾ Θ⁽²⁾.
    """
    net = network((2, 2, 2), m=5)
    theta, delta = net.weights[1], net.grad_z[2]
    torch.testing.assert_close(net.a[1] @ theta.t(), net.z[2], rtol=1e-12, atol=0)  # forward
    assert_slip(printed=delta @ theta.t(), mended=delta @ theta, truth=net.grad_a[1])


def test_document1_third_column_is_how_z_changes_with_theta() -> None:
    """ "how the parameter of interest changes with respect to the weighted inputs" would be 1/a."""
    net = network((2, 2, 2), m=1)
    a, theta = net.a[1], net.weights[1].clone().requires_grad_()
    (truth,) = torch.autograd.grad((a @ theta.t())[0, 0], theta)  # ∂z₁⁽³⁾/∂Θ⁽²⁾
    assert_slip(printed=1 / a[0], mended=a[0], truth=truth[0])


def test_document1_step_6_feeds_into_the_current_layer() -> None:
    """After step 5 made δ⁽ˡ⁾, (δ⁽ˡ⁺¹⁾)ᵀ a⁽ˡ⁾ repeats the gradient before.

    Θ⁽ˡ⁻¹⁾ feeds into layer l.
    """
    net = network((2, 2, 2, 2), m=5)
    L = 4
    delta = {L: net.grad_z[L - 1]}
    a = {layer + 1: value for layer, value in enumerate(net.a)}
    printed = {L - 1: delta[L].t() @ a[L - 1]}  # step 3
    mended = dict(printed)
    # steps 4 and 7: down to layer 2, "we don't compute an error term for the inputs"
    for layer in range(L - 1, 1, -1):
        theta = net.weights[layer - 1]
        delta[layer] = delta[layer + 1] @ theta * a[layer] * (1 - a[layer])  # step 5
        printed[layer] = delta[layer + 1].t() @ a[layer]  # step 6 as it stands
        mended[layer - 1] = delta[layer].t() @ a[layer - 1]
        # "the parameters that feed into the current layer" are Θ⁽ˡ⁻¹⁾
        assert_slip(printed=printed[layer], mended=mended[layer - 1], truth=net.grad_w[layer - 2])
    assert sorted(printed) == [2, 3]  # Θ⁽¹⁾ never gets a gradient
    assert sorted(mended) == [1, 2, 3]


def test_document1_equal_weights_do_not_make_a_layer_equal() -> None:
    """Equal weights make the hidden units equal, not "every neuron in a given layer".

    Nor are "all" partial derivatives of a layer equal.
    """
    symmetric = NETWORKS["symmetry"]
    theta1, theta2 = (tensor(w).requires_grad_() for w in symmetric.weights)
    z2 = tensor([symmetric.x]) @ theta1.t()
    z3 = torch.sigmoid(z2) @ theta2.t()
    cost = ((tensor([symmetric.y]) - torch.sigmoid(z3)) ** 2).sum() / 2
    delta2, delta3, d_theta1, d_theta2 = torch.autograd.grad(cost, (z2, z3, theta1, theta2))
    assert delta2[0, 0] == delta2[0, 1]  # the hidden layer: as printed
    assert delta3[0, 0] != delta3[0, 1]  # the output layer: the targets differ
    # The text says one value for the layer: Θ⁽¹⁾ has one for each input, Θ⁽²⁾ one for each output.
    assert d_theta1.unique().numel() == 2
    assert d_theta2.unique().numel() == 2
    # Mended: equal for both hidden units, which are the rows of Θ⁽¹⁾ and the columns of Θ⁽²⁾.
    assert torch.equal(d_theta1[0], d_theta1[1])
    assert torch.equal(d_theta2[:, 0], d_theta2[:, 1])


# Document 2.


def branching_truth() -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """in → i → {j, k} → o by autograd: z and ∂E/∂s by unit, ∂E/∂w by weight."""
    net = NETWORKS["branching"]
    (((w_in_i,),), ((w_ij,), (w_ik,)), ((w_jo, w_ko),)) = net.weights
    w = {"in→i": w_in_i, "i→j": w_ij, "i→k": w_ik, "j→o": w_jo, "k→o": w_ko}
    weights = {name: tensor([value]).requires_grad_() for name, value in w.items()}
    z = {"in": tensor(net.x)}
    s = {"i": z["in"] * weights["in→i"]}
    z["i"] = torch.sigmoid(s["i"])
    s |= {"j": z["i"] * weights["i→j"], "k": z["i"] * weights["i→k"]}
    z |= {"j": torch.sigmoid(s["j"]), "k": torch.sigmoid(s["k"])}
    s["o"] = z["j"] * weights["j→o"] + z["k"] * weights["k→o"]
    error = ((s["o"] - tensor(net.y)) ** 2).sum() / 2
    ds = dict(zip(s, torch.autograd.grad(error, list(s.values()), retain_graph=True), strict=True))
    dw = dict(zip(weights, torch.autograd.grad(error, list(weights.values())), strict=True))
    return {unit: value.detach() for unit, value in z.items()}, ds, dw


def test_document2_weights_of_a_layer_do_not_depend_on_each_others_update() -> None:
    """The question is about w_{i→k} and w_{j→k}, and the answer is no.

    With one index for both weights, as printed, the answer would be yes.
    """
    net = NETWORKS["several-inputs"]

    def update(frozen: str) -> float:
        """w_{i→k}'s step when the weight `frozen` is not updated."""
        w = {
            "i→k": tensor(net.weights[0][0][:1]),
            "j→k": tensor(net.weights[0][0][1:]),
            "k→o": tensor(net.weights[1][0]),
        }
        for name, value in w.items():
            value.requires_grad_(name != frozen)
        before = w["i→k"].detach().clone()
        y_hat = torch.sigmoid(net.x[0] * w["i→k"] + net.x[1] * w["j→k"]) * w["k→o"]
        ((y_hat - net.y[0]) ** 2 / 2).sum().backward()
        with torch.no_grad():
            for value in w.values():
                if value.grad is not None:
                    value -= net.lr * value.grad
        return float(w["i→k"].detach() - before)

    assert update("none") != 0
    assert update(frozen="j→k") == update("none")  # mended: w_{j→k}'s update has no effect
    assert update(frozen="i→k") == 0  # as printed: it "is affected by" itself


def test_document2_delta_of_unit_j_is_the_derivative_at_s_j() -> None:
    z, ds, dw = branching_truth()
    assert_slip(printed=ds["i"], mended=ds["j"], truth=dw["i→j"] / z["i"])  # ∂E/∂w_{i→j} = δ_j z_i


def test_document2_input_of_a_unit_is_a_sum() -> None:
    """ "for each unit k, we have s_k = z_j w_{j→k}": true of a unit with one input."""
    net = NETWORKS["several-inputs"]
    z, w = tensor(net.x), tensor(net.weights[0][0])
    truth = torch.nn.functional.linear(z, w.unsqueeze(0))[0]
    assert_slip(printed=z[1] * w[1], mended=(z * w).sum(), truth=truth)


def test_document2_general_update_joins_two_units() -> None:
    """−η δ_i z_i joins a unit with itself; the update of w_{i→j} is −η δ_j z_i."""
    z, ds, dw = branching_truth()
    eta = NETWORKS["branching"].lr
    for name, derivative in dw.items():
        before, after = name.split("→")
        if before != "in":  # an input unit has no δ
            assert_slip(
                printed=-eta * ds[before] * z[before],
                mended=-eta * ds[after] * z[before],
                truth=-eta * derivative,
            )
    assert "i→i" not in dw


# Document 3.


def test_document3_bias_is_added_once() -> None:
    """ "weighted activation …, plus bias, summed over all neurons" adds the bias three times.

    Here three neurons are summed over.
    """
    net = network((3, 2), m=1)
    terms, b = net.weights[0] * net.a[0], tensor([0.5, -0.25])  # w_jk a_k  (n_out, n_in)
    truth = torch.nn.functional.linear(net.a[0], net.weights[0], b)[0]
    assert_slip(printed=(terms + b.unsqueeze(1)).sum(1), mended=terms.sum(1) + b, truth=truth)


def test_document3_hidden_delta_has_the_slope() -> None:
    net = network((3, 4, 2), m=1, normalise="half_per_element")
    weighted = net.grad_z[2] @ net.weights[1]  # Σ_q w_qz δ_q
    assert_slip(printed=weighted, mended=weighted * net.a[1] * (1 - net.a[1]), truth=net.grad_z[1])
    # The printed formula is that of ∂C/∂a_z.
    torch.testing.assert_close(weighted, net.grad_a[1], rtol=1e-12, atol=0)


def test_document3_hidden_gradients_inherit_the_missing_slope() -> None:
    """∂C/∂w = δ a and ∂C/∂b = δ "for an arbitrary neuron" hold for δ = ∂C/∂z alone."""
    net = network((3, 4, 2), m=1, normalise="half_per_element")
    printed = net.grad_z[2] @ net.weights[1]
    mended = printed * net.a[1] * (1 - net.a[1])
    assert_slip(printed=printed.t() @ net.a[0], mended=mended.t() @ net.a[0], truth=net.grad_w[0])


def test_document3_weight_gradient_takes_the_layer_before_its_own() -> None:
    """∂C/∂w_jk = δ_j a_k^{L−1} "for any weight", with L the output layer.

    A hidden weight needs a_k^{l−1}.
    """
    net = network((3, 3, 2), m=1, normalise="half_per_element")
    delta = net.grad_z[1]
    assert_slip(printed=delta.t() @ net.a[1], mended=delta.t() @ net.a[0], truth=net.grad_w[0])


def test_document3_value_shifts_against_delta() -> None:
    """δ is said to tell "in what direction the value must shift": the cost falls along −δ."""
    net = network((3, 2), m=1, normalise="half_per_element")

    def cost(z: Tensor) -> float:
        return float(((torch.sigmoid(z) - net.y) ** 2).sum() / 4)

    assert cost(net.z[1] + 0.1 * net.grad_z[1]) > net.cost > cost(net.z[1] - 0.1 * net.grad_z[1])
