"""The three documents' symbols for the same quantities."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from manual_bp.worked_examples.paths import SUBSCRIPT, SUPERSCRIPT

# 2 s of ∂C/∂a = 2 s (a − y) for one example, as each cost is written
_ERROR_FACTOR = {
    "half_per_example": "",
    "half_per_element": "1/{n} ",
    "mean": "2/{n} ",
    "sum": "2 ",
}
_COST_FACTOR = {
    "half_per_example": "½ ",
    "half_per_element": "1/{n} · ½ ",
    "mean": "1/{n} ",
    "sum": "",
}

Units = Sequence[Sequence[str]]


class Notation(ABC):
    """Names and formulas. Layers are numbered 1, 2, … after the input, which is 0; units from 0.

    Args:
        sizes: the width of each layer, the input's first.
        units: document 2's name for each unit, layer by layer; made up where there is none.
    """

    document: int
    title: str
    cost: str  # J, E or C
    weights: str  # the letter of a weight matrix
    note = ""  # what a reader must know about the formulas

    def __init__(self, sizes: Sequence[int], units: Units | None = None) -> None:
        self.sizes = sizes
        self.units = units

    @property
    def last(self) -> int:
        return len(self.sizes) - 1

    @abstractmethod
    def layer(self, layer: int) -> str:
        """What the document calls the layer."""

    @abstractmethod
    def symbol(self, letter: str, layer: int, unit: int | None = None) -> str:
        """A vector of the layer ("x", "z", "a", "δ", "b", "y"), or its entry for one unit."""

    @abstractmethod
    def weight(self, layer: int, entry: tuple[int, int] | None = None) -> str:
        """The weight matrix that leads into the layer, or its entry (to unit, from unit)."""

    @abstractmethod
    def formulas(self, layer: int, *, bias: bool, sigmoid: bool) -> dict[str, str]:
        """The formulas of one layer: z, a, error, slope, delta, dW, db, W, b."""

    def vector(self, letter: str, layer: int) -> str:
        """What stands before the numbers of a whole layer."""
        return self.symbol(letter, layer)

    @abstractmethod
    def slope(self, layer: int, unit: int | None = None) -> str:
        """The derivative of the layer's activation function."""

    def derivative(self, of: str) -> str:
        """∂J/∂… of a symbol."""
        return f"∂{self.cost}/∂{of}"

    def gradient(self, layer: int, entry: tuple[int, int] | None = None) -> str:
        """The gradient of the weight matrix that leads into the layer, or one entry."""
        return self.derivative(self.weight(layer, entry))

    def vector_shape(self, n: int) -> str:
        """How the document lays a vector out."""
        return f"(1, {n})"

    def cost_formula(self, cost: str) -> str:
        """The cost of one example."""
        a, y = self.symbol("a", self.last), self.symbol("y", self.last)
        return f"{self.cost} = {_COST_FACTOR[cost].format(n=self.sizes[-1])}Σ ({a} − {y})²"

    def output_error(self, cost: str) -> str:
        """∂C/∂a at the output."""
        a, y = self.symbol("a", self.last), self.symbol("y", self.last)
        return f"{self.derivative(a)} = {_ERROR_FACTOR[cost].format(n=self.sizes[-1])}({a} − {y})"


