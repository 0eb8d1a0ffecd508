"""Numbers as a pencil writes them, for `trace` and `worked_examples`.

Exact, where λ = ln 3 and fractions are all there is:      273λ/4000 · 3/16 = 819λ/64000 ≈ 0.01406
Else rounded to four digits where a number is written:     0.75 · 0.0625 ≈ 0.04688
The next line goes on from the number as written: from 819λ/64000, and from 0.04688.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Context, Decimal
from fractions import Fraction
from itertools import zip_longest
from typing import Any, Protocol, cast

from manual_bp.notation import minus, superscript

DIGITS = 4
# Of the pencil's arithmetic: 60 digits hold every sum of products of four-digit numbers.
ARITHMETIC = Context(prec=60, rounding=ROUND_HALF_UP, traps=[])
_WRITTEN = Context(prec=DIGITS, rounding=ROUND_HALF_UP, traps=[])
_LAMBDA = Decimal(3).ln(ARITHMETIC)


class Number(Protocol):
    """A Decimal, or an `Exact`."""

    def __add__(self, other: Any, /) -> Any: ...
    def __sub__(self, other: Any, /) -> Any: ...
    def __mul__(self, other: Any, /) -> Any: ...


@dataclass(frozen=True)
class Exact:
    """Σ cᵢ λⁱ, with fractions cᵢ."""

    c: tuple[Fraction, ...]

    def __add__(self, other: Exact) -> Exact:
        return Exact(tuple(a + b for a, b in zip_longest(self.c, other.c, fillvalue=Fraction())))

    def __sub__(self, other: Exact) -> Exact:
        return self + other * Exact((Fraction(-1),))

    def __mul__(self, other: Exact) -> Exact:
        c = [Fraction()] * (len(self.c) + len(other.c) - 1)
        for i, a in enumerate(self.c):
            for j, b in enumerate(other.c):
                c[i + j] += a * b
        return Exact(tuple(c))

    def __float__(self) -> float:
        return float(decimal(self))

    def __str__(self) -> str:
        told = ""
        for power, c in reversed(list(enumerate(self.c))):
            if c:
                letter = ("", "λ")[power] if power < 2 else f"λ{superscript(power)}"
                many = str(abs(c.numerator)) if abs(c.numerator) != 1 or not letter else ""
                over = f"/{c.denominator}" if c.denominator > 1 else ""
                sign = " − " if c < 0 else " + "
                told += (sign if told else sign.strip(" +")) + many + letter + over
        return told or "0"


def exact(value: float) -> Exact:
    """A number as it is meant: 2.1972… as 2λ, 0.5 as 1/2.

    Raises:
        ValueError: neither a fraction nor a fraction of λ, with a denominator of at most 100.
    """
    if math.isfinite(value):
        for unit, below in ((1.0, ()), (float(_LAMBDA), (Fraction(),))):
            multiple = Fraction(value / unit).limit_denominator(100)
            if abs(float(multiple) * unit - value) <= 1e-12:
                return Exact((*below, multiple))
    raise ValueError(f"{value} is neither a fraction nor a fraction of λ")


def rounded(value: float | Decimal) -> Decimal:
    """To four digits, halves up."""
    return _WRITTEN.plus(value if isinstance(value, Decimal) else Decimal(repr(value)))


def decimal(number: Number) -> Decimal:
    """An exact number to 60 digits; a rounded one is a Decimal already."""
    if not isinstance(number, Exact):
        return cast(Decimal, number)
    terms = (
        ARITHMETIC.divide(c.numerator * ARITHMETIC.power(_LAMBDA, i), c.denominator)
        for i, c in enumerate(number.c)
    )
    return sum(terms, Decimal())


def scaled(number: Number, by: Fraction) -> Any:
    """The number times a fraction, unrounded."""
    if isinstance(number, Exact):
        return number * Exact((by,))
    return ARITHMETIC.divide(number * by.numerator, by.denominator)


def text(number: Number) -> str:
    """3/4, −λ, 0.75, 7.677e−5: with the minus sign of the formulas."""
    if isinstance(number, Exact):
        return str(number)
    value = decimal(number).normalize()
    if not value:
        return "0"
    plain = -5 < value.adjusted() < 6
    return minus(f"{value:f}" if plain else f"{value:e}".replace("e+", "e")).lower()


def factor(number: Number) -> str:
    """A number inside a product: in parentheses if it is negative, or a sum."""
    told = text(number)
    return f"({told})" if told.startswith("−") or " " in told else told


def written(number: Number) -> tuple[str, Number]:
    """ "= 3/4" or "≈ 0.04688", and the number that the next line goes on from."""
    if isinstance(number, Exact):
        return f"= {number}{in_decimals([number])}", number
    value = rounded(decimal(number))
    return f"{'=' if value == number else '≈'} {text(value)}", value


def in_decimals(numbers: Sequence[Number]) -> str:
    """ " ≈ 0.01406" after exact numbers that are long to read; nothing after others."""
    if not any(isinstance(number, Exact) and len(str(number)) > 6 for number in numbers):
        return ""
    every = [decimal(number) for number in numbers]
    short = [rounded(value) for value in every]
    return f" {'=' if short == every else '≈'} {listed(short)}"


def listed(numbers: Sequence[Number]) -> str:
    """(0.75, 0.25); a number alone stands without parentheses."""
    told = ", ".join(map(text, numbers))
    return told if len(numbers) == 1 else f"({told})"


def sigma(z: Number) -> tuple[str, Number]:
    """σ(z) as `written` tells a number, but near 1 with more digits: 1 − a has four of them too.

    σ(kλ) = 3ᵏ/(1 + 3ᵏ) is a fraction.

    Raises:
        ValueError: an exact z that is no kλ.
    """
    if isinstance(z, Exact):
        k = z.c[1] if len(z.c) > 1 else Fraction()
        if k.denominator > 1 or any(c for power, c in enumerate(z.c) if power != 1):
            raise ValueError(f"σ({z}) is no fraction")
        power = Fraction(3) ** int(k)
        return written(Exact((power / (1 + power),)))
    a = 1 / (1 + ARITHMETIC.exp(-decimal(z)))
    value = 1 - rounded(1 - a) if a > Decimal("0.5") else rounded(a)
    return f"{'=' if value == a else '≈'} {text(value)}", value


def norm(numbers: Iterable[Number]) -> Decimal:
    """√Σ v², to four digits."""
    squares = (value * value for value in map(decimal, numbers))
    return rounded(sum(squares, Decimal()).sqrt(ARITHMETIC))
