"""What autograd's engine hides: the values a Function's backward really gets and returns.

The engine sums an oversized gradient, casts one of another dtype, and fills in zeros for None.
Therefore the backward of every Function in a graph is wrapped for one call, which records its
arguments and results.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from manual_bp.verify.agreement import freed, same
from manual_bp.verify.case import Graph
from manual_bp.verify.subject import Subject, parameter_names


@dataclass
class Heard:
    """One call of one Function's backward."""

    cls: type[torch.autograd.Function]
    needs: tuple[bool, ...]
    returned: tuple[Any, ...] | None
    # by the argument's position
    expected: dict[int, tuple[torch.Size, torch.dtype]] = field(default_factory=dict)
    written_gradients: list[int] = field(default_factory=list)
    written_saved: list[str] = field(default_factory=list)
    # kept as ctx.name, past save_for_backward
    attributes: dict[str, Tensor] = field(default_factory=dict)

    def tensor_name(self, subject: Subject, position: int) -> str:
        """The argument's name in `forward`; an inner Function's name stands before it."""
        if self.cls is subject.function_class and position < len(subject.names):
            return subject.names[position]
        names = parameter_names(self.cls)
        name = names[position] if position < len(names) else f"input {position}"
        return f"{self.cls.__name__}.{name}"


@contextmanager
def listening(graph: Graph) -> Iterator[list[Heard]]:
    """Record each call of a Function's backward in this graph while the block runs."""
    heard: list[Heard] = []
    patched: list[tuple[type, str, Any]] = []
    for cls in dict.fromkeys(written_functions(graph)):
        name = "backward" if cls.vjp is torch.autograd.Function.vjp else "vjp"
        patched.append((cls, name, cls.__dict__.get(name)))
        setattr(cls, name, staticmethod(_recorder(cls, getattr(cls, name), heard)))
    try:
        yield heard
    finally:
        for cls, name, own in patched:
            if own is None:
                delattr(cls, name)
            else:
                setattr(cls, name, own)


def _recorder(cls: type[torch.autograd.Function], backward: Any, heard: list[Heard]) -> Any:
    @functools.wraps(backward)
    def record(ctx: Any, *gradients: Any) -> Any:
        before = [g.detach().clone() if isinstance(g, Tensor) else None for g in gradients]
        saved = _saved(ctx)
        kept = {name: t.detach().clone() for name, t in saved.items()}
        event = Heard(cls, tuple(ctx.needs_input_grad), None, _expected(ctx))
        event.attributes = {name: t for name, t in saved.items() if "[" not in name}
        heard.append(event)
        try:
            result = backward(ctx, *gradients)
        finally:
            event.written_gradients = [
                i
                for i, (g, old) in enumerate(zip(gradients, before, strict=True))
                if isinstance(g, Tensor) and old is not None and not same(g.detach(), old)
            ]
            touched = {id(gradients[i]) for i in event.written_gradients}
            event.written_saved = [
                name
                for name, t in saved.items()
                if id(t) not in touched and not same(t.detach(), kept[name])
            ]
        event.returned = result if isinstance(result, tuple) else (result,)
        return result

    return record


def written_functions(graph: Graph) -> Iterator[type[torch.autograd.Function]]:
    """The Function classes of the Python nodes that the outputs lead back to."""
    pending = [o.grad_fn for o in (*graph.outputs, *graph.returned) if o.grad_fn is not None]
    seen = set(pending)
    while pending:
        node = pending.pop()
        cls = getattr(node, "_forward_cls", None)  # only a Python Function's node has one
        if isinstance(cls, type) and issubclass(cls, torch.autograd.Function):
            yield cls
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                pending.append(following)


def _saved(ctx: Any) -> dict[str, Tensor]:
    """The tensors a backward can reach: the saved ones, and those stored as attributes of ctx."""
    found = {
        name: value
        for name, value in getattr(ctx, "__dict__", {}).items()
        if isinstance(value, Tensor) and not freed(value)
    }
    try:
        saved = ctx.saved_tensors
    except RuntimeError:  # written to since it was saved: the backward's own access will say so
        return found
    found.update({f"saved_tensors[{i}]": t for i, t in enumerate(saved) if isinstance(t, Tensor)})
    return found


def _expected(ctx: Any) -> dict[int, tuple[torch.Size, torch.dtype]]:
    """Shape and dtype of each argument that needs a gradient, as the graph knows them."""
    following = [(node, number) for node, number in ctx.next_functions if node is not None]
    positions = [i for i, needed in enumerate(ctx.needs_input_grad) if needed]
    if len(following) != len(positions):
        return {}
    found = {}
    for position, (node, number) in zip(positions, following, strict=True):
        variable = getattr(node, "variable", None)
        if isinstance(variable, Tensor):
            found[position] = (variable.shape, variable.dtype)
            continue
        # private, there since torch 2.1; without it the shapes of inner Functions are not checked
        metadata = getattr(node, "_input_metadata", None)
        if metadata is not None and number < len(metadata):
            found[position] = (torch.Size(metadata[number].shape), metadata[number].dtype)
    return found
