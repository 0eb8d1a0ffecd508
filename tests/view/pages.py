"""Data of pages for tests: networks with random weights, and images that look like strokes."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from manual_bp.backprop import Layer, read
from manual_bp.mlp import MLP
from manual_bp.worked_examples.networks import NETWORKS

IMAGES = 20


def models(hidden: Sequence[int], output: str, epochs: int) -> list[MLP]:
    """A network of each epoch: the first as PyTorch draws it, later ones with larger weights."""
    made = []
    for epoch in range(epochs):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(epoch)
            model = MLP([784, *hidden, 10], output=output)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter *= 1 + 2 * epoch
        made.append(model)
    return made


def run(
    hidden: Sequence[int] = (30,), output: str = "sigmoid", epochs: int = 3, **more: Any
) -> dict[str, Any]:
    """The data of a run's page."""
    generator = torch.Generator().manual_seed(0)
    ink = torch.randint(0, 256, (IMAGES, 28, 28), generator=generator, dtype=torch.uint8)
    ink[:, :, :8] = ink[:, :4] = ink[:, 24:] = 0  # MNIST's borders are empty
    rows = [{"epoch": e, **_metrics(e, len(hidden) + 1)} for e in range(1, epochs)]
    return {
        "format": 1,
        "kind": "run",
        "name": "a run",
        "sizes": [784, *hidden, 10],
        "activations": ["sigmoid"] * len(hidden) + [output],
        "cost": "half_per_example",
        "lr": 0.5,
        "batch": 10,
        "seed": 0,
        "epochs_planned": epochs - 1,
        "finished": True,
        "classes": [str(i) for i in range(10)],
        "image_shape": [28, 28],
        "images": base64.b64encode(ink.numpy().tobytes()).decode(),
        "pixel_scale": 1 / 255,
        "labels": [i % 10 for i in range(IMAGES)],
        "epochs": list(range(epochs)),
        "weights": [_text(read(model)) for model in models(hidden, output, epochs)],
        "metrics": rows,
        "trouble": [],
    } | more


def _metrics(epoch: int, layers: int) -> dict[str, float | None]:
    found: dict[str, float | None] = {"cost/train": 0.4 / epoch, "accuracy/train": 1 - 0.5 / epoch}
    found |= {"cost/validation": None, "accuracy/validation": 0.5}  # None: it was not finite
    return found | {f"delta_norm/layer{i:02}": 10.0**-i for i in range(1, layers + 1)}


def _text(layers: Sequence[Layer]) -> str:
    flat = [t.detach().numpy().astype("<f4").tobytes() for t in parameters(layers)]
    return base64.b64encode(b"".join(flat)).decode()


def parameters(layers: Sequence[Layer]) -> list[Tensor]:
    """W and b of each layer, the first layer first."""
    return [t for layer in layers for t in (layer.weight, layer.bias) if t is not None]


def inputs(data: dict[str, Any]) -> Tensor:
    """x of every image, (n, n_in), in float64."""
    ink = torch.frombuffer(bytearray(base64.b64decode(data["images"])), dtype=torch.uint8)
    return ink.reshape(-1, data["sizes"][0]).double() * data["pixel_scale"]


def example(name: str) -> dict[str, Any]:
    """The data of the page of a document's network."""
    network = NETWORKS[name]
    layers = len(network.weights)
    flat: list[float] = []
    for i, matrix in enumerate(network.weights):
        flat += [w for row in matrix for w in row]
        flat += network.biases[i] if network.biases else ()
    return {
        "format": 1,
        "kind": "example",
        "name": name,
        "title": network.title,
        "sizes": list(network.sizes),
        "activations": ["sigmoid"] * (layers - 1) + [network.output],
        "cost": network.cost,
        "lr": network.lr,
        "x": network.x,
        "y": network.y,
        "epochs": [0],
        "weights": [flat],
        "bias": network.biases is not None,
        "units": network.units,
        "notation": network.document,
    }
