"""What is under check: a Function, a function or a module, as one call of named arguments."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from manual_bp.verify.intent import declared
from manual_bp.verify.modules import linked, with_tensors
from manual_bp.verify.nested import holds_tensors, pack, unpack


@dataclass(frozen=True)
class Subject:
    """A callable with the names of its arguments; an autograd Function has a `function_class`."""

    name: str
    call: Callable[..., Any]
    names: tuple[str, ...]
    args: tuple[Any, ...]
    requires_grad: tuple[bool, ...]
    inputs: int  # how many of the arguments the caller gave; a module's parameters follow them
    # these arguments as the caller gave them, tensors inside lists
    packed: Callable[[Sequence[Any]], list[Any]]
    function_class: type[torch.autograd.Function] | None = None
    meant: str = ""  # what was declared of its gradient
    parameters: tuple[str, ...] = ()  # the names of all that the function takes, given or not

    def called(self) -> str:
        """The call in words, for a caller who gave the wrong arguments."""
        given = list(zip(self.names, self.args, strict=True))[: self.inputs]
        seen = ", ".join(f"{name} {_kind(value)}" for name, value in given) or "no arguments"
        takes = f" It takes {', '.join(self.parameters)}." if self.parameters else ""
        return (
            f"Called with {seen}.{takes} If that is not the call you meant, "
            "mend the inputs (--inputs)"
        )

    @property
    def offers_jvp(self) -> bool:
        """Whether a Function has a forward-mode rule. For a plain function only a call can tell."""
        return self.function_class is not None and offers_jvp(self.function_class)

    @property
    def offers_vmap(self) -> bool:
        """Whether a Function has a vmap rule, or asks PyTorch to generate one."""
        return self.function_class is not None and offers_vmap(self.function_class)


def offers_jvp(cls: type[torch.autograd.Function]) -> bool:
    return getattr(cls, "jvp", None) is not torch.autograd.Function.jvp


def offers_vmap(cls: type[torch.autograd.Function]) -> bool:
    own = getattr(cls, "vmap", None) is not torch.autograd.Function.vmap
    return bool(cls.generate_vmap_rule) or own


def subject_of(function: Any, inputs: Any, names: Sequence[str] | None = None) -> Subject:
    """Take a Function class, its `apply`, a module or any callable, with the inputs of one call.

    Raises:
        TypeError: `function` is not callable.
        ValueError: `names` has another length than `inputs`.
    """
    args = (
        (inputs,)
        if isinstance(inputs, Tensor) or not isinstance(inputs, list | tuple)
        else tuple(inputs)
    )
    if names is not None and len(names) != len(args):
        raise ValueError(
            f"check: {len(names)} names for {len(args)} inputs: one name for each input is expected"
        )
    cls = _function_class(function)
    if cls is None and not callable(function):
        seen = type(function).__name__
        raise TypeError(
            f"check: {seen} is not callable: give a Function, its apply, a function or a module"
        )
    schema = _schema(function)
    parameters = (
        parameter_names(cls)
        if cls is not None
        else [a.name for a in schema.arguments]
        if schema is not None
        else _signature(getattr(function, "forward", function))
    )
    called = names or parameters[: len(args)] + [
        f"input {i}" for i in range(len(parameters), len(args))
    ]
    # autograd gives no gradient to a tensor inside a list that a Function takes: it is a constant
    loose = [not holds_tensors(a) or cls is None for a in args]
    leaves = [
        (*leaf, free)
        for a, name, free in zip(args, called, loose, strict=True)
        for leaf in unpack(a, name)
    ]
    labels, values = tuple(name for name, _, _ in leaves), tuple(value for _, value, _ in leaves)
    flags = _flags(values, tuple(free for _, _, free in leaves))
    nested = len(values) != len(args) or any(map(holds_tensors, args))

    def packed(flat: Sequence[Any]) -> list[Any]:
        rest = iter(flat)
        return [pack(a, rest) for a in args]

    if isinstance(function, nn.Module):
        return _module(function, labels, values, flags, packed, tuple(parameters))
    plain = function if cls is None else cls.apply
    call = linked((lambda *flat: plain(*packed(flat))) if nested else plain, values)
    # with tensors in lists the arguments are no longer the Function's own: treat it as a callable
    own = None if nested else cls
    return Subject(
        _name(function, cls),
        call,
        labels,
        values,
        flags,
        len(values),
        packed,
        own,
        declared(function if cls is None else cls),
        tuple(parameters),
    )


def _schema(function: Any) -> Any:
    """The signature of a `torch.library` operator, or None."""
    operator = getattr(function, "_opoverload", function)  # what `custom_op` returns
    return operator._schema if isinstance(operator, torch._ops.OpOverload) else None


def _flags(args: tuple[Any, ...], free: tuple[bool, ...]) -> tuple[bool, ...]:
    """Which arguments to check: those that require a gradient.

    If none does, every floating or complex tensor is checked that is `free`, no constant.
    """
    asked = [isinstance(a, Tensor) and a.requires_grad for a in args]
    if any(asked):
        return tuple(asked)
    return tuple(
        f and isinstance(a, Tensor) and _differentiable(a) for a, f in zip(args, free, strict=True)
    )


def _differentiable(a: Tensor) -> bool:
    """Whether to differentiate by it: not float8, which holds constants, and nothing sparse."""
    wide = a.is_floating_point() and a.itemsize > 1
    return (wide or a.is_complex()) and a.layout == torch.strided


def _function_class(function: Any) -> type[torch.autograd.Function] | None:
    owner = (
        getattr(function, "__self__", None)
        if getattr(function, "__name__", "") == "apply"
        else function
    )
    is_function = isinstance(owner, type) and issubclass(owner, torch.autograd.Function)
    return owner if is_function else None


def _module(
    module: nn.Module,
    names: tuple[str, ...],
    args: tuple[Any, ...],
    flags: tuple[bool, ...],
    packed: Callable[[Sequence[Any]], list[Any]],
    takes: tuple[str, ...],
) -> Subject:
    """A module as a function of inputs and parameters; every call gets copies of its buffers."""
    if any(isinstance(p, UninitializedParameter) for p in module.parameters()):
        module = copy.deepcopy(module)  # a lazy one learns its shapes from its first call
        with torch.no_grad():
            module(*packed(args))
    parameters, buffers = dict(module.named_parameters()), dict(module.named_buffers())
    count = len(args)

    def call(*values: Any) -> Any:
        dtype = next(
            (v.dtype for v in values if isinstance(v, Tensor) and v.is_floating_point()),
            torch.float32,
        )
        state: dict[int, Tensor] = {
            id(buffer): buffer.detach().to(dtype, copy=True)
            if buffer.is_floating_point()
            else buffer.detach().clone()
            for buffer in buffers.values()
        }
        state.update(zip(map(id, parameters.values()), values[count:], strict=True))
        return with_tensors(module, state, {})(*packed(values[:count]))

    flags = (*flags, *(p.requires_grad for p in parameters.values()))
    values = (*args, *parameters.values())
    name = type(module).__name__
    return Subject(
        name, call, names + tuple(parameters), values, flags, count, packed, parameters=takes
    )


def _name(function: Any, cls: type | None) -> str:
    if cls is not None:
        return cls.__name__
    schema = _schema(function)
    if schema is not None:
        return str(schema.name)
    if isinstance(function, functools.partial):
        return _name(function.func, None)
    return str(getattr(function, "__name__", type(function).__name__))


def parameter_names(cls: type[torch.autograd.Function]) -> list[str]:
    """The names in a Function's `forward`, without the older style's ctx, and without `*args`."""
    names = _signature(cls.forward)
    return names if cls.setup_context is not torch.autograd.Function.setup_context else names[1:]


def _kind(value: Any) -> str:
    if not isinstance(value, Tensor):
        return repr(value)
    size = "×".join(map(str, value.shape)) or "a scalar"
    return (
        size if value.is_floating_point() else f"{size} {str(value.dtype).removeprefix('torch.')}"
    )


def _signature(function: Any) -> list[str]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # built-in functions may have none
        return []
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
