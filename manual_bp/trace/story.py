"""A trace told in one document's symbols: forward, backward, update, where the gradient vanishes,
and the check.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from manual_bp.trace.notation import Notation
from manual_bp.trace.numbers import (
    factor,
    largest_entry,
    matrix,
    number,
    sum_of_products,
    vector,
    written_out,
)
from manual_bp.trace.passes import LayerPass, Trace
from manual_bp.worked_examples.networks import minus


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


def tell(trace: Trace, notation: Notation) -> list[Block]:
    """The whole story in order."""
    return [
        *_introduction(trace, notation),
        *_forward(trace, notation),
        *_backward(trace, notation),
        *_update(trace, notation),
        *_vanishing(trace, notation),
        *_check(trace, notation),
    ]


def _introduction(trace: Trace, n: Notation) -> Iterator[Block]:
    sizes = "-".join(map(str, n.sizes))
    yield Paragraph(
        f"{sizes} network, one example (m = 1), cost {trace.cost}, η = {number(trace.lr)}; "
        f"{n.title}."
    )
    if n.note:
        yield Paragraph(n.note)
    if n.document != 3 and any(layer.bias is not None for layer in trace.layers):
        yield Paragraph(f"Document {n.document} leaves the bias b out; its gradient is δ.")
    x, y = n.vector("x", 0), n.vector("y", n.last)
    shape = f"{n.vector_shape(n.sizes[0])}, {n.vector_shape(n.sizes[-1])}"
    yield Step(
        f"input {x}, target {y}", shape, (f"{x} = {vector(trace.x)}", f"{y} = {vector(trace.y)}")
    )


def _forward(trace: Trace, n: Notation) -> Iterator[Block]:
    yield Heading("Forward")
    for layer in trace.layers:
        formulas = _formulas(layer, n)
        bias = [None] * len(layer.z) if layer.bias is None else layer.bias.tolist()
        yield _vector_step(
            n,
            formulas["z"],
            "z",
            layer.number,
            layer.z,
            lambda u, p=layer, b=bias: sum_of_products(p.weight[u], p.before, bias=b[u]),  # type: ignore[misc]
        )
        yield _vector_step(
            n,
            formulas["a"],
            "a",
            layer.number,
            layer.a,
            lambda u, p=layer: f"σ({number(float(p.z[u]))})" if p.sigmoid else "",  # type: ignore[misc]
        )
    squares = [
        f"({number(a)} − {factor(y)})²"
        for a, y in zip(trace.layers[-1].a.tolist(), trace.y.tolist(), strict=True)
    ]
    shown = [squares[u] for u in written_out(len(squares))]
    more = f" + [{len(squares) - len(shown)} more]" if len(shown) < len(squares) else ""
    scaled = f"{number(trace.scale)} · " if trace.scale != 1 else ""
    yield Step(
        n.cost_formula(trace.cost),
        "a number",
        (f"{n.cost} = {scaled}[{' + '.join(shown)}{more}] = {number(trace.value)}",),
    )


def _backward(trace: Trace, n: Notation) -> Iterator[Block]:
    yield Heading("Backward: δ = error × slope, layer by layer")
    after: LayerPass | None = None
    for layer in reversed(trace.layers):
        formulas = _formulas(layer, n)
        a, slope, error = (values.tolist() for values in (layer.a, layer.slope, layer.error))
        yield Paragraph(f"{n.layer(layer.number)}:")
        lines = [
            f"{n.derivative(n.symbol('a', layer.number, u))} = {_error(trace, layer, after, u)} = "
            f"{number(error[u])}"
            for u in written_out(len(error))
        ]
        yield Step(
            formulas["error"] if after is not None else n.output_error(trace.cost),
            n.vector_shape(len(error)),
            (*lines, f"error = {vector(layer.error)}"),
        )
        slopes = [
            f"{n.slope(layer.number, u)} = "
            f"{f'{number(a[u])} · (1 − {factor(a[u])}) = ' if layer.sigmoid else ''}"
            f"{number(slope[u])}"
            for u in written_out(len(slope))
        ]
        yield Step(
            formulas["slope"],
            n.vector_shape(len(slope)),
            (*slopes, f"slope = {vector(layer.slope)}"),
        )
        yield _vector_step(
            n,
            formulas["delta"],
            "δ",
            layer.number,
            layer.delta,
            lambda u, e=error, s=slope: f"{factor(e[u])} · {factor(s[u])}",  # type: ignore[misc]
        )
        yield _weight_gradient(layer, formulas["dW"], n)
        if layer.bias is not None:
            yield Step(
                formulas["db"], n.vector_shape(len(layer.delta)), (f"= {vector(layer.delta)}",)
            )
        after = layer


def _error(trace: Trace, layer: LayerPass, after: LayerPass | None, unit: int) -> str:
    if after is None:
        coefficient = 2 * trace.scale
        scaled = "" if coefficient == 1 else f"{number(coefficient)} · "
        return f"{scaled}({number(float(layer.a[unit]))} − {factor(float(trace.y[unit]))})"
    return sum_of_products(after.delta, after.weight[:, unit])


def _weight_gradient(layer: LayerPass, formula: str, n: Notation) -> Step:
    lines = []
    for i, j in _entries(layer.dW):
        product = f"{factor(float(layer.delta[i]))} · {factor(float(layer.before[j]))}"
        lines.append(
            f"{n.gradient(layer.number, (i, j))} = {product} = {number(float(layer.dW[i, j]))}"
        )
    return Step(formula, _matrix_shape(n, layer.dW), (*lines, f"= {matrix(layer.dW)}"))


def _update(trace: Trace, n: Notation) -> Iterator[Block]:
    yield Heading("Update")
    eta = factor(trace.lr)
    for layer in trace.layers:
        formulas = _formulas(layer, n)
        lines = []
        for i, j in _entries(layer.dW):
            old, gradient, new = (
                float(t[i, j]) for t in (layer.weight, layer.dW, layer.new_weight)
            )
            name = n.weight(layer.number, (i, j))
            lines.append(f"{name} := {number(old)} − {eta} · {factor(gradient)} = {number(new)}")
        yield Step(
            formulas["W"], _matrix_shape(n, layer.weight), (*lines, f"= {matrix(layer.new_weight)}")
        )
        if layer.bias is not None and layer.new_bias is not None:
            units = []
            for u in written_out(len(layer.bias)):
                old, gradient, new = (
                    float(t[u]) for t in (layer.bias, layer.delta, layer.new_bias)
                )
                name = n.symbol("b", layer.number, u)
                units.append(
                    f"{name} := {number(old)} − {eta} · {factor(gradient)} = {number(new)}"
                )
            yield Step(
                formulas["b"],
                n.vector_shape(len(layer.bias)),
                (*units, f"= {vector(layer.new_bias)}"),
            )
    yield Paragraph(
        f"The cost of this example was {n.cost} = {number(trace.value)} before the update "
        f"and is {number(trace.value_after)} after it."
    )


def _vanishing(trace: Trace, n: Notation) -> Iterator[Block]:
    yield Heading("How the error signal changes on its way back")
    rows = []
    after: LayerPass | None = None
    for layer in reversed(trace.layers):
        norm = float(layer.delta.norm())
        ratio = ""
        if after is not None and float(after.delta.norm()) > 0:
            ratio = number(norm / float(after.delta.norm()))
        rows.append(
            (
                n.layer(layer.number),
                number(float(layer.error.norm())),
                number(float(layer.slope.mean())),
                number(norm),
                ratio,
                number(float(layer.dW.norm())),
            )
        )
        after = layer
    header = (
        "layer",
        "‖error‖",
        "mean slope",
        "‖δ‖",
        "‖δ‖ / ‖δ of the layer after‖",
        f"‖∂{n.cost}/∂{n.weights}‖",
    )
    yield Table(header, tuple(rows))
    yield Paragraph(
        "A sigmoid's slope is at most ¼, so a layer with one takes at least three quarters of its "
        "error away."
    )
    linear = [n.layer(layer.number) for layer in trace.layers if not layer.sigmoid]
    if linear:
        yield Paragraph(
            f"A linear layer passes its error on unchanged: here {' and '.join(linear)}."
        )
    yield Paragraph(
        "What arrives at the layer before is δ times the weights: small weights shorten it further."
    )


def _check(trace: Trace, n: Notation) -> Iterator[Block]:
    yield Heading("Check against autograd")
    rows = []
    for layer in trace.layers:
        rows.append(
            (
                f"{n.gradient(layer.number)}, {n.layer(layer.number)}",
                f"{layer.name}.weight",
                _error_text(layer.dW_error),
            )
        )
        if layer.db_error is not None:
            name = n.derivative(n.symbol("b", layer.number))
            rows.append(
                (
                    f"{name}, {n.layer(layer.number)}",
                    f"{layer.name}.bias",
                    _error_text(layer.db_error),
                )
            )
    yield Table(
        ("gradient", "parameter", "max |by hand − autograd| / max |autograd|".replace("|", "∣")),
        tuple(rows),
    )
    yield Paragraph(f"max relative error {_error_text(trace.max_relative_error)} (float64)")


def _error_text(error: float) -> str:
    return minus(f"{error:.1e}")


def _formulas(layer: LayerPass, n: Notation) -> dict[str, str]:
    return n.formulas(layer.number, bias=layer.bias is not None, sigmoid=layer.sigmoid)


def _vector_step(
    n: Notation, formula: str, letter: str, layer: int, values: Tensor, filled: Callable[[int], str]
) -> Step:
    """One line for each unit written out, and the vector."""
    lines = []
    for u in written_out(len(values)):
        middle = filled(u)
        value = number(float(values[u]))
        lines.append(f"{n.symbol(letter, layer, u)} = {f'{middle} = ' if middle else ''}{value}")
    if len(values) > 1:
        lines.append(f"{n.vector(letter, layer)} = {vector(values)}")
    return Step(formula, n.vector_shape(len(values)), tuple(lines))


def _entries(values: Tensor) -> list[tuple[int, int]]:
    """The entries of a matrix that are written out: all of a 2 × 2, else the largest one."""
    if values.numel() <= 4:
        return [(i, j) for i in range(values.shape[0]) for j in range(values.shape[1])]
    return [largest_entry(values)]


def _matrix_shape(n: Notation, values: Tensor) -> str:
    rows, columns = values.shape
    if n.document == 2:
        return f"{rows * columns} weight{'s' if rows * columns > 1 else ''}"
    return f"({rows}{' ×' if n.document == 3 else ','} {columns})"
