"""The Unicode formulas of a trace as TeX: δ₁⁽²⁾ is \\delta_{1}^{(2)}, and 3λ/4 a fraction."""

from __future__ import annotations

import re

from manual_bp.notation import SUBSCRIPTS, SUPERSCRIPTS

_SYMBOLS = {
    "σ": r"\sigma ", "δ": r"\delta ", "η": r"\eta ", "θ": r"\theta ", "Θ": r"\Theta ",
    "λ": r"\lambda ", "∂": r"\partial ", "Δ": r"\Delta ", "∇": r"\nabla ", "Σ": r"\sum ", "−": "-",
    "·": r"\cdot ", "⊙": r"\odot ", "→": r"\to ", "∈": r"\in ", "≈": r"\approx ", "×": r"\times ",
    "′": "'", "‖": r"\| ", "∣": r"\mid ", "…": r"\ldots ", "½": r"\frac{1}{2}",
    "¼": r"\frac{1}{4}", "ŷ": r"\hat{y}", "√": r"\surd ",
}  # fmt: skip
_SPECIAL = str.maketrans(
    {character: f"\\{character}" for character in "#$%&_{}"}
    | {"\\": r"\textbackslash{}", "^": r"\^{}", "~": r"\~{}"}
)
_RAISED, _LOWERED = map(str.maketrans, (SUPERSCRIPTS, SUBSCRIPTS))


def formula(line: str) -> str:
    """A formula, or a line of numbers, for TeX's math mode."""
    line = re.sub(r"[#$%&]", lambda m: f"\\{m[0]}", line)
    line = re.sub(r"[A-Za-z]{2,}(?: [A-Za-z]{2,})* ?", r"\\text{\g<0>}", line)
    line = re.sub(r"e\^\(([^()]*)\)", r"e^{\1}", line)  # e^(−z)
    line = re.sub(r"(\d)e(−?\d+)", r"\1 \\cdot 10^{\2}", line)  # 1.5e−5
    line = re.sub(r"(\d*λ[⁰-⁹²³]*|\d+)/(\d+)", r"\\frac{\1}{\2}", line)  # 3λ/4
    line = re.sub(r"∂([JEC])/∂((?:\[.*?\]|[^ )\[])+)", r"\\frac{∂\1}{∂\2}", line)  # ∂J/∂θ₁₁⁽¹⁾
    line = re.sub(r"_(\\text\{\w+\}|[A-Za-z]\d*)([₀-₉]*)", r"_{\1\2}", line)  # s_j₁
    line = re.sub(f"[{''.join(SUPERSCRIPTS)}]+", lambda m: f"^{{{m[0].translate(_RAISED)}}}", line)
    line = re.sub("[₀-₉]+", lambda m: f"_{{{m[0].translate(_LOWERED)}}}", line)
    for character, command in _SYMBOLS.items():
        line = line.replace(character, command)
    return line.replace(", ", r", \allowbreak ")  # a line may break after a comma


def prose(line: str) -> str:
    """Running text: each word with a symbol in it is math."""
    words = (
        word.translate(_SPECIAL) if word.isascii() else f"${formula(word)}$"
        for word in line.split(" ")
    )
    return " ".join(words)
