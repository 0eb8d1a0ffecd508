"""What every operation here shares: how it is transformed, what it saves, and which of its two classes runs.

An operation is two classes.

- The plain one has `forward`, `setup_context` and `backward`. `torch.compile(fullgraph=True)` takes it. It saves only
  what a needed gradient needs.
- Its subclass adds `jvp`, the forward-mode rule, which torch.compile refuses. It saves every differentiable input,
  because forward mode runs on tensors that require no gradient.

`apply` chooses between them.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd import forward_ad


class HandDerivedFunction(torch.autograd.Function):
    """A Function whose backward is made only of differentiable operations on saved inputs and outputs.

    That restriction is what makes the second derivative right by construction, and lets PyTorch write the vmap rule.
    """

    generate_vmap_rule = True
    forward_mode: ClassVar[type[HandDerivedFunction]]

    @staticmethod
    def save(ctx: Any, *tensors: Tensor | None) -> None:
        """Save one tuple for both modes: the generated vmap rule requires that the two are equal."""
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)


def apply(function: type[HandDerivedFunction], *args: Any) -> Any:
    """Run `function`, or its forward-mode subclass where a forward-mode level is open (dual numbers, jvp, jacfwd)."""
    # _current_level is -1 outside every level; torch.func.jvp and jacfwd open one too.
    if not torch.compiler.is_compiling() and forward_ad._current_level >= 0:
        function = function.forward_mode
    return function.apply(*args)
