"""The kinds of findings: each name with its meaning in one line."""

from __future__ import annotations

KINDS: dict[str, str] = {
    "crash": "a call raised: the detail names the call and the error's first line",
    "nondeterministic": "two calls on the same inputs, with every random generator "
    "reset, gave different results",
    "forward-wrong": "the forward's value or shape is not the reference's",
    "mutates-input": "the forward writes into an input without mark_dirty",
    "mutates-grad-output": "the backward writes into the gradient it receives",
    "mutates-saved": "the backward writes into a tensor that the forward saved",
    "wrong-shape": "the gradient's shape is not its input's",
    "missing-batch-sum": "the gradient lacks a sum over the dimensions its input was "
    "broadcast along",
    "wrong-dtype": "the gradient's dtype is not its input's",
    "missing-gradient": "the gradient is None or zero where the derivative is not",
    "ignores-grad-output": "the gradient does not depend on the incoming gradient, "
    "or not on that of one output",
    "not-linear-in-grad-output": "the gradient is not linear in the incoming gradient",
    "sign-flip": "the gradient is −1 times the derivative",
    "constant-factor": "the gradient is a constant times the derivative",
    "transposed": "the gradient is the derivative with two dimensions exchanged",
    "gradient-of-another-input": "the gradient is the derivative with respect to a different input",
    "derivative-at-wrong-point": "the gradient is the derivative taken at another point, "
    "such as f′(f(x)) for f′(x)",
    "wrong-values": "the gradient is wrong in a way that none of the other kinds describes",
    "needs-input-grad": "a gradient is right only for some choices of which inputs require one",
    "second-backward": "a second backward over a retained graph gives a different "
    "gradient or raises",
    "non-contiguous": "a gradient or input with other strides but the same values gives "
    "another result or raises",
    "empty-batch": "the forward takes a batch of size 0, the backward does not",
    "precision": "rounding error far above what the dtype and the function's conditioning explain",
    "double-backward-wrong": "differentiating the backward gives a wrong second "
    "derivative, silently",
    "double-backward-unsupported": "the backward cannot be differentiated, "
    "and is not marked once_differentiable",
    "jvp-disagrees": "the forward-mode rule, jvp, does not give the directional derivative",
    "vmap-wrong": "under vmap the function gives something else than in a loop, "
    "or its vmap rule raises",
    "compile-wrong": "under torch.compile(fullgraph=True) the function raises or gives "
    "other results",
}
"""Every value that `Finding.kind` can take, the likelier causes first, with its meaning."""