class Document1(Notation):
    """θ, z, a, δ with the layer in a superscript; the input is layer 1, Θ⁽ˡ⁾ leads out of layer l;
    rows.
    """

    document = 1
    title = "document 1: θ, z, a, δ"
    cost = "J"
    weights = "Θ"

    def slope(self, layer: int, unit: int | None = None) -> str:
        return f"f′({self.symbol('z', layer, unit)})"

    def layer(self, layer: int) -> str:
        return f"layer {layer + 1}"

    def symbol(self, letter: str, layer: int, unit: int | None = None) -> str:
        index = "" if unit is None or self.sizes[layer] == 1 else str(unit + 1).translate(SUBSCRIPT)
        if letter in ("x", "y"):
            return f"{letter}{index}"
        return (
            f"{letter}{index}⁽{str(layer if letter == 'b' else layer + 1).translate(SUPERSCRIPT)}⁾"
        )

    def weight(self, layer: int, entry: tuple[int, int] | None = None) -> str:
        mark = f"⁽{str(layer).translate(SUPERSCRIPT)}⁾"
        return f"Θ{mark}" if entry is None else f"θ{_entry(entry)}{mark}"

    def formulas(self, layer: int, *, bias: bool, sigmoid: bool) -> dict[str, str]:
        z, a, b, delta = (self.symbol(letter, layer) for letter in ("z", "a", "b", "δ"))
        W, before = self.weight(layer), self.symbol("a", layer - 1)
        after = (
            f"{self.symbol('δ', layer + 1)} {self.weight(layer + 1)}" if layer < self.last else ""
        )
        slope = self.slope(layer)
        return {
            "z": f"{z} = {before} ({W})ᵀ{f' + {b}' if bias else ''}",
            "a": f"{a} = f({z}) = 1/(1 + e^(−{z}))" if sigmoid else f"{a} = {z}",
            "error": f"{self.derivative(a)} = {after}",
            "slope": f"{slope} = {a} ⊙ (1 − {a})" if sigmoid else f"{slope} = 1",
            "delta": f"{delta} = {self.derivative(a)} ⊙ {slope}",
            "dW": f"{self.gradient(layer)} = ({delta})ᵀ {before}",
            "db": f"{self.derivative(b)} = {delta}",
            "W": f"{W} := {W} − η {self.gradient(layer)}",
            "b": f"{b} := {b} − η {self.derivative(b)}",
        }


class Document2(Notation):
    """s enters unit j, z leaves it, w_{i→j} joins two units, E is the error; everything unit by
    unit.
    """

    document = 2
    title = "document 2: s, z, w_{i→j}, δ"
    cost = "E"
    weights = "w"
    note = (
        "In the formulas i → j → k are any three units in a row; "
        "the lines below each name the units themselves."
    )

    def vector(self, letter: str, layer: int) -> str:
        return self.symbol(letter, layer).removesuffix("_i").removesuffix("_j")

    def slope(self, layer: int, unit: int | None = None) -> str:
        name = "j" if unit is None else self._name(layer, unit)
        return f"f_{name}′(s_{name})"

    def layer(self, layer: int) -> str:
        n = self.sizes[layer]
        names = [self._name(layer, unit) for unit in range(min(n, 4))]
        return f"unit{'s' if n > 1 else ''} {', '.join(names)}{', …' if n > 4 else ''}"

    def symbol(self, letter: str, layer: int, unit: int | None = None) -> str:
        letter = {"z": "s", "a": "x" if layer == 0 else "z"}.get(letter, letter)
        if unit is None and layer == self.last and letter in ("z", "y"):
            return "ŷ" if letter == "z" else "y"
        if unit is None:
            return f"{letter}_i" if layer == 0 else f"{letter}_j"
        if layer == self.last and letter in ("z", "y"):
            index = "" if self.sizes[layer] == 1 else f"_{self._name(layer, unit)}"
            return f"{'ŷ' if letter == 'z' else 'y'}{index}"
        return f"{letter}_{self._name(layer, unit)}"

    def weight(self, layer: int, entry: tuple[int, int] | None = None) -> str:
        if entry is None:
            return "w_{i→j}"
        to, from_ = entry
        return f"w_{{{self._name(layer - 1, from_)}→{self._name(layer, to)}}}"

    def vector_shape(self, n: int) -> str:
        return f"{n} unit{'s' if n > 1 else ''}"

    def formulas(self, layer: int, *, bias: bool, sigmoid: bool) -> dict[str, str]:
        before = "x_i" if layer == 1 else "z_i"
        a = self.symbol("a", layer)
        error, slope = f"∂E/∂{a}", self.slope(layer)
        return {
            "z": f"s_j = Σ_{{i ∈ ins(j)}} w_{{i→j}} {before}{' + b_j' if bias else ''}",
            "a": f"{a} = σ(s_j) = 1/(1 + e^(−s_j))" if sigmoid else f"{a} = s_j",
            "error": f"{error} = Σ_{{k ∈ outs(j)}} δ_k w_{{j→k}}",
            "slope": f"{slope} = σ(s_j) (1 − σ(s_j))" if sigmoid else f"{slope} = 1",
            "delta": f"δ_j = {slope} · {error}",
            "dW": f"∂E/∂w_{{i→j}} = δ_j {before}",
            "db": "∂E/∂b_j = δ_j",
            "W": f"w_{{i→j}} := w_{{i→j}} + Δw_{{i→j}},  Δw_{{i→j}} = −η δ_j {before}",
            "b": "b_j := b_j + Δb_j,  Δb_j = −η δ_j",
        }

    def _name(self, layer: int, unit: int) -> str:
        if self.units is not None:
            return self.units[layer][unit]
        if layer == self.last:
            letter = "o"
        else:
            letters = "ijklmnpqrstuv"
            letter = letters[layer] if layer < len(letters) else f"h{layer}"
        return letter if self.sizes[layer] == 1 else f"{letter}{str(unit + 1).translate(SUBSCRIPT)}"


