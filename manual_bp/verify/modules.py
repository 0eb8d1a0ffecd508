"""What must follow the tensors of a call among its other arguments: modules and dtypes.

A Function that takes a module takes the module's parameters beside it, so that autograd knows them:
what is passed there is what the module must compute with.
"""

from __future__ import annotations

import itertools
import types
from collections.abc import Callable, Container, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def module_of(value: Any) -> nn.Module | None:
    """The module that `value` is or is a method of."""
    owner = value.__self__ if isinstance(value, types.MethodType) else value
    if isinstance(owner, nn.Module) and not isinstance(owner, torch.jit.ScriptModule):
        return owner
    return None


def tensors_of(module: nn.Module) -> list[Tensor]:
    """Its parameters and buffers."""
    return list(itertools.chain(module.parameters(), module.buffers()))


def holds(value: Any, tensors: Container[int]) -> bool:
    """Whether `value` is a module, or a method of one, with one of these tensors, given by id."""
    module = module_of(value)
    return module is not None and any(id(t) in tensors for t in tensors_of(module))


def with_tensors(value: Any, state: dict[int, Tensor], made: dict[int, nn.Module]) -> Any:
    """A module, or a method of one, with other tensors, for good: a backward may call it again.

    Args:
        value: what to take after; it is not changed.
        state: the new tensors by the ids of the old ones.
        made: the new modules by the ids of the old ones; what is shared stays shared.
    """
    if isinstance(value, types.MethodType):
        return types.MethodType(value.__func__, with_tensors(value.__self__, state, made))
    if id(value) not in made:
        new = made[id(value)] = object.__new__(type(value))
        vars(new).update(vars(value))
        for kind in ("_parameters", "_buffers"):
            held = getattr(value, kind)
            vars(new)[kind] = {k: t if t is None else state.get(id(t), t) for k, t in held.items()}
        vars(new)["_modules"] = {
            name: inner if inner is None else with_tensors(inner, state, made)
            for name, inner in value._modules.items()
        }
        for name, held in vars(value).items():
            if isinstance(held, types.MethodType) and held.__self__ is value:
                vars(new)[name] = types.MethodType(held.__func__, new)
    return made[id(value)]


def linked(call: Callable[..., Any], args: Sequence[Any]) -> Callable[..., Any]:
    """`call` on arguments like `args`; their modules hold the tensors that are passed beside them.

    What a module holds besides, and a dtype that is passed, follow the dtype of the tensors.
    """
    inside = {i: m for i, a in enumerate(args) if (m := module_of(a)) is not None}
    if not inside and not any(isinstance(a, torch.dtype) for a in args):
        return call

    def call_linked(*values: Any) -> Any:
        pairs = [(a, v) for a, v in zip(args, values, strict=True) if isinstance(a, Tensor)]
        state = {id(a): v for a, v in pairs}
        dtypes = {a.dtype: v.dtype for a, v in pairs}
        for t in itertools.chain.from_iterable(map(tensors_of, inside.values())):
            if id(t) not in state:
                copy = t.detach().to(dtypes.get(t.dtype, t.dtype), copy=True)
                state[id(t)] = copy.requires_grad_(t.requires_grad)
        made: dict[int, nn.Module] = {}
        passed = [
            with_tensors(args[i], state, made)
            if i in inside
            else dtypes.get(v, v)
            if isinstance(v, torch.dtype)
            else v
            for i, v in enumerate(values)
        ]
        return call(*passed)

    return call_linked
