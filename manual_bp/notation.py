"""The three documents' symbols for the same quantities, for `trace` and `worked_examples`.

Here layers are counted 1, 2, … from the first that has weights, as `backprop.Layer` counts; 0 is
the input. Units are counted from 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from manual_bp.normalisation import REDUCTIONS

Units = Sequence[Sequence[str]]

# What is printed small, and what it stands for.
SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁽⁾ᵀᵏ", "0123456789()Tk", strict=True))
SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True))


def superscript(number: int) -> str:
    return str(number).translate({ord(big): small for small, big in SUPERSCRIPTS.items()})


def subscript(number: int) -> str:
    return str(number).translate({ord(big): small for small, big in SUBSCRIPTS.items()})


def minus(number: str) -> str:
    """A number with the minus sign of the formulas, which is no hyphen."""
    return number.replace("-", "−")


class Notation:
    """Names and formulas, a layer at a time, as documents 1 and 3 write them.

    Args:
        sizes: the width of each layer, the input's first.
        units: document 2's name for each unit, layer by layer; made up where there is none.
    """

    document: int
    title: str
    cost: str  # J, E or C
    weights: str  # the letter of a weight matrix
    templates: ClassVar[dict[str, str]]  # of z, a, error, slope, delta, dW, db, W and b

    def __init__(self, sizes: Sequence[int], units: Units | None = None) -> None:
        self.sizes = sizes
        self.units = units
        self.last = len(sizes) - 1

    def note(self, first: str) -> str:
        """What a reader must know about the symbols; `first` is the name of layer 1."""
        return ""

    def names(self, layer: int) -> str:
        """What the document calls the layer's units, if it names them."""
        return ""

    def mark(self, letter: str, layer: int) -> str:
        """The superscript that names a layer."""
        return superscript(layer)

    def symbol(self, letter: str, layer: int, unit: int | None = None) -> str:
        """A vector of the layer ("x", "z", "a", "δ", "b", "y"), or its entry for one unit."""
        index = "" if unit is None or self.sizes[layer] == 1 else subscript(unit + 1)
        return f"{letter}{index}{'' if letter in 'xy' else self.mark(letter, layer)}"

    def vector(self, letter: str, layer: int) -> str:
        """What stands before the numbers of a whole layer."""
        return self.symbol(letter, layer)

    def unit(self, layer: int, unit: int) -> str:
        """What a drawing of the network calls a unit."""
        return self.symbol("a" if layer else "x", layer, unit)

    def weight(self, layer: int, entry: tuple[int, int] | None = None) -> str:
        """The weight matrix that leads into the layer, or its entry (to unit, from unit)."""
        letter = self.weights if entry is None else self.weights.lower() + _index(entry)
        return f"{letter}{self.mark(self.weights, layer)}"

    def before(self, layer: int) -> str:
        """What enters the layer."""
        return self.symbol("a", layer - 1)

    def slope(self, layer: int, unit: int | None = None) -> str:
        """The derivative of the layer's activation function."""
        return f"σ′({self.symbol('z', layer, unit)})"

    def derivative(self, of: str) -> str:
        """∂C/∂… of a symbol."""
        return f"∂{self.cost}/∂{of}"

    def gradient(self, of: str) -> str:
        """The gradient of a whole W or b."""
        return self.derivative(of)

    def shape(self, *sizes: int) -> str:
        """How the document lays out a vector of n entries, or a matrix."""
        return f"({' × '.join(map(str, sizes if len(sizes) > 1 else (*sizes, 1)))})"

    def formulas(self, layer: int, *, bias: bool, sigmoid: bool) -> dict[str, str]:
        """The formulas of one layer: z, a, error, slope, delta, dW, db, W and b."""
        z, a, b, delta = (self.symbol(letter, layer) for letter in ("z", "a", "b", "δ"))
        W, slope = self.weight(layer), self.slope(layer)
        symbols = {"z": z, "a": a, "b": b, "delta": delta, "W": W, "slope": slope}
        symbols |= {"before": self.before(layer), "error": self.derivative(a)}
        symbols |= {"dW": self.gradient(W), "db": self.gradient(b)}
        symbols |= {"next_W": self.weight(layer + 1), "next_delta": self.symbol("δ", layer + 1)}
        told = {name: text.format(**symbols) for name, text in self.templates.items()}
        if bias:
            told["z"] += f" + {b}"
        return told if sigmoid else told | {"a": f"{a} = {z}", "slope": f"{slope} = 1"}

    def cost_formula(self, cost: str) -> str:
        """The cost of one example: s Σ (a − y)²."""
        how = REDUCTIONS[cost]
        s = [f"1/{self.sizes[-1]}"] * how.per_element + ["½"] * (how.k == 2)
        return f"{self.cost} = {' · '.join(s)}{' ' if s else ''}Σ {self._residual()}²"

    def output_error(self, cost: str) -> str:
        """∂C/∂a = 2 s (a − y) of one example at the output."""
        how = REDUCTIONS[cost]
        two_s = str(2 // how.k) + (f"/{self.sizes[-1]}" if how.per_element else "")
        factor = "" if two_s == "1" else f"{two_s} "
        return f"{self.derivative(self.symbol('a', self.last))} = {factor}{self._residual()}"

    def _residual(self) -> str:
        return f"({self.symbol('a', self.last)} − {self.symbol('y', self.last)})"


class Document1(Notation):
    """θ, z, a, δ; the input is layer 1, and Θ⁽ˡ⁾ leads out of layer l; rows."""

    document = 1
    title = "document 1: θ, z, a, δ"
    cost = "J"
    weights = "Θ"
    templates: ClassVar = {
        "z": "{z} = {before} ({W})ᵀ",
        "a": "{a} = f({z}) = 1/(1 + e^(−{z}))",
        "error": "{error} = {next_delta} {next_W}",
        "slope": "{slope} = {a} ⊙ (1 − {a})",
        "delta": "{delta} = {error} ⊙ {slope}",
        "dW": "{dW} = ({delta})ᵀ {before}",
        "db": "{db} = {delta}",
        "W": "{W} := {W} − η {dW}",
        "b": "{b} := {b} − η {db}",
    }

    def note(self, first: str) -> str:
        return f"Document 1 counts the input as layer 1: its layer 2 is {first} here."

    def mark(self, letter: str, layer: int) -> str:
        return f"⁽{superscript(layer if letter in 'Θb' else layer + 1)}⁾"

    def weight(self, layer: int, entry: tuple[int, int] | None = None) -> str:
        if entry is not None and max(self.sizes) == 1:  # one neuron per layer: θ₁, θ₂
            return f"θ{subscript(layer)}"
        return super().weight(layer, entry)

    def slope(self, layer: int, unit: int | None = None) -> str:
        return f"f′({self.symbol('z', layer, unit)})"

    def shape(self, *sizes: int) -> str:
        return f"({', '.join(map(str, sizes if len(sizes) > 1 else (1, *sizes)))})"


class Document2(Notation):
    """s enters unit j, z leaves it, w_{i→j} joins two units, E is the error; unit by unit."""

    document = 2
    title = "document 2: s, z, w_{i→j}, δ"
    cost = "E"
    weights = "w"
    templates: ClassVar = {
        "z": "s_j = Σ_{{i ∈ ins(j)}} w_{{i→j}} {before}",
        "a": "{a} = σ(s_j) = 1/(1 + e^(−s_j))",
        "error": "{error} = Σ_{{k ∈ outs(j)}} δ_k w_{{j→k}}",
        "slope": "{slope} = σ(s_j) (1 − σ(s_j))",
        "delta": "δ_j = {slope} · {error}",
        "dW": "∂E/∂w_{{i→j}} = δ_j {before}",
        "db": "∂E/∂b_j = δ_j",
        "W": "w_{{i→j}} := w_{{i→j}} + Δw_{{i→j}},  Δw_{{i→j}} = −η δ_j {before}",
        "b": "b_j := b_j + Δb_j,  Δb_j = −η δ_j",
    }

    def note(self, first: str) -> str:
        return (
            "In the formulas i → j → k are any three units in a row; the lines below each name "
            "the units themselves."
        )

    def names(self, layer: int) -> str:
        n = self.sizes[layer]
        names = ", ".join(self.unit(layer, unit) for unit in range(min(n, 4)))
        return f"unit{'s' if n > 1 else ''} {names}{', …' if n > 4 else ''}"

    def symbol(self, letter: str, layer: int, unit: int | None = None) -> str:
        letter = {"z": "s", "a": "x" if layer == 0 else "z"}.get(letter, letter)
        if layer == self.last and letter in ("z", "y"):
            letter = "ŷ" if letter == "z" else "y"
            if unit is None or self.sizes[layer] == 1:
                return letter
        index = self.unit(layer, unit) if unit is not None else "j" if layer else "i"
        return f"{letter}_{index}"

    def vector(self, letter: str, layer: int) -> str:
        return self.symbol(letter, layer).removesuffix("_i").removesuffix("_j")

    def unit(self, layer: int, unit: int) -> str:
        if self.units is not None:
            return self.units[layer][unit]
        letter = "o" if layer == self.last else ("ijklmnpqrstuv"[layer : layer + 1] or f"h{layer}")
        return letter if self.sizes[layer] == 1 else f"{letter}{subscript(unit + 1)}"

    def weight(self, layer: int, entry: tuple[int, int] | None = None) -> str:
        if entry is None:
            return "w_{i→j}"
        to, from_ = entry
        return f"w_{{{self.unit(layer - 1, from_)}→{self.unit(layer, to)}}}"

    def before(self, layer: int) -> str:
        return "x_i" if layer == 1 else "z_i"

    def slope(self, layer: int, unit: int | None = None) -> str:
        name = "j" if unit is None else self.unit(layer, unit)
        return f"f_{name}′(s_{name})"

    def shape(self, *sizes: int) -> str:
        n, what = (sizes[0], "unit") if len(sizes) == 1 else (sizes[0] * sizes[1], "weight")
        return f"{n} {what}{'s' if n > 1 else ''}"


class Document3(Notation):
    """w, z, a, δ; Wˡ leads into layer l; columns."""

    document = 3
    title = "document 3: w, z, a, δ"
    cost = "C"
    weights = "W"
    templates: ClassVar = Document1.templates | {
        "z": "{z} = {W} {before}",
        "a": "{a} = σ({z}) = 1/(1 + e^(−{z}))",
        "error": "{error} = ({next_W})ᵀ {next_delta}",
        "dW": "{dW} = {delta} ({before})ᵀ",
    }

    def gradient(self, of: str) -> str:
        return f"∇{of}"


NOTATIONS: dict[int, type[Notation]] = {1: Document1, 2: Document2, 3: Document3}


def _index(entry: tuple[int, int]) -> str:
    """₂₁ for row 2, column 1; [12, 345] where two digits would run together."""
    row, column = entry[0] + 1, entry[1] + 1
    return subscript(10 * row + column) if max(row, column) < 10 else f"[{row}, {column}]"
