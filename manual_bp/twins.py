"""`convert` and `to_torch`: hand-derived layers into anybody's model, and out of it again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from torch import nn

from manual_bp.linear import Linear
from manual_bp.mlp import MLP
from manual_bp.mse import MSELoss
from manual_bp.sigmoid import Sigmoid

M = TypeVar("M", bound=nn.Module)
_TWINS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: Linear,
    nn.Sigmoid: Sigmoid,
    nn.MSELoss: MSELoss,
}
_BACK = {ours: theirs for theirs, ours in _TWINS.items()} | {MLP: nn.Sequential}
# Modules that compute with a Linear's weights without calling it, and how. By name, because the
# packages need not be there. `python -m tests.correctness.third_party` finds them.
_ATTENTION = "torch's attention function computes its projections from the bare weights"
_WINDOWS = "torchvision's function computes its projections from the bare weights"
_QKV = "its forward may compute qkv from the bare weight"
_MAMBA = "its forward computes dt_proj from the bare weight"
_PAST_THE_LAYER = {
    "torch.nn.modules.activation.MultiheadAttention": _ATTENTION,
    "transformers.models.wavlm.modeling_wavlm.WavLMAttention": _ATTENTION,
    "torchvision.models.swin_transformer.ShiftedWindowAttention": _WINDOWS,
    "torchvision.models.video.swin_transformer.ShiftedWindowAttention3d": _WINDOWS,
    "timm.models.beit.Attention": _QKV,
    "timm.models.eva.EvaAttention": _QKV,
    "timm.models.swin_transformer_v2.WindowAttention": _QKV,
    "transformers.models.mamba.modeling_mamba.MambaMixer": _MAMBA,
}


@dataclass(frozen=True)
class Conversion:
    """What of a model runs a hand-derived backward pass, and what does not.

    Attributes:
        converted: how many modules are ours, subclasses too: {"Linear": 3, "Sigmoid": 2}.
        left: each module that looks convertible but is not, by its name in the model, and why.
    """

    converted: dict[str, int]
    left: dict[str, str]

    def __str__(self) -> str:
        counts = ", ".join(f"{n} {kind}" for kind, n in self.converted.items()) or "nothing"
        lines = [f"hand-derived: {counts}"]
        return "\n".join(lines + [f"left alone: {name}: {why}" for name, why in self.left.items()])


def convert(model: M, *, verbose: bool = False) -> M:
    """Make every `nn.Linear`, `nn.Sigmoid` and `nn.MSELoss` run its hand-derived backward pass.

    The modules are changed in place: the same objects with the same parameters, buffers, hooks,
    mode and names, so optimizers and shared layers keep working. Exact types only: subclasses (also
    parametrized modules, which are subclasses) stay as they are, and so do complex layers. A second
    call changes nothing.

    Args:
        model: any module; a bare `nn.Linear` is converted too.
        verbose: print `conversion(model)`: what is converted, and what was left alone and why.

    Returns:
        The model itself.

    Raises:
        TypeError: `model` is not a module.

        >>> convert(nn.Sequential(nn.Linear(64, 30), nn.ReLU()), verbose=True)[0]
        hand-derived: 1 Linear
        Linear(in_features=64, out_features=30, bias=True)
    """
    _check("convert", model)
    for module in model.modules():
        if type(module) in _TWINS and _why_not(module) is None:
            module.__class__ = _TWINS[type(module)]
    if verbose:
        print(conversion(model))
    return model


def conversion(model: nn.Module) -> Conversion:
    """What in `model` runs a hand-derived backward pass, and what `convert` leaves alone and why.

    Raises:
        TypeError: `model` is not a module.

        >>> conversion(nn.Linear(64, 30)).converted, conversion(Linear(64, 30)).converted
        ({}, {'Linear': 1})
    """
    _check("conversion", model)
    ours = [kind for m in model.modules() for kind in _TWINS.values() if isinstance(m, kind)]
    reasons = {name or "the model": _why_not(module) for name, module in model.named_modules()}
    left = {name: why for name, why in reasons.items() if why is not None}
    return Conversion(dict(Counter(kind.__name__ for kind in ours)), left)


def to_torch(model: M) -> M:
    """The inverse of `convert`: every layer of ours becomes its `torch.nn` twin.

    In place, with the same objects and parameters; exact types only. An `MLP` becomes an
    `nn.Sequential`. Then tools that look at exact types work: `torch.ao.quantization`, TorchScript.

    Returns:
        The model itself.

    Raises:
        TypeError: `model` is not a module.
        ValueError: an MSELoss whose reduction `torch.nn.MSELoss` does not have; nothing is changed.

        >>> type(to_torch(Linear(64, 30)))
        <class 'torch.nn.modules.linear.Linear'>
    """
    _check("to_torch", model)
    for name, module in model.named_modules():
        if type(module) is MSELoss and module.reduction.startswith("half"):
            raise ValueError(
                f"to_torch: {name or 'the model'} is an MSELoss of reduction "
                f"{module.reduction!r}, which torch.nn.MSELoss does not have: take the cost out of "
                f"the model, or use mean, sum or none"
            )
    for module in model.modules():
        if type(module) in _BACK:
            module.__class__ = _BACK[type(module)]
    return model


@contextmanager
def converted(model: M) -> Iterator[M]:
    """`convert(model)` for the length of a `with` block; after it each module is what it was.

    >>> with converted(nn.Linear(64, 30)) as layer:
    ...     type(layer)
    <class 'manual_bp.linear.Linear'>
    """
    _check("converted", model)
    before = [(module, type(module)) for module in model.modules()]
    try:
        yield convert(model)
    finally:
        for module, kind in before:
            if type(module) is _TWINS.get(kind):
                module.__class__ = kind


def _why_not(module: nn.Module) -> str | None:
    """Why `convert` leaves a module alone that looks convertible; None for every other."""
    kind = type(module)
    if kind in _TWINS:
        if any(parameter.is_complex() for parameter in module.parameters(recurse=False)):
            return f"a complex {kind.__name__}: the formulas are for real numbers"
        return None
    for base in kind.__mro__:
        past = _PAST_THE_LAYER.get(f"{base.__module__}.{base.__name__}")
        if past is not None:
            return f"{kind.__name__}: {past}"
    if isinstance(module, nn.LazyLinear):
        return "LazyLinear: has no weights yet; run the model once, then convert"
    twin = next((theirs for theirs in _TWINS if isinstance(module, theirs)), None)
    if twin is None or isinstance(module, tuple(_BACK)):
        return None
    return f"{kind.__name__}: a subclass of nn.{twin.__name__}, which may compute something else"


def _check(operation: str, model: object) -> None:
    if not isinstance(model, nn.Module):
        seen = type(model).__name__
        raise TypeError(f"{operation}: a torch.nn.Module is needed, not {seen}")
