"""Activations with setup_context apart, and clamps of what was saved."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from gallery import faulty, make, new_style, positive, saves_inputs, simple
from torch.autograd import Function

X = (6, 2)
faulty("derivative-at-wrong-point", X)(
    simple("SoftplusAtOutput", F.softplus, lambda x: torch.sigmoid(F.softplus(x)))
)
faulty("wrong-values", X)(
    simple(
        "GeluTanhForErf",
        F.gelu,
        lambda x: 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    )
)
faulty("wrong-values", X)(simple("SiluFirstTermOnly", F.silu, torch.sigmoid))
faulty("wrong-values", X)(
    simple(
        "LeakySlopeInverted",
        lambda x: F.leaky_relu(x, 0.1),
        lambda x: torch.where(x > 0, 1.0, 10.0).to(x),
    )
)
faulty("not-linear-in-grad-output", X)(
    new_style("MaskFromG", torch.relu, saves_inputs, lambda ctx, g: g * (g > 0))
)
faulty("not-linear-in-grad-output", X)(
    new_style(
        "NormalisesG",
        torch.sin,
        saves_inputs,
        lambda ctx, g: g / g.norm() * ctx.saved_tensors[0].cos(),
    )
)
faulty("derivative-at-wrong-point", ())(
    simple("ScalarSinAtOutput", torch.sin, lambda x: torch.cos(torch.sin(x)))
)
faulty("constant-factor", ())(simple("ScalarSquare", lambda x: x * x, lambda x: x))
faulty("sign-flip", (1,))(simple("ReciprocalSign", lambda x: 1 / x, lambda x: 1 / x**2))
faulty("derivative-at-wrong-point", positive(5, 2))(
    simple("ReciprocalOfOutput", lambda x: 1 / x, lambda x: -(x**2))
)
faulty("ignores-grad-output", (3, 3))(
    new_style("ExpShapeOnly", torch.exp, saves_inputs, lambda ctx, g: ctx.saved_tensors[0].exp())
)
faulty("missing-gradient", (3, 3))(
    new_style("RoundedMask", torch.atan, saves_inputs, lambda ctx, g: g * 0 * ctx.saved_tensors[0])
)
faulty("derivative-at-wrong-point", X)(
    new_style(
        "EluFormulaOnX",
        lambda x: torch.tanh(x) * 2,
        saves_inputs,
        lambda ctx, g: g * (2 - ctx.saved_tensors[0] ** 2 / 2),
    )
)
faulty("precision", (8, 8))(
    simple("ThroughBfloat", torch.atan, lambda x: (1 / (1 + x * x)).bfloat16().to(x))
)
faulty("mutates-grad-output", (3, 2, 4))(
    new_style("ScalesG", lambda x: 3 * x, saves_inputs, lambda ctx, g: g.mul_(3))
)
faulty("jvp-disagrees", X)(
    new_style(
        "SinJvpSign",
        torch.sin,
        lambda ctx, inputs, output: (ctx.save_for_backward(*inputs), ctx.save_for_forward(*inputs))[
            0
        ],
        lambda ctx, g: g * ctx.saved_tensors[0].cos(),
        jvp=staticmethod(lambda ctx, t: -t * ctx.saved_tensors[0].cos()),
    )
)
faulty("second-backward", X)(
    make(
        "PopsFromCtx",
        lambda ctx, x: (setattr(ctx, "stack", [x]), x.sin())[1],
        lambda ctx, g: g * ctx.stack.pop().cos(),
    )
)


@faulty("mutates-saved", X)
class ClampsSaved(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.x = x.detach().clone()
        return x.clamp(-1, 1)

    @staticmethod
    def backward(ctx, g):
        mask = ctx.x.abs_() <= 1
        return g * mask


@faulty("mutates-input", X)
class CentresInput(Function):
    @staticmethod
    def forward(ctx, x):
        x -= x.mean(0)
        ctx.save_for_backward(x.clone())
        return x**2

    @staticmethod
    def backward(ctx, g):
        d = 2 * g * ctx.saved_tensors[0]
        return d - d.mean(0)
