"""TensorBoard's curves: what each is called and means, and the charts of Custom Scalars."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from typing import Any

from manual_bp.backprop import Layer

# Custom Scalars, without the smoothing that makes a constant curve look as if it fell.
ADDRESS = "http://localhost:6006/#custom_scalars&_smoothingWeight=0"
_MARKS = 5  # the marks that TensorBoard has: a chart's sixth line gets the first one again
PERFECT = {"perfect/accuracy": 1.0, "perfect/cost": 0.0}  # constant curves, an axis' other end
_LOGARITHM = "_log10/"  # grad_norm/total and grad_norm_log10/total
# Tag, the curve's name with {} for the layer's, and what it is.
_MEANING = {
    "accuracy/*": ("", "the share of the examples whose largest output is the label's"),
    "cost/*": ("", "the mean of the examples' costs"),
    "lr": ("learning rate η", "at the epoch's first step"),
    "grad_norm/total": ("‖∂C‖, all parameters as one vector", "mean over the epoch's steps"),
    "grad_norm/*.weight": ("‖∂C/∂W‖, {}", "mean over the epoch's steps"),
    "grad_norm/*.bias": ("‖∂C/∂b‖, {}", "mean over the epoch's steps"),
    "delta_norm/*": ("‖δ‖ = ‖∂C/∂z‖, {}", "mean over the epoch's steps"),
    "slope/*": ("mean σ′(z), {}", "σ′(z) = a(1 − a) is at most ¼"),
    "passed/*": ("‖δ‖ / ‖∂C/∂a‖, {}", "the share of the error that the slope passes, at most ¼"),
    "saturated/*": ("saturated, {}", "the share of σ′(z) < 0.01: hardly any error gets in"),
    "dead/*": ("dead units, {}", "the share whose output is the same for every image, ± 0.01"),
    "stuck/*": ("stuck units, {}", "the share that hardly varies and whose slope is next to 0"),
    "update_ratio/*.weight": ("change of W, {}", "‖W_after − W_before‖ / ‖W_before‖ of an epoch"),
    "update_ratio/*.bias": ("change of b, {}", "‖b_after − b_before‖ / ‖b_before‖ of an epoch"),
    "check/max_rel_error": ("∂C/∂W and ∂C/∂b by hand against autograd's", "on one batch"),
    "time/train_seconds": ("seconds of the epoch's steps", ""),
    "time/epoch_seconds": ("seconds of the whole epoch", ""),
    "perfect/*": ("", "the end of an axis in Custom Scalars"),
    "non_finite/*": ("NaN or infinite: {}", "how many entries a histogram leaves out"),
}


def explained(tag: str, layers: Sequence[Layer]) -> tuple[str, str]:
    """A curve's name on the pages, and what it is. A tag that explains itself is its own name."""
    plain = tag.replace(_LOGARITHM, "/")
    for pattern, (name, meaning) in _MEANING.items():
        if fnmatch(plain, pattern):
            layer = next((str(each) for each in layers if f"/{each.tag}" in plain), "")
            name = name.format(layer or plain.partition("/")[2]) or tag
            return (name, meaning) if plain == tag else (f"log₁₀ {name}", f"log₁₀ of the {meaning}")
    return tag, ""


def curves(row: Mapping[str, Any]) -> dict[str, float]:
    """A row's measures by tag, and log₁₀ of each norm that has one."""
    found = {tag: value for tag, value in row.items() if tag != "epoch"}
    norms = [tag for tag in found if "_norm/" in tag and 0 < found[tag] < math.inf]
    return found | {tag.replace("/", _LOGARITHM): math.log10(found[tag]) for tag in norms}


def layout(layers: int) -> dict[str, dict[str, list[Any]]]:
    """The page Custom Scalars: category, chart, and the tags of its lines as regular expressions.

    TensorBoard merges the charts of all runs. A shallow network's are among a deep one's.
    """

    def to_perfect(kind: str) -> dict[str, list[Any]]:
        """A line a run. The invisible edges of its band keep the axis from fitting a flat curve."""
        edge = f"perfect/{kind}"
        return {
            f"{kind} of the {part} images; the axis reaches {PERFECT[edge]:.0f}": [
                "Margin",
                [f"{kind}/{part.replace('training', 'train')}", edge, edge],
            ]
            for part in ("training", "validation")  # TensorBoard draws the last one first
        }

    def by_layer(what: str, tag: str) -> dict[str, list[Any]]:
        groups = [range(n, n + _MARKS) for n in range(1, layers + 1, _MARKS)]
        return {
            f"{what}, layers {group[0]} to {group[-1]}": [
                "Multiline",
                [tag.format("|".join(f"{n:02d}" for n in group))],
            ]
            for group in groups
        }

    return {
        "accuracy": to_perfect("accuracy"),
        "cost": to_perfect("cost"),
        "log₁₀ ‖δ‖: where the gradient vanishes, the layers lie in steps": by_layer(
            "log₁₀ ‖δ‖", "delta_norm_log10/layer({})$"
        ),
        "log₁₀ of the gradients' norms": by_layer(
            "log₁₀ ‖∂C/∂W‖", r"grad_norm_log10/layer({})\.weight$"
        )
        | by_layer("log₁₀ ‖∂C/∂b‖", r"grad_norm_log10/layer({})\.bias$"),
        "slope × error": by_layer("slope: mean σ′(z), at most ¼", "slope/layer({})$")
        | by_layer("passed: ‖δ‖ / ‖∂C/∂a‖, at most ¼", "passed/layer({})$")
        | by_layer("saturated: share of σ′(z) < 0.01", "saturated/layer({})$"),
        "descent": {"learning rate η": ["Multiline", ["lr$"]]},
    }
