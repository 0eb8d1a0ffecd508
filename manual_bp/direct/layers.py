"""Read a model as the sequence of Linear and Sigmoid modules that the documents' algorithm runs
over.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from manual_bp.modules import MLP, Linear, Sigmoid

_LINEAR = (Linear, nn.Linear)
_SIGMOID = (Sigmoid, nn.Sigmoid)


@dataclass(frozen=True)
class Layer:
    """a = σ(z) or a = z, with z = a_prev Wᵀ + b; `weight` W (n_out, n_in), `bias` b (n_out,) or
    None.
    """

    name: str  # of the Linear in the model, "0" or "body.0"
    weight: Tensor
    bias: Tensor | None
    sigmoid: bool


def sequence(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The Linear and Sigmoid modules of `model` in the order they run, nested `nn.Sequential`s
    opened, with names.

    Raises:
        TypeError: a module that is neither; only exact types count, because a subclass may compute
            something else.
        RuntimeError: a module or parameter with hooks, or a module whose `forward` was replaced:
            neither would be run.
    """
    modules = list(_flatten("", model))
    if not any(type(module) in _LINEAR for _, module in modules):
        raise TypeError("direct: the model has no Linear layer")
    return modules


def layers(model: nn.Module) -> list[Layer]:
    """`sequence` as Linear layers, each with the Sigmoid after it.

    Raises:
        TypeError: as `sequence`; or a Sigmoid that does not follow a Linear.
        RuntimeError: as `sequence`; a parameter used twice, or shapes that do not fit.
    """
    found: list[Layer] = []
    previous: nn.Module | None = None
    for name, module in sequence(model):
        if isinstance(module, nn.Linear):
            found.append(Layer(name, module.weight, module.bias, sigmoid=False))
        elif isinstance(previous, nn.Linear):
            found[-1] = Layer(found[-1].name, found[-1].weight, found[-1].bias, sigmoid=True)
        else:
            raise TypeError(
                f"direct: Sigmoid {name!r} does not follow a Linear: use the autograd engine for "
                f"this model"
            )
        previous = module
    _check_shapes(found)
    parameters: list[Tensor] = [
        p for layer in found for p in (layer.weight, layer.bias) if p is not None
    ]
    # By memory: `a.weight.data = b.weight.data` shares it as well as `a.weight = b.weight`.
    if len({(p.untyped_storage()._cdata, p.storage_offset()) for p in parameters}) < len(
        parameters
    ):
        raise RuntimeError(
            "direct: a parameter is shared by two layers: use the autograd engine for this model"
        )
    return found


def _check_shapes(found: list[Layer]) -> None:
    """The native loop trusts them where torch would notice: a mistake hits other memory."""
    before: int | None = None
    for layer in found:
        weight, bias = (
            tuple(layer.weight.shape),
            None if layer.bias is None else tuple(layer.bias.shape),
        )
        if len(weight) != 2 or 0 in weight:
            raise RuntimeError(
                f"direct: weight {weight} of layer {layer.name!r}: (n_out, n_in), none of them 0, "
                f"is expected"
            )
        if before not in (None, weight[1]):
            raise RuntimeError(
                f"direct: weight {weight} of layer {layer.name!r}: ({weight[0]}, {before}) is "
                f"expected, as the layer "
                f"before it has {before} outputs"
            )
        if bias not in (None, weight[:1]):
            raise RuntimeError(
                f"direct: bias {bias} of layer {layer.name!r}: {weight[:1]} is expected"
            )
        before = weight[0]


def is_linear(module: nn.Module) -> bool:
    return type(module) in _LINEAR


def _flatten(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
        if getattr(module, kind):
            raise RuntimeError(
                f"direct: module {name or 'model'!r} has hooks, which would not run: "
                f"remove them, or use the autograd engine"
            )
    if "forward" in module.__dict__:
        raise RuntimeError(
            f"direct: module {name or 'model'!r} has a forward of its own, which would not run: "
            f"remove it, or use the autograd engine"
        )
    for parameter_name, parameter in module._parameters.items():
        if parameter is not None and (
            parameter._backward_hooks or parameter._post_accumulate_grad_hooks
        ):
            raise RuntimeError(
                f"direct: parameter {f'{name}.{parameter_name}'.lstrip('.')!r} has hooks, which "
                f"would not run: "
                f"remove them, or use the autograd engine"
            )
    if type(module) in _LINEAR + _SIGMOID:
        yield name, module
    elif isinstance(module, nn.Sequential) and type(module).forward in (
        nn.Sequential.forward,
        MLP.forward,
    ):
        for (
            child_name,
            child,
        ) in module._modules.items():  # named_children() would give a shared module once
            assert child is not None
            yield from _flatten(f"{name}.{child_name}" if name else child_name, child)
    else:
        raise TypeError(
            f"direct: module {name or 'model'!r} is a {type(module).__name__}: only Linear and "
            f"Sigmoid layers "
            f"in an nn.Sequential have a direct pass"
        )
