"""A trace told in one document's symbols: forward, backward, update, and the check."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import Tensor

from manual_bp.backprop import LayerPass
from manual_bp.notation import NOTATIONS, Notation, Units, minus
from manual_bp.trace.numbers import (
    entries,
    factor,
    matrix,
    number,
    sum_of_products,
    vector,
    written_out,
)
from manual_bp.trace.passes import Trace


@dataclass(frozen=True)
class Heading:
    text: str


@dataclass(frozen=True)
class Paragraph:
    text: str


@dataclass(frozen=True)
class Step:
    """One formula, its shape, and the formula with the numbers filled in."""

    formula: str
    shape: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


Block = Heading | Paragraph | Step | Table


def story(trace: Trace, notation: int = 1, units: Units | None = None) -> list[Block]:
    """A computed trace told in the symbols of document 1, 2 or 3.

    Raises:
        ValueError: an unknown notation.
    """
    if notation not in NOTATIONS:
        raise ValueError(
            f"trace: notation {notation!r} is not one of 1, 2, 3: the documents' numbers"
        )
    n = NOTATIONS[notation]((len(trace.x), *(len(p.a) for p in trace.layers)), units)
    parts = (_introduction, _forward, _backward, _update, _vanishing, _check)
    return [block for part in parts for block in part(trace, n)]


def _introduction(trace: Trace, n: Notation) -> Iterator[Block]:
    sizes = "-".join(map(str, n.sizes))
    yield Paragraph(
        f"{sizes} network, one example (m = 1), cost {trace.cost}, η = {number(trace.lr)}; "
        f"{n.title}."
    )
    if note := n.note(str(trace.layers[0].layer)):
        yield Paragraph(note)
    if n.document != 3 and any(p.db is not None for p in trace.layers):
        yield Paragraph(f"Document {n.document} leaves the bias b out; its gradient is δ.")
    x, y = n.vector("x", 0), n.vector("y", n.last)
    shape = f"{n.shape(n.sizes[0])}, {n.shape(n.sizes[-1])}"
    lines = (f"{x} = {vector(trace.x)}", f"{y} = {vector(trace.y)}")
    yield Step(f"input {x}, target {y}", shape, lines)


def _forward(trace: Trace, n: Notation) -> Iterator[Block]:
    yield Heading("Forward")
    for p in trace.layers:
        formulas, i, bias = _formulas(p, n), p.layer.number, p.layer.bias
        z, a = [], []
        for u in written_out(p.z):
            more = "" if bias is None else f" + {factor(bias[u])}"
            products = sum_of_products(p.layer.weight[u], p.a_prev)
            z.append(f"{n.symbol('z', i, u)} = {products}{more}")
            a.append(n.symbol("a", i, u) + (f" = σ({number(p.z[u])})" if p.layer.sigmoid else ""))
        yield _step(n, formulas["z"], z, p.z, n.vector("z", i))
        yield _step(n, formulas["a"], a, p.a, n.vector("a", i))
    output, y = trace.layers[-1].a, trace.y
    squares = [f"({number(output[u])} − {factor(y[u])})²" for u in written_out(output)]
    if len(squares) < len(output):
        squares.append(f"[{len(output) - len(squares)} more]")
    line = f"{n.cost} = {_times(trace.scale)}[{' + '.join(squares)}] = {number(trace.value)}"
    yield Step(n.cost_formula(trace.cost), "a number", (line,))


def _backward(trace: Trace, n: Notation) -> Iterator[Block]:
    yield Heading("Backward: δ = error × slope, layer by layer")
    for p, after in zip(trace.layers[::-1], (None, *trace.layers[:0:-1]), strict=True):
        formulas, i, names = _formulas(p, n), p.layer.number, n.names(p.layer.number)
        yield Paragraph(f"{p.layer}{f', {names}' if names else ''}:")
        errors, slopes, deltas = [], [], []
        for u in written_out(p.a):
            a = number(p.a[u])
            if after is None:
                error = f"{_times(2 * trace.scale)}({a} − {factor(trace.y[u])})"
            else:
                error = sum_of_products(after.delta, after.layer.weight[:, u])
            errors.append(f"{n.derivative(n.symbol('a', i, u))} = {error}")
            slopes.append(n.slope(i, u) + (f" = {a} · (1 − {a})" if p.layer.sigmoid else ""))
            product = f"{factor(p.error[u])} · {factor(p.slope[u])}"
            deltas.append(f"{n.symbol('δ', i, u)} = {product}")
        formula = n.output_error(trace.cost) if after is None else formulas["error"]
        yield _step(n, formula, errors, p.error, "error")
        yield _step(n, formulas["slope"], slopes, p.slope, "slope")
        yield _step(n, formulas["delta"], deltas, p.delta, n.vector("δ", i))
        weights = [
            f"{n.derivative(n.weight(i, (j, k)))} = {factor(p.delta[j])} · {factor(p.a_prev[k])}"
            for j, k in entries(p.dW)
        ]
        yield _step(n, formulas["dW"], weights, p.dW)
        if p.db is not None:
            yield _step(n, formulas["db"], [], p.db)


def _update(trace: Trace, n: Notation) -> Iterator[Block]:
    yield Heading("Update")

    def moved(name: str, old: Tensor, gradient: Tensor) -> str:
        return f"{name} := {number(old)} − {factor(trace.lr)} · {factor(gradient)}"

    for p, updated in zip(trace.layers, trace.updated, strict=True):
        formulas, i, W, b = _formulas(p, n), p.layer.number, p.layer.weight, p.layer.bias
        weights = [moved(n.weight(i, at), W[at], p.dW[at]) for at in entries(W)]
        yield _step(n, formulas["W"], weights, updated.weight)
        if b is not None and p.db is not None and updated.bias is not None:
            biases = [moved(n.symbol("b", i, u), b[u], p.db[u]) for u in written_out(b)]
            yield _step(n, formulas["b"], biases, updated.bias)
    yield Paragraph(
        f"The cost of this example was {n.cost} = {number(trace.value)} before the update "
        f"and is {number(trace.value_after)} after it."
    )


def _vanishing(trace: Trace, n: Notation) -> Iterator[Block]:
    yield Heading("How the error signal changes on its way back")
    norms = [float(p.delta.norm()) for p in trace.layers]
    ratios = [number(here / after) if after else "" for here, after in pairwise(norms)]
    rows = [
        (
            str(p.layer),
            number(p.error.norm()),
            number(p.slope.mean()),
            number(norm),
            ratio,
            number(p.dW.norm()),
        )
        for p, norm, ratio in zip(trace.layers, norms, (*ratios, ""), strict=True)
    ]
    dW = f"‖∂{n.cost}/∂{n.weights}‖"
    header = ("layer", "‖error‖", "mean slope", "‖δ‖", "‖δ‖ / ‖δ of the layer after‖", dW)
    yield Table(header, tuple(rows[::-1]))
    yield Paragraph(
        "A sigmoid's slope is at most ¼: a layer with a sigmoid takes at least three quarters of "
        "its error away."
    )
    if linear := [str(p.layer) for p in trace.layers if not p.layer.sigmoid]:
        yield Paragraph(
            f"A linear layer passes its error on unchanged: here {' and '.join(linear)}."
        )
    yield Paragraph(
        "The layer before receives δ times the weights: small weights shorten δ further."
    )


def _check(trace: Trace, n: Notation) -> Iterator[Block]:
    yield Heading("Check against autograd")
    rows = []
    for p in trace.layers:
        symbols = (n.weight(p.layer.number), n.symbol("b", p.layer.number))
        for symbol, name in zip(symbols, p.layer.parameters, strict=False):
            parameter = f"{p.layer} {name.split('.')[1]}"  # "layer01.weight"
            rows.append((n.gradient(symbol), parameter, _error_text(trace.errors[name])))
    relative = "max ∣by hand − autograd∣ / max ∣autograd∣"
    yield Table(("gradient", "parameter", relative), tuple(rows))
    yield Paragraph(f"max relative error {_error_text(trace.max_relative_error)} (float64)")


def _error_text(error: float) -> str:
    return minus(f"{error:.1e}")


def _times(scale: float) -> str:
    """s as a factor; nothing for 1."""
    return "" if scale == 1 else f"{number(scale)} · "


def _formulas(p: LayerPass, n: Notation) -> dict[str, str]:
    return n.formulas(p.layer.number, bias=p.layer.bias is not None, sigmoid=p.layer.sigmoid)


def _step(
    n: Notation, formula: str, filled: Sequence[str], values: Tensor, whole: str = ""
) -> Step:
    """A line for each entry written out, then the whole vector or matrix."""
    at: Sequence[Any] = written_out(values) if values.dim() == 1 else entries(values)
    lines = [f"{left} = {number(values[i])}" for left, i in zip(filled, at, strict=False)]
    if values.numel() > 1 or not lines:
        lines.append(f"{whole} = {(vector if values.dim() == 1 else matrix)(values)}".lstrip())
    return Step(formula, n.shape(*values.shape), tuple(lines))