class Document3(Notation):
    """w, z, a, δ with the layer in a superscript; Wˡ leads into layer l; column vectors."""

    document = 3
    title = "document 3: w, z, a, δ"
    cost = "C"
    weights = "W"

    def slope(self, layer: int, unit: int | None = None) -> str:
        return f"σ′({self.symbol('z', layer, unit)})"

    def layer(self, layer: int) -> str:
        return f"layer {layer}"

    def symbol(self, letter: str, layer: int, unit: int | None = None) -> str:
        index = "" if unit is None or self.sizes[layer] == 1 else str(unit + 1).translate(SUBSCRIPT)
        if letter in ("x", "y"):
            return f"{letter}{index}"
        return f"{letter}{index}{str(layer).translate(SUPERSCRIPT)}"

    def weight(self, layer: int, entry: tuple[int, int] | None = None) -> str:
        mark = str(layer).translate(SUPERSCRIPT)
        return f"W{mark}" if entry is None else f"w{_entry(entry)}{mark}"

    def gradient(self, layer: int, entry: tuple[int, int] | None = None) -> str:
        return (
            f"∇{self.weight(layer)}"
            if entry is None
            else self.derivative(self.weight(layer, entry))
        )

    def vector_shape(self, n: int) -> str:
        return f"({n} × 1)"

    def formulas(self, layer: int, *, bias: bool, sigmoid: bool) -> dict[str, str]:
        z, a, b, delta = (self.symbol(letter, layer) for letter in ("z", "a", "b", "δ"))
        W, before = self.weight(layer), self.symbol("a", layer - 1)
        after = (
            f"({self.weight(layer + 1)})ᵀ {self.symbol('δ', layer + 1)}"
            if layer < self.last
            else ""
        )
        slope = self.slope(layer)
        return {
            "z": f"{z} = {W} {before}{f' + {b}' if bias else ''}",
            "a": f"{a} = σ({z}) = 1/(1 + e^(−{z}))" if sigmoid else f"{a} = {z}",
            "error": f"{self.derivative(a)} = {after}",
            "slope": f"{slope} = {a} ⊙ (1 − {a})" if sigmoid else f"{slope} = 1",
            "delta": f"{delta} = {self.derivative(a)} ⊙ {slope}",
            "dW": f"{self.gradient(layer)} = {delta} ({before})ᵀ",
            "db": f"∇{b} = {delta}",
            "W": f"{W} := {W} − η {self.gradient(layer)}",
            "b": f"{b} := {b} − η ∇{b}",
        }


NOTATIONS: dict[int, type[Notation]] = {1: Document1, 2: Document2, 3: Document3}


def _entry(entry: tuple[int, int]) -> str:
    """₂₁ for row 2, column 1; [12, 345] where two digits would run together."""
    row, column = entry[0] + 1, entry[1] + 1
    return f"{row}{column}".translate(SUBSCRIPT) if max(row, column) < 10 else f"[{row}, {column}]"
