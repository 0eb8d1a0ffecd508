"""A trace told in one document's symbols: forward, backward, update, and the check."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from decimal import Decimal, localcontext
from fractions import Fraction
from itertools import pairwise
from typing import Any

from torch import Tensor

from manual_bp import pencil
from manual_bp.backprop import LayerPass
from manual_bp.notation import NOTATIONS, Units, minus
from manual_bp.pencil import Number, decimal, factor, norm, rounded, text
from manual_bp.trace.blocks import Block, Drawing, Heading, Paragraph, Step, Table
from manual_bp.trace.numbers import SHOWN, added, entries, products, vector
from manual_bp.trace.passes import Trace
from manual_bp.trace.sheet import Sheet, Written, filled_in


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
    with localcontext(pencil.ARITHMETIC):
        if max(n.sizes) <= SHOWN:
            with suppress(ValueError):  # a number that is no fraction of λ, or a z that is no kλ
                return _told(Sheet(trace, n, pencil.exact))
        return _told(Sheet(trace, n, rounded))


def _told(sheet: Sheet) -> list[Block]:
    parts = (_introduction, _forward, _backward, _update, _vanishing, _check)
    return [block for part in parts for block in part(sheet)]


def _introduction(s: Sheet) -> Iterator[Block]:
    trace, n = s.trace, s.n
    sizes = "-".join(map(str, n.sizes))
    yield Paragraph(
        f"{sizes} network, one example (m = 1), cost {trace.cost}, η = {text(s.eta)}; {n.title}."
    )
    if note := n.note(str(trace.layers[0].layer)):
        yield Paragraph(note)
    if n.document != 3 and any(p.db is not None for p in trace.layers):
        yield Paragraph(f"Document {n.document} leaves the bias b out; its gradient is δ.")
    if s.exact:
        yield Paragraph(
            "λ = ln 3 ≈ 1.0986, and σ(kλ) = 3ᵏ/(1 + 3ᵏ). Each line goes on from exact numbers; "
            "after ≈ stands the same in decimals, rounded to four digits."
        )
    else:
        yield Paragraph(
            "= is exact, ≈ is rounded to four digits, and the next line goes on from the number as "
            "it is written; inputs and weights have four digits too. An a near 1 has more, so that "
            "1 − a has four."
        )
    x, y = n.vector("x", 0), n.vector("y", n.last)
    shape = f"{n.shape(n.sizes[0])}, {n.shape(n.sizes[-1])}"
    lines = [f"{x} = {vector(s.x)}", f"{y} = {vector(s.y)}"]
    if max(n.sizes) <= SHOWN:
        yield Drawing(n)
        lines += [line for w in s.layers for line in _parameters(s, w.p)]
    yield Step(f"input {x}, target {y}", shape, tuple(lines), given=True)


def _parameters(s: Sheet, p: LayerPass) -> Iterator[str]:
    """A line for the weights, and the bias, of each unit."""
    i = p.layer.number
    for j, row in enumerate(p.layer.weight):
        told = [f"{s.n.weight(i, (j, k))} = {text(w)}" for k, w in enumerate(s.lifted(row))]
        if p.layer.bias is not None:
            told.append(f"{s.n.symbol('b', i, j)} = {text(s.lift(float(p.layer.bias[j])))}")
        yield ", ".join(told)


def _forward(s: Sheet) -> Iterator[Block]:
    yield Heading("Forward")
    before = s.x
    for w in s.layers:
        w.before = before
        yield from _forward_layer(s, w)
        before = w.a
    n = s.n
    squares = [
        (f"({text(a)} − {factor(y)})²", (a - y) * (a - y)) for a, y in zip(before, s.y, strict=True)
    ]
    filled, total = added(squares)
    name, total = f"{_times(s.scale)}[{filled}]", pencil.scaled(total, s.scale)
    line, s.cost = filled_in(n.cost, name, total)
    yield Step(n.cost_formula(s.trace.cost), "a number", (line,))


def _forward_layer(s: Sheet, w: Written) -> Iterator[Block]:
    n, i, layer, formulas = s.n, w.p.layer.number, w.p.layer, s.formulas(w.p)

    def z(u: int) -> tuple[str, Number]:
        filled, value = products(s.lifted(layer.weight[u]), w.before)
        if layer.bias is not None:
            b = s.lift(float(layer.bias[u]))
            filled, value = f"{filled} + {factor(b)}", value + b
        return filled_in(n.symbol("z", i, u), filled, value)

    def a(u: int) -> tuple[str, Number]:
        name, z = n.symbol("a", i, u), w.z[u]
        if not layer.sigmoid:
            return f"{name} = {text(z)}", z
        told, value = pencil.sigma(z)
        return f"{name} = σ({text(z)}) {told}", value

    step, w.z = s.step(formulas["z"], n.vector("z", i), w.p.z, z)
    yield step
    step, w.a = s.step(formulas["a"], n.vector("a", i), w.p.a, a)
    yield step


def _backward(s: Sheet) -> Iterator[Block]:
    yield Heading("Backward: δ = error × slope, layer by layer")
    for w, after in zip(s.layers[::-1], (None, *s.layers[:0:-1]), strict=True):
        names = s.n.names(w.p.layer.number)
        yield Paragraph(f"{w.p.layer}{f', {names}' if names else ''}:")
        yield from _backward_layer(s, w, after)


def _backward_layer(s: Sheet, w: Written, after: Written | None) -> Iterator[Block]:
    n, i, formulas = s.n, w.p.layer.number, s.formulas(w.p)

    def error(u: int) -> tuple[str, Number]:
        if after is None:
            y = s.y[u]
            filled = f"{_times(2 * s.scale)}({text(w.a[u])} − {factor(y)})"
            value = pencil.scaled(w.a[u] - y, 2 * s.scale)
        else:
            filled, value = products(after.delta, s.lifted(after.p.layer.weight[:, u]))
        return filled_in(n.derivative(n.symbol("a", i, u)), filled, value)

    def slope(u: int) -> tuple[str, Number]:
        if not w.p.layer.sigmoid:
            return f"{n.slope(i, u)} = 1", s.one
        a: Any = w.a[u]
        return filled_in(n.slope(i, u), f"{text(a)} · (1 − {text(a)})", a * (s.one - a))

    def delta(u: int) -> tuple[str, Number]:
        filled = f"{factor(w.error[u])} · {factor(w.slope[u])}"
        return filled_in(n.symbol("δ", i, u), filled, w.error[u] * w.slope[u])

    formula = n.output_error(s.trace.cost) if after is None else formulas["error"]
    step, w.error = s.step(formula, "error", w.p.error, error)
    yield step
    step, w.slope = s.step(formulas["slope"], "slope", w.p.slope, slope)
    yield step
    step, w.delta = s.step(formulas["delta"], n.vector("δ", i), w.p.delta, delta)
    yield step
    lines = []
    for j, k in entries(w.p.dW):
        name = n.derivative(n.weight(i, (j, k)))
        filled = f"{factor(w.delta[j])} · {factor(w.before[k])}"
        line, w.dW[j, k] = filled_in(name, filled, w.delta[j] * w.before[k])
        lines.append(line)
    yield s.matrix(formulas["dW"], lines, w.p.dW, w.dW)
    if w.p.db is not None:
        shape = n.shape(len(w.delta))
        yield Step(formulas["db"], shape, (f"= {vector(w.delta)}",))


def _update(s: Sheet) -> Iterator[Block]:
    yield Heading("Update")
    for w, updated in zip(s.layers, s.trace.updated, strict=True):
        yield from _update_layer(s, w, updated.weight, updated.bias)
    yield Paragraph(
        f"The cost of this example was {s.n.cost} = {text(rounded(decimal(s.cost)))} before the "
        f"update and is {text(s.cost_after())} after it.",
        answer=True,
    )


def _update_layer(s: Sheet, w: Written, weight: Tensor, bias: Tensor | None) -> Iterator[Block]:
    n, i, layer, formulas = s.n, w.p.layer.number, w.p.layer, s.formulas(w.p)

    def moved(name: str, old: Number, gradient: Number) -> tuple[str, Number]:
        filled = f"{text(old)} − {factor(s.eta)} · {factor(gradient)}"
        return filled_in(name, filled, old - s.eta * gradient, ":=")

    lines = []
    for at in entries(weight):
        gradient = w.dW[at] if at in w.dW else s.lift(float(w.p.dW[at]))
        old = s.lift(float(layer.weight[at]))
        line, w.new_W[at] = moved(n.weight(i, at), old, gradient)
        lines.append(line)
    yield s.matrix(formulas["W"], lines, weight, w.new_W)
    if bias is not None and layer.bias is not None:
        old_b = layer.bias.tolist()
        step, w.new_b = s.step(
            formulas["b"],
            "",
            bias,
            lambda u: moved(n.symbol("b", i, u), s.lift(old_b[u]), w.delta[u]),
        )
        yield step


def _vanishing(s: Sheet) -> Iterator[Block]:
    n = s.n
    yield Heading("How the error signal changes on its way back")
    norms = [norm(w.delta) for w in s.layers]
    ratios = [text(rounded(here / after)) if after else "" for here, after in pairwise(norms)]
    rows = []
    for w, length, ratio in zip(s.layers, norms, (*ratios, ""), strict=True):
        slope = sum(map(decimal, w.slope), Decimal()) / len(w.slope)
        every = len(w.dW) == w.p.dW.numel()
        dW = norm(w.dW.values()) if every else rounded(float(w.p.dW.norm()))
        figures = (norm(w.error), rounded(slope), length)
        rows.append((str(w.p.layer), *map(text, figures), ratio, text(dW)))
    name = f"‖∂{n.cost}/∂{n.weights}‖"
    header = ("layer", "‖error‖", "mean slope", "‖δ‖", "‖δ‖ / ‖δ of the layer after‖", name)
    yield Table(header, tuple(rows[::-1]))
    yield Paragraph(
        "A sigmoid's slope is at most ¼: a layer with a sigmoid takes at least three quarters of "
        "its error away."
    )
    if linear := [str(w.p.layer) for w in s.layers if not w.p.layer.sigmoid]:
        yield Paragraph(
            f"A linear layer passes its error on unchanged: here {' and '.join(linear)}."
        )
    yield Paragraph(
        "The layer before receives δ times the weights: small weights shorten δ further."
    )


def _check(s: Sheet) -> Iterator[Block]:
    yield Heading("Check against autograd")
    trace, rows = s.trace, []
    for p in trace.layers:
        symbols = (s.n.weight(p.layer.number), s.n.symbol("b", p.layer.number))
        for symbol, name in zip(symbols, p.layer.parameters, strict=False):
            parameter = f"{p.layer} {name.split('.')[1]}"  # "layer01.weight"
            rows.append((s.n.gradient(symbol), parameter, _error_text(trace.errors[name])))
    relative = "max ∣by hand − autograd∣ / max ∣autograd∣"
    yield Table(("gradient", "parameter", relative), tuple(rows))
    yield Paragraph(f"max relative error {_error_text(trace.max_relative_error)} (float64)")
    if not s.exact:
        off = max(
            abs(float(decimal(value)) - float(w.p.dW[at])) / (float(w.p.dW.abs().max()) or 1.0)
            for w in s.layers
            for at, value in w.dW.items()
        )
        yield Paragraph(f"The gradients as written above are within {off:.1g} of max ∣autograd∣.")


def _error_text(error: float) -> str:
    return minus(f"{error:.1e}")


def _times(scale: Fraction) -> str:
    """s as a factor; nothing for 1."""
    return "" if scale == 1 else f"{scale} · "
