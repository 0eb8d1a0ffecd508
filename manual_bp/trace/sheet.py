"""The sheet that a trace is written on: each line goes on from the numbers as they are written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction

from torch import Tensor

from manual_bp import pencil
from manual_bp.backprop import LayerPass
from manual_bp.notation import Notation
from manual_bp.pencil import Number, decimal, rounded, written
from manual_bp.trace.blocks import Step
from manual_bp.trace.numbers import SHOWN, At, matrix, vector, written_out
from manual_bp.trace.passes import Trace


@dataclass
class Written:
    """One layer's numbers as they are written. Those that stand in no line are rounded too."""

    p: LayerPass
    before: list[Number] = field(default_factory=list)  # what enters the layer
    z: list[Number] = field(default_factory=list)
    a: list[Number] = field(default_factory=list)
    error: list[Number] = field(default_factory=list)
    slope: list[Number] = field(default_factory=list)
    delta: list[Number] = field(default_factory=list)
    dW: dict[At, Number] = field(default_factory=dict)  # the entries that are written out
    new_W: dict[At, Number] = field(default_factory=dict)
    new_b: list[Number] = field(default_factory=list)


class Sheet:
    """A trace with all that is written of it so far.

    Args:
        trace: the numbers of float64.
        n: the symbols.
        lift: `pencil.exact` or `pencil.rounded`.
    """

    def __init__(self, trace: Trace, n: Notation, lift: Callable[[float], Number]) -> None:
        self.trace, self.n, self.lift = trace, n, lift
        self.exact = lift is pencil.exact
        self.x, self.y = self.lifted(trace.x), self.lifted(trace.y)
        self.eta, self.one = lift(trace.lr), lift(1.0)
        self.scale = Fraction(trace.scale).limit_denominator(10**6)  # 1/(2 n_out) of a double
        self.layers = [Written(p) for p in trace.layers]
        self.cost = self.one

    def lifted(self, values: Tensor) -> list[Number]:
        return [self.lift(value) for value in values.tolist()]

    def formulas(self, p: LayerPass) -> dict[str, str]:
        bias = p.layer.bias is not None
        return self.n.formulas(p.layer.number, bias=bias, sigmoid=p.layer.sigmoid)

    def step(
        self, formula: str, whole: str, exact: Tensor, line: Callable[[int], tuple[str, Number]]
    ) -> tuple[Step, list[Number]]:
        """A vector: a line for each entry that is written out, then the whole."""
        lines, values = [], []
        for u, value in enumerate(exact.tolist()):
            told, number = line(u) if u in written_out(len(exact)) else ("", self.lift(value))
            lines += [told] if told else []
            values.append(number)
        lines += [f"{whole} = {vector(values)}".lstrip()] if len(values) > 1 else []
        return Step(formula, self.n.shape(len(values)), tuple(lines)), values

    def matrix(
        self, formula: str, lines: list[str], values: Tensor, carried: dict[At, Number]
    ) -> Step:
        """A matrix: the lines of the entries that are written out, then the whole."""
        whole = [f"= {matrix(values, carried)}"] if values.numel() > 1 else []
        return Step(formula, self.n.shape(*values.shape), (*lines, *whole))

    def cost_after(self) -> Decimal:
        """C of the example with the updated weights as written, rounded once, at the end."""
        if max(self.n.sizes) > SHOWN:  # not all of them are written
            return rounded(self.trace.value_after)
        a = [decimal(v) for v in self.x]
        for w in self.layers:
            z = [decimal(b) for b in w.new_b] or [Decimal()] * len(w.z)
            for (j, k), weight in w.new_W.items():
                z[j] += decimal(weight) * a[k]  # z = W a_prev + b
            a = [1 / (1 + (-v).exp()) for v in z] if w.p.layer.sigmoid else z
        squares = ((v - decimal(y)) ** 2 for v, y in zip(a, self.y, strict=True))
        return rounded(pencil.scaled(sum(squares, Decimal()), self.scale))


def filled_in(name: str, filled: str, value: Number, sign: str = "=") -> tuple[str, Number]:
    """name = filled = value, and the value as it is written."""
    told, number = written(value)
    return f"{name} {sign} {filled} {told}", number
