"""Which engine trains a run."""

from __future__ import annotations

from torch import nn

from manual_bp.training.direct_engine import DirectEngine, SharedDirectEngine
from manual_bp.training.engine import AutogradEngine, Engine
from manual_bp.training.errors import UsageError
from manual_bp.training.options import Options
from manual_bp.training.world import World


def choose(options: Options) -> str:
    """autograd or direct; direct unless something was asked for that it does not do.

    Raises:
        UsageError: direct was asked for together with such a thing.
    """
    needs_autograd = [
        flag
        for flag, wanted in (
            ("--impl builtin", options.impl == "builtin"),
            (f"--amp {options.amp}", options.amp != "off"),
            ("--compile", options.compile),
        )
        if wanted
    ]
    if options.engine == "direct" and needs_autograd:
        raise UsageError(
            f"--engine direct does not go with {needs_autograd[0]}: use --engine autograd"
        )
    return options.engine or ("autograd" if needs_autograd else "direct")


def build(
    name: str, model: nn.Sequential, options: Options, batch_size: int, world: World
) -> Engine:
    """The engine of that name for `model`; `batch_size` counts the examples of all processes."""
    if name == "autograd":
        return AutogradEngine(model, options, batch_size, world)
    if world.size > 1:
        return SharedDirectEngine(model, options, batch_size, world)
    return DirectEngine(model, options, batch_size)
