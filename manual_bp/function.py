"""What all operations share: how PyTorch may run them, what is kept, what is needed, what is said.

An operation is one class with `forward`, `setup_context`, `backward` and `jvp`. PyTorch has three
ways to run it, and each wants it a little different. `apply` picks the variant:

    torch.compile  the class itself, without `jvp`: fullgraph=True refuses a Function that has one
    torch.func     a subclass with `jvp`; forward and setup_context apart, as torch.func demands
    eager mode     a subclass with `jvp`; forward and setup_context joined, because PyTorch reads
                   the signature of a separate `forward` at each call, which takes 10 µs

`backward` consists of differentiable operations on saved inputs and outputs alone. Therefore the
second derivative is right by construction, and PyTorch can write the vmap rule.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.compiler import is_compiling
from torch.overrides import handle_torch_function, has_torch_function

from manual_bp.nested_forward import differentiable_again

# Without this private name every call takes the variant for torch.func, which is right but slower.
_transforms_active: Callable[[], bool] = getattr(
    torch._C, "_are_functorch_transforms_active", lambda: True
)


class HandDerivedFunction(torch.autograd.Function):
    """Base class of the operations. A subclass gives formulas; its two variants are made here.

    `apply` of a class itself is the variant for torch.compile, which has no forward mode: call the
    function of the operation, such as `manual_bp.functional.linear`, which picks.
    """

    generate_vmap_rule = True
    tangent_rule: ClassVar[Callable[..., Tensor]]  # the subclass's `jvp`
    transformed: ClassVar[type[HandDerivedFunction]]
    eager: ClassVar[type[HandDerivedFunction]]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "tangent_rule" in vars(cls):  # a variant, made below
            return
        rule = staticmethod(cls.jvp if "jvp" in vars(cls) else cls.tangent_rule)
        if "jvp" in vars(cls):
            del cls.jvp
        cls.tangent_rule = rule

        def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
            return differentiable_again(cls.tangent_rule)(ctx, *tangents)

        def forward(ctx: Any, *inputs: Any) -> Tensor:
            output: Tensor = cls.forward(*inputs)
            cls.setup_context(ctx, inputs, output)
            return output

        shared: dict[str, Any] = {"__module__": cls.__module__, "__doc__": cls.__doc__}
        shared |= {"tangent_rule": rule, "jvp": staticmethod(jvp)}
        joined = {
            "forward": staticmethod(forward),
            "setup_context": staticmethod(torch.autograd.Function.setup_context),  # that is: none
        }
        cls.transformed = type(cls.__name__, (cls,), shared)
        cls.eager = type(cls.__name__, (cls,), shared | joined)


def apply(function: type[HandDerivedFunction], *args: Any) -> Tensor:
    """Run `function` on `args` in the variant that fits."""
    if not is_compiling():
        function = function.transformed if _transforms_active() else function.eager
    output: Tensor = function.apply(*args)
    return output


def autocast_dtype(tensor: Tensor) -> torch.dtype | None:
    """The dtype of autocast where it is on for the device of `tensor`, else None."""
    kind = tensor.device.type
    if kind == "meta" or not torch.is_autocast_enabled(kind):  # which raises for "meta"
        return None
    return torch.get_autocast_dtype(kind)


def keep(ctx: Any, *tensors: Tensor | None, needed: tuple[bool, ...]) -> None:
    """Save each tensor for `backward` where it is needed, and all of them for `jvp`.

    What is saved for `jvp` alone is dropped when the forward pass ends. Under torch.func the two
    must be the same tuple: PyTorch's vmap rule needs that. While torch.compile traces, everything
    is saved: the compiler leaves out what nobody uses.
    """
    if is_compiling():
        ctx.save_for_backward(*tensors)
        return
    ctx.save_for_forward(*tensors)
    if not (all(needed) or _transforms_active()):
        pairs = zip(tensors, needed, strict=True)
        tensors = tuple([tensor if need else None for tensor, need in pairs])
    ctx.save_for_backward(*tensors)


def needed(ctx: Any) -> tuple[bool, ...]:
    """Which inputs need a gradient: all of them while torch.compile traces.

    A compiled torch.func.grad reports False for weights before torch 2.15, and would silently give
    them a gradient of 0.
    """
    return (True,) * len(ctx.needs_input_grad) if is_compiling() else ctx.needs_input_grad


def not_tensors(operation: Callable[..., Tensor], **arguments: Any) -> Tensor:
    """Let an argument that stands for a tensor take the call, such as a Proxy of torch.fx.

    Raises:
        TypeError: no argument stands for a tensor.
    """
    values = tuple(arguments.values())
    if has_torch_function(values):
        return handle_torch_function(operation, values, **arguments)
    name, seen = next((n, seen) for n, seen in arguments.items() if not isinstance(seen, Tensor))
    raise TypeError(f"{operation.__name__}: {name} must be a tensor, not {type(seen).__name__}")


def not_floating(operation: str, tensor: Tensor) -> TypeError:
    seen = dtype_name(tensor.dtype)
    return TypeError(f"{operation}: input has dtype {seen}: a floating dtype is needed")


def on_several_devices(operation: str, **tensors: Tensor | None) -> RuntimeError:
    seen = ", ".join(f"{name} on {t.device}" for name, t in tensors.items() if t is not None)
    return RuntimeError(
        f"{operation}: {seen}: all must be on one device; move them with .to(device)"
    )


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
