"""What a wrong constant factor usually is: a batch size, a number of outputs, ½, a constant."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from manual_bp.verify.case import Case

SIMPLE = {
    2.0: "the derivative of a square has a factor 2; here it is there once too often, "
    "or a ½ of the forward is missing",
    0.5: "the factor 2 of the derivative of a square is missing, or a ½ is applied once too often",
    3.0: "an exponent applied once too often",
    1 / 3: "a factor 3, such as an exponent, is missing",
    4.0: "a factor 2 applied twice too often",
    0.25: "a factor 4 is missing",
}
READINGS = {
    "{}": "the forward divides by {0}, as a mean does, and the backward does not",
    "1/{}": "the backward divides by {0} where the forward does not: "
    "a mean where a sum belongs, or twice the division",
    "√{}": "the forward divides by √{0}, and the backward does not",
    "1/√{}": "the backward divides by √{0} where the forward does not, "
    "or the forward multiplies by it",
    "2·{}": "a factor 2 too much, and a division by {0} that is missing",
    "2/{}": "a factor 2 too much, and a division by {0} too much",
    "{}/2": "a factor 2 and a division by {0} are missing",
    "1/(2·{})": "a factor 2 is missing, and a division by {0} too much",
    "{}²": "a division by {0} is missing twice",
    "1/{}²": "a division by {0} too much, twice",
    "√({}/({}−1))": "{0} where {0} − 1 is meant, or the reverse, under a root: Bessel's correction",
    "√(({}−1)/{})": "{0} − 1 where {0} is meant, or the reverse, under a root: Bessel's correction",
    "{}/({}−1)": "{0} − 1 where {0} is meant: Bessel's correction of a variance",
    "({}−1)/{}": "{0} where {0} − 1 is meant: Bessel's correction of a variance",
}
CONSTANTS = {
    "{}": "the backward multiplies by {0} where the forward does not, or once too often",
    "1/{}": "the backward leaves out the factor {0}",
    "{}²": "the backward multiplies by {0}² too much",
    "1/{}²": "the backward leaves out the factor {0}²",
    "1/(1−{})": "the backward divides by 1 − {0} where the forward does not",
    "1−{}": "the backward leaves out the division by 1 − {0}, or multiplies by it too often",
    "{}/(1−{})": "the backward multiplies by {0}/(1 − {0}) too much",
}


def explain(factor: float, case: Case) -> tuple[str, bool]:
    """The likeliest meaning of the factor, and whether one was found.

    A meaning is a plain number such as 2 or ½, or one made of the case's sizes and constants.
    """
    size = abs(factor)
    minus = " and the sign is flipped" if factor < 0 else ""
    found = [
        f"{form.replace('{}', symbol)}: {table[form].format(symbol)}, where {meaning}"
        for symbol, meaning, value, table in _quantities(case)
        for form, number in _forms(value).items()
        if form in table and math.isclose(number, size, rel_tol=1e-4)
    ]
    simple = next(
        (text for value, text in SIMPLE.items() if math.isclose(value, size, rel_tol=1e-4)), None
    )
    texts = ([simple] if simple else []) + found
    if math.isclose(factor, -1, rel_tol=1e-4):
        return "the sign is flipped", True
    if not texts:
        return f"a constant that does not come from the shapes{minus}", False
    return f"{'; or '.join(texts[:3])}{minus}", True


def _forms(value: float) -> dict[str, float]:
    forms = {
        "{}": value,
        "{}²": value**2,
        "2·{}": 2 * value,
        "{}/2": value / 2,
        "1−{}": abs(1 - value),
    }
    if value > 0:
        forms |= {"√{}": math.sqrt(value), "1/√{}": 1 / math.sqrt(value)}
    if value > 1 and value == round(value):
        bessel = value / (value - 1)
        forms |= {"{}/({}−1)": bessel, "({}−1)/{}": 1 / bessel}
        forms |= {"√({}/({}−1))": math.sqrt(bessel), "√(({}−1)/{})": 1 / math.sqrt(bessel)}
    if value:
        forms |= {
            "1/{}": 1 / value,
            "1/{}²": value**-2,
            "2/{}": 2 / value,
            "1/(2·{})": 1 / (2 * value),
        }
    if value != 1:
        forms |= {"1/(1−{})": abs(1 / (1 - value)), "{}/(1−{})": abs(value / (1 - value))}
    return forms


Quantity = tuple[str, str, float, dict[str, str]]


def _quantities(case: Case) -> Iterator[Quantity]:
    """Sizes and constants of the case, each value once: symbol, meaning, value, readings."""
    seen: set[float] = set()

    def once(symbol: str, meaning: str, value: float, table: dict[str, str]) -> Iterator[Quantity]:
        if abs(value) not in seen and value not in (0, 1, -1):
            seen.add(abs(value))
            yield symbol, meaning, abs(value), table

    names = case.subject.names
    arrays = [(name, a) for name, a in zip(names, case.args, strict=False) if isinstance(a, Tensor)]
    for name, a in zip(names, case.args, strict=False):
        if isinstance(a, int | float) and not isinstance(a, bool):
            yield from once(name, f"{name} is {a:g}", float(a), CONSTANTS)
        if isinstance(a, Tensor) and a.numel() == 1 and not a.is_complex():
            yield from once(name, f"{name} is {float(a):g}", float(a), CONSTANTS)
    for name, a in arrays:
        if a.dtype == torch.bool:
            count = int(a.sum())
            yield from once(str(count), f"{count} elements of {name} are True", count, READINGS)
        elif not a.is_floating_point() and not a.is_complex() and a.layout == torch.strided:
            valid = int((a >= 0).sum())
            if valid != a.numel():
                meaning = f"{valid} targets of {name} are not negative: the valid ones"
                yield from once(str(valid), meaning, valid, READINGS)
    if arrays and arrays[0][1].dim():
        name, size = arrays[0][0], arrays[0][1].shape[0]
        yield from once(
            "m", f"m = {size} is the first dimension of {name}, usually the batch", size, READINGS
        )
    for shape in case.shapes[:1]:
        if len(shape):
            yield from once(
                "n_out",
                f"n_out = {shape[-1]} is the last dimension of the output",
                shape[-1],
                READINGS,
            )
    for name, a in arrays:
        for d, size in enumerate(a.shape):
            yield from once(str(size), f"{size} is dimension {d} of {name}", size, READINGS)
        count = a.numel()
        yield from once(str(count), f"{count} is the number of elements of {name}", count, READINGS)
        if a.dim() > 2:
            pixels = math.prod(a.shape[2:])
            yield from once(
                str(pixels),
                f"{pixels} is the product of {name}'s dimensions from 2 on",
                pixels,
                READINGS,
            )
            rows = math.prod(a.shape[:-1])
            yield from once(str(rows), f"{rows} is the number of rows of {name}", rows, READINGS)
