"""Document 2: one path, several inputs, the branching net's five updates, the minibatch update.

Unit by unit, as the document writes it: s_j enters unit j, z_j = σ(s_j) leaves it, w_{i→j} is a
weight, E the error, δ_j = ∂E/∂s_j. Every number is worked by hand; λ = ln 3 = 1.0986122886681098
(see `networks`).
"""

from __future__ import annotations

from collections.abc import Sequence

from manual_bp.worked_examples.networks import NETWORKS, Network, sigma, tensor
from manual_bp.worked_examples.worked import Worked, gradients, partials


def one_path() -> Worked:
    """Case 1: i → j → k → o with a linear output unit (document 2).

    x_i = 2, y = 1, w_{i→j} = λ/2, w_{j→k} = 8λ/3, w_{k→o} = 2, η = 1/2, E = ½ (ŷ − y)².

        s_j = λ/2 · 2 = λ      z_j = 3/4     σ′ = 3/16
        s_k = 8λ/3 · 3/4 = 2λ  z_k = 9/10    σ′ = 9/100
        ŷ = s_o = 2 · 9/10 = 9/5             E = ½ (4/5)² = 8/25

        δ_o = ŷ − y                                = 4/5
        δ_k = δ_o w_{k→o} σ′(s_k) = 4/5 · 2 · 9/100        = 18/125
        δ_j = δ_k w_{j→k} σ′(s_j) = 18/125 · 8λ/3 · 3/16   = 9λ/125 = 0.07910008478

        ∂E/∂w_{k→o} = δ_o z_k = 18/25     Δw_{k→o} = −9/25
        ∂E/∂w_{j→k} = δ_k z_j = 27/250    Δw_{j→k} = −27/500
        ∂E/∂w_{i→j} = δ_j x_i = 18λ/125   Δw_{i→j} = −9λ/125
    """
    network = NETWORKS["one-path"]
    (((w_ij,),), ((w_jk,),), ((w_ko,),)), (x_i,), (y,) = network.weights, network.x, network.y

    s_j = w_ij * x_i
    z_j = sigma(s_j)
    s_k = w_jk * z_j
    z_k = sigma(s_k)
    y_hat = w_ko * z_k  # ŷ = s_o: the output unit is linear

    delta_o = y_hat - y  # δ_o = ŷ − y: the slope of a linear unit is 1
    delta_k = delta_o * w_ko * _slope(s_k)  # δ_k = δ_o w_{k→o} σ(s_k)(1 − σ(s_k))
    delta_j = delta_k * w_jk * _slope(s_j)  # δ_j = δ_k w_{j→k} σ(s_j)(1 − σ(s_j))
    by_hand = {"k→o": delta_o * z_k, "j→k": delta_k * z_j, "i→j": delta_j * x_i}  # δ_j z_i
    forward = {"s_j": s_j, "z_j": z_j, "s_k": s_k, "z_k": z_k, "ŷ": y_hat}
    deltas = {"δ_o": delta_o, "δ_k": delta_k, "δ_j": delta_j}
    return _worked(network, forward | {"E": (y_hat - y) ** 2 / 2} | deltas, by_hand)


def several_inputs() -> Worked:
    """Case 2: {i, j} → k → o, a unit with two inputs, linear output (document 2).

    Given are z_i = 2, z_j = 3, y = 1, w_{i→k} = 2λ, w_{j→k} = −λ, w_{k→o} = 3, η = 1/2.

        s_k = z_i w_{i→k} + z_j w_{j→k} = 4λ − 3λ = λ    z_k = 3/4    σ′ = 3/16
        ŷ = 3 · 3/4 = 9/4                                E = ½ (5/4)² = 25/32

        δ_o = 5/4                     δ_k = 5/4 · 3 · 3/16 = 45/64
        ∂E/∂w_{k→o} = 5/4 · 3/4  = 15/16     Δw_{k→o} = −15/32
        ∂E/∂w_{i→k} = 45/64 · 2  = 45/32     Δw_{i→k} = −45/64
        ∂E/∂w_{j→k} = 45/64 · 3  = 135/64    Δw_{j→k} = −135/128

    ∂E/∂w_{i→k} holds the value of w_{j→k} (in s_k), never its derivative. Therefore each weight of
    a layer is updated alone.
    """
    network = NETWORKS["several-inputs"]
    return _worked(network, *_several_inputs(network, network.x, network.y[0]))


