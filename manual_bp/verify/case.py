"""One function with its arguments in one dtype, and two ways to run it: as values, as a graph.

Every call gets fresh copies of the arguments. A function that writes into them spoils nothing, and
`changed` tells that it did.
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from manual_bp.verify import randomness, strides
from manual_bp.verify.agreement import same
from manual_bp.verify.crash import CrashError, stage
from manual_bp.verify.subject import Subject

Gradients = dict[int, Tensor | None]  # by the argument's position


@dataclass
class Graph:
    """One forward with autograd on: its leaves, what was passed, and what came out.

    `changed` holds the arguments that the forward has written to; only a first call tells.
    """

    leaves: dict[int, Tensor]
    passed: list[Any]
    returned: list[Tensor]
    outputs: list[Tensor]
    changed: list[int] = field(default_factory=list)
    in_a_list: bool = False  # the function returned a list
    fills_grad: bool = False  # a backward inside fills .grad, and torch refuses autograd.grad
    overwritten: bool = False  # a later call took the outputs' history away

    def gradients(
        self, cotangents: Sequence[Tensor | None], *, retain: bool = False, create: bool = False
    ) -> Gradients:
        """Σ_o ⟨cotangent_o, output_o⟩ differentiated by each leaf.

        An output whose cotangent is None is left out.
        """
        pairs = [
            (o, g)
            for o, g in zip(self.outputs, cotangents, strict=True)
            if g is not None and o.requires_grad
        ]
        if not pairs or not self.leaves:
            return dict.fromkeys(self.leaves)
        outputs, sent = [o for o, _ in pairs], [g.to(o) for o, g in pairs]
        leaves = list(self.leaves.values())
        again: dict[str, Any] = {"retain_graph": retain or create, "create_graph": create}
        found: Sequence[Tensor | None]
        with stage("backward"), torch.enable_grad():
            if self.fills_grad:
                torch.autograd.backward(outputs, sent, **again)
                found = [None] * len(leaves)
            else:
                found = torch.autograd.grad(outputs, leaves, sent, allow_unused=True, **again)
        found = [_with_filled(g, leaf) for g, leaf in zip(found, leaves, strict=True)]
        # an embedding may give a sparse gradient
        dense = [g.to_dense() if g is not None and g.layout != torch.strided else g for g in found]
        return dict(zip(self.leaves, dense, strict=True))


class Case:
    """A subject bound to arguments in one dtype.

    `checked` holds the positions of the arguments whose gradients are checked.
    """

    def __init__(
        self, subject: Subject, args: Sequence[Any], checked: Sequence[int], seed: int
    ) -> None:
        self.subject = subject
        self.args = [a.detach().clone() if isinstance(a, Tensor) else a for a in args]
        self.generators = [i for i, a in enumerate(args) if randomness.is_generator(a)]
        self.checked = list(checked)
        self.seed = seed
        self.random = False
        self.fills_grad = False  # see `Graph`
        self.needs_graph = False  # the forward itself differentiates, and fails with autograd off
        self.differentiable: list[int] = []
        self.shapes: list[torch.Size] = []

    def prepare(self) -> Graph:
        """Run once; learn the differentiable outputs, and whether random numbers are drawn."""
        before = randomness.fingerprint()
        graph = self.graph(first=True)
        self.random = randomness.fingerprint() != before or bool(self.generators)
        outputs = [real(o) for o in graph.returned]
        usable = [i for i, o in enumerate(outputs) if o.is_floating_point() and o.requires_grad]
        # A function that cuts the graph has no such output. Its floating outputs still tell the
        # derivative.
        self.differentiable = usable or [i for i, o in enumerate(outputs) if o.is_floating_point()]
        graph.outputs = [outputs[i] for i in self.differentiable]
        self.shapes = [o.shape for o in graph.outputs]
        required = bool(usable)
        try:
            self.values()
        except CrashError:
            self.needs_graph = True
        graph.overwritten = required and not any(o.requires_grad for o in graph.returned)
        return graph

    @property
    def dtype(self) -> torch.dtype:
        """The widest dtype among the checked arguments."""
        dtypes = [self.args[i].dtype for i in self.checked]
        return max(dtypes, key=lambda d: torch.finfo(d).bits, default=torch.float64)

    def copies(self, args: Sequence[Any] | None = None) -> list[Any]:
        """Fresh copies with the same strides; of a generator too."""
        copies = [
            strides.copy(a) if isinstance(a, Tensor) else a
            for a in (self.args if args is None else args)
        ]
        for i in self.generators:
            copies[i] = randomness.copied(copies[i])
        return copies

    def values(self, args: Sequence[Any] | None = None) -> list[Tensor]:
        """All tensors the function returns, with autograd off."""
        if self.random:
            randomness.reset(self.seed)
        with stage("forward"), torch.set_grad_enabled(self.needs_graph):
            return [o.detach() for o in tensors(self.subject.call(*self.copies(args)))]

    def vector(self, args: Sequence[Any] | None = None) -> Tensor:
        """The differentiable outputs as one flat float64 vector."""
        outputs = self.values(args)
        if len(outputs) <= max(self.differentiable, default=-1):
            raise CrashError(
                "forward",
                RuntimeError(f"it returned {len(outputs)} tensors where it had returned more"),
            )
        return flat([real(outputs[i]) for i in self.differentiable])

    def graph(
        self,
        args: Sequence[Any] | None = None,
        needs: Sequence[int] | None = None,
        first: bool = False,
    ) -> Graph:
        """Run with autograd on, each leaf passed as a copy: in-place functions may write to it."""
        leaves: dict[int, Tensor] = {}
        passed = self.copies(args)
        for i in self.checked if needs is None else needs:
            leaf = real(passed[i]).detach().resolve_neg().requires_grad_()
            leaves[i] = leaf
            passed[i] = (
                torch.view_as_complex(leaf.clone())
                if passed[i].is_complex()
                else strides.copy(leaf)
            )
        before = [a.detach().clone() if first and isinstance(a, Tensor) else None for a in passed]
        histories = [a.grad_fn if isinstance(a, Tensor) else None for a in passed]
        if self.random:
            randomness.reset(self.seed)
        with stage("forward"), torch.enable_grad():
            result = self.subject.call(*passed)
        returned = tensors(result)
        changed = [
            i
            for i, (a, old) in enumerate(zip(passed, before, strict=True))
            if isinstance(a, Tensor)
            and old is not None
            and not same(a.detach(), old)
            # an in-place operation that autograd recorded, or that mark_dirty declared, gives the
            # tensor a new history
            and (i not in leaves or a.grad_fn is histories[i])
            and not any(o is a for o in returned)
        ]
        if self.random:
            # a backward that draws again must not get the forward's numbers
            randomness.reset(self.seed + 1)
        outputs = (
            [] if first else [real(returned[i]) for i in self.differentiable if i < len(returned)]
        )
        if not first and len(outputs) != len(self.differentiable):
            raise CrashError(
                "forward",
                RuntimeError(f"it returned {len(returned)} tensors where it had returned more"),
            )
        if first:
            nodes = (node for o in returned for node in _nodes(o))
            self.fills_grad = any(_asks_for_backward(node) for node in nodes)
        in_a_list = isinstance(result, list)
        return Graph(leaves, passed, returned, outputs, changed, in_a_list, self.fills_grad)

    def split(self, vector: Tensor) -> list[Tensor]:
        """A flat cotangent as one tensor for each differentiable output."""
        # a copy: a backward that writes into its grad_output must not reach the caller's
        parts = vector.clone().split([s.numel() for s in self.shapes])
        return [part.reshape(shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def gradients(
        self, vector: Tensor, args: Sequence[Any] | None = None, needs: Sequence[int] | None = None
    ) -> Gradients:
        """The function's own gradients for a flat cotangent, from a fresh graph."""
        found = self.graph(args, needs).gradients(self.split(vector))
        # copies: the function may keep one buffer for all its gradients
        return {i: None if g is None else g.clone() for i, g in found.items()}