def branching() -> Worked:
    """Case 3: in → i → {j, k} → o, a unit with two outputs, and all five updates (document 2).

    x_i = 2, y = 1, w_{in→i} = λ/2, w_{i→j} = 4λ/3, w_{i→k} = 8λ/3, w_{j→o} = 2, w_{k→o} = −1,
    η = 1/2.

        s_i = λ         z_i = 3/4     σ′ = 3/16
        s_j = λ         z_j = 3/4     σ′ = 3/16
        s_k = 2λ        z_k = 9/10    σ′ = 9/100
        ŷ = 2 · 3/4 − 9/10 = 3/5      E = ½ (2/5)² = 2/25

        δ_o = −2/5
        δ_j = δ_o w_{j→o} σ′(s_j) = −2/5 · 2 · 3/16     = −3/20
        δ_k = δ_o w_{k→o} σ′(s_k) = −2/5 · (−1) · 9/100 = 9/250
        δ_i = σ′(s_i) (δ_j w_{i→j} + δ_k w_{i→k}) = 3/16 (−λ/5 + 12λ/125)
            = −39λ/2000 = −0.02142293963

        ∂E/∂w_{k→o}  = δ_o z_k = −9/25       Δw_{k→o}  = 9/50
        ∂E/∂w_{j→o}  = δ_o z_j = −3/10       Δw_{j→o}  = 3/20
        ∂E/∂w_{i→k}  = δ_k z_i = 27/1000     Δw_{i→k}  = −27/2000
        ∂E/∂w_{i→j}  = δ_j z_i = −9/80       Δw_{i→j}  = 9/160
        ∂E/∂w_{in→i} = δ_i x_i = −39λ/1000   Δw_{in→i} = 39λ/2000
    """
    network = NETWORKS["branching"]
    ((w_in_i,),), ((w_ij,), (w_ik,)), ((w_jo, w_ko),) = network.weights
    (x_i,), (y,) = network.x, network.y

    s_i = w_in_i * x_i
    z_i = sigma(s_i)
    s_j, s_k = z_i * w_ij, z_i * w_ik
    z_j, z_k = sigma(s_j), sigma(s_k)
    y_hat = z_j * w_jo + z_k * w_ko  # ŷ = s_o: the output unit is linear

    delta_o = y_hat - y  # δ_o = ŷ − y
    delta_k = delta_o * w_ko * _slope(s_k)  # δ_k = δ_o w_{k→o} σ′(s_k)
    delta_j = delta_o * w_jo * _slope(s_j)  # δ_j = δ_o w_{j→o} σ′(s_j)
    # δ_i = σ′(s_i) Σ_{k ∈ outs(i)} δ_k w_{i→k}
    delta_i = _slope(s_i) * (delta_j * w_ij + delta_k * w_ik)
    by_hand = {"k→o": delta_o * z_k, "j→o": delta_o * z_j}  # ∂E/∂w_{i→j} = δ_j z_i
    by_hand |= {"i→k": delta_k * z_i, "i→j": delta_j * z_i, "in→i": delta_i * x_i}
    forward = {"s_i": s_i, "z_i": z_i, "s_j": s_j, "z_j": z_j, "s_k": s_k, "z_k": z_k, "ŷ": y_hat}
    deltas = {"δ_o": delta_o, "δ_j": delta_j, "δ_k": delta_k, "δ_i": delta_i}
    return _worked(network, forward | {"E": (y_hat - y) ** 2 / 2} | deltas, by_hand)


def minibatch() -> Worked:
    """The minibatch update Δw_{i→j} = −η/N Σ δ_j z_i, N = 2 instances of case 2's net (document 2).

    The first instance is that of several-inputs. The second: z_i = 1, z_j = 3, y = 1.

        s_k = 2λ − 3λ = −λ    z_k = 1/4    ŷ = 3/4    δ_o = −1/4    δ_k = −1/4 · 3 · 3/16 = −9/64

        Σ δ_o z_k = 15/16 − 1/16   = 7/8      Δw_{k→o} = −1/4 · 7/8   = −7/32
        Σ δ_k z_i = 45/32 − 9/64   = 81/64    Δw_{i→k} = −1/4 · 81/64 = −81/256
        Σ δ_k z_j = 135/64 − 27/64 = 27/16    Δw_{j→k} = −1/4 · 27/16 = −27/64

    Here η/N = 1/4. Autograd's answer is −η times the gradient of `half_per_example`, which has the
    factor 1/N.
    """
    network = NETWORKS["several-inputs"]
    xs, ys = (network.x, (1.0, 3.0)), (network.y, (1.0,))
    sums = {"k→o": 0.0, "i→k": 0.0, "j→k": 0.0}
    for x, (y,) in zip(xs, ys, strict=True):
        _, by_hand = _several_inputs(network, x, y)
        for name, partial in by_hand.items():
            sums[name] += partial  # Σ_y δ_j^(y) z_i^(y)
    values = {f"Δw_{{{name}}}": -network.lr / len(xs) * total for name, total in sums.items()}
    exact = partials(network, gradients(network, tensor(xs), tensor(ys)))
    return Worked(values, {s.replace("∂E/∂", "Δ"): -network.lr * d for s, d in exact.items()})


def _several_inputs(
    network: Network, x: Sequence[float], y: float
) -> tuple[dict[str, float], dict[str, float]]:
    """The values of both passes, and ∂E/∂w of each weight."""
    (((w_ik, w_jk),), ((w_ko,),)), (z_i, z_j) = network.weights, x
    s_k = z_i * w_ik + z_j * w_jk
    z_k = sigma(s_k)
    y_hat = z_k * w_ko
    delta_o = y_hat - y  # δ_o = ŷ − y
    delta_k = delta_o * w_ko * _slope(s_k)  # δ_k = δ_o w_{k→o} σ(s_k)(1 − σ(s_k))
    values = {"s_k": s_k, "z_k": z_k, "ŷ": y_hat, "E": (y_hat - y) ** 2 / 2}
    by_hand = {"k→o": delta_o * z_k, "i→k": delta_k * z_i, "j→k": delta_k * z_j}
    return values | {"δ_o": delta_o, "δ_k": delta_k}, by_hand


def _worked(network: Network, values: dict[str, float], by_hand: dict[str, float]) -> Worked:
    values |= {f"∂E/∂w_{{{name}}}": d for name, d in by_hand.items()}
    values |= {f"Δw_{{{name}}}": -network.lr * d for name, d in by_hand.items()}  # Δw = −η δ_j z_i
    return Worked(values, partials(network, gradients(network)))


def _slope(s: float) -> float:
    """σ′(s) = σ(s)(1 − σ(s))."""
    return sigma(s) * (1 - sigma(s))