def _with_filled(g: Tensor | None, leaf: Tensor) -> Tensor | None:
    """The gradient with what a backward() inside of the backward has put into `.grad`."""
    filled, leaf.grad = leaf.grad, None
    return filled if g is None else g if filled is None else g + filled


def has_node(tensor: Tensor, name: str) -> bool:
    """Whether the graph that `tensor` comes from has a node called `name`."""
    return any(node.name() == name for node in _nodes(tensor))


def _nodes(tensor: Tensor) -> Iterator[Any]:
    """The nodes that `tensor` leads back to."""
    pending = [] if tensor.grad_fn is None else [tensor.grad_fn]
    seen = set(pending)
    while pending:
        node = pending.pop()
        yield node
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                pending.append(following)


def _asks_for_backward(node: Any) -> bool:
    """Whether a Function takes `.backward()` alone, as torch's reentrant checkpoint does."""
    backward = getattr(getattr(node, "_forward_cls", None), "backward", None)
    code = getattr(inspect.unwrap(backward), "__code__", None) if backward else None
    return "_is_checkpoint_valid" in getattr(code, "co_names", ())


def tensors(result: Any) -> list[Tensor]:
    """The tensors in a tensor, tuple, list or dict, in order."""
    if isinstance(result, Tensor):
        return [result]
    if isinstance(result, dict):
        result = list(result.values())
    if dataclasses.is_dataclass(result):
        result = [getattr(result, field.name) for field in dataclasses.fields(result)]
    if isinstance(result, tuple | list):
        return list(itertools.chain.from_iterable(tensors(item) for item in result))
    return []


def flat(parts: Sequence[Tensor]) -> Tensor:
    """Tensors as one flat float64 vector on the CPU."""
    return torch.cat(
        [real(p.detach()).reshape(-1).to("cpu", torch.float64) for p in parts]
        or [torch.zeros(0).double()]
    )


def real(tensor: Tensor) -> Tensor:
    """A complex tensor as pairs of real numbers, a sparse one dense."""
    dense = tensor if tensor.layout == torch.strided else tensor.to_dense()
    return torch.view_as_real(dense.resolve_conj()) if dense.is_complex() else dense
