"""The contenders without PyTorch: NumPy, JAX, scikit-learn, as users write them for speed."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import numpy as np
import torch

from manual_bp.bench.problem import PIXEL_SCALE, Problem
from manual_bp.bench.torch_peers import Contender, Parameters, Skipped


class NumPy(Contender):
    """Batched backpropagation in matrix products."""

    name = "NumPy"

    def __init__(self, problem: Problem) -> None:
        if problem.device.type != "cpu":
            raise Skipped("runs on the CPU")
        super().__init__(problem)
        self.images, self.one_hot = problem.images.cpu().numpy(), problem.one_hot.cpu().numpy()
        self.batches = [batch.cpu().numpy() for batch in problem.batches()]
        self.load()

    def load(self) -> None:
        self.weights = [
            (w.cpu().numpy().copy(), b.cpu().numpy().copy()) for w, b in self.problem.weights
        ]

    def run(self) -> None:
        linear, last = self.problem.configuration.linear, len(self.weights) - 1
        scale = np.float32(PIXEL_SCALE)
        m, n_out = self.problem.configuration.batch, self.one_hot.shape[1]
        factor = np.float32(self.problem.lr * 2 / (m * n_out))
        for indices in self.batches:
            activations = [self.images[indices] * scale]
            for i, (weight, bias) in enumerate(self.weights):
                z = activations[-1] @ weight.T
                z += bias
                if not (linear and i == last):
                    np.negative(z, out=z)
                    np.exp(z, out=z)
                    z += 1
                    np.reciprocal(z, out=z)
                activations.append(z)
            delta = activations[-1] - self.one_hot[indices]
            for i in range(last, -1, -1):
                a, a_prev = activations[i + 1], activations[i]
                if not (linear and i == last):
                    delta *= a * (1 - a)
                weight, bias = self.weights[i]
                gradient = delta.T @ a_prev
                bias -= factor * delta.sum(0)
                if i:
                    delta = delta @ weight
                gradient *= factor
                weight -= gradient

    def parameters(self) -> Parameters:
        return list(self.weights)


class JAX(Contender):
    """jit over lax.scan: one call for all steps."""

    name = "JAX jit+scan"
    compiles = True

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        # Before the import: JAX would take three quarters of a GPU's memory.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        try:
            import jax
            import jax.numpy as jnp
        except ImportError:
            raise Skipped('not installed: pip install "manual_bp[bench]"') from None
        self.jax: Any = jax
        if problem.device.type == "cpu":
            self.jax.config.update("jax_platforms", "cpu")
        elif self.jax.devices()[0].platform != "gpu":
            raise Skipped("this JAX has no GPU: see JAX's page on its installation")
        # On a GPU its products are in TF32 unless told otherwise.
        precise = torch.get_float32_matmul_precision() == "highest"
        self.jax.config.update(
            "jax_default_matmul_precision", "highest" if precise else "tensorfloat32"
        )
        configuration = problem.configuration
        # Typed as Any: an optional dependency.
        self.images: Any = jnp.asarray(problem.images.cpu().numpy())
        self.one_hot: Any = jnp.asarray(problem.one_hot.cpu().numpy())
        self.batches: Any = jnp.asarray(
            problem.order.cpu().numpy().reshape(-1, configuration.batch).astype(np.int32)
        )

        def cost(parameters: Any, x: Any, y: Any) -> Any:
            a = x
            for i, (weight, bias) in enumerate(parameters):
                a = a @ weight.T + bias
                if not (configuration.linear and i == len(parameters) - 1):
                    a = jax.nn.sigmoid(a)
            return jnp.mean((a - y) ** 2)

        @partial(jax.jit, donate_argnums=0)
        def train(parameters: Any, images: Any, one_hot: Any, batches: Any) -> Any:
            def step(parameters: Any, indices: Any) -> tuple[Any, None]:
                x = images[indices].astype(jnp.float32) * PIXEL_SCALE
                gradients = jax.grad(cost)(parameters, x, one_hot[indices])
                return jax.tree.map(lambda p, g: p - problem.lr * g, parameters, gradients), None

            return jax.lax.scan(step, parameters, batches)[0]

        self.train = train
        self.load()

    def load(self) -> None:
        put = self.jax.numpy.array
        self.weights = [
            (put(w.cpu().numpy()), put(b.cpu().numpy())) for w, b in self.problem.weights
        ]
        self.jax.block_until_ready(self.weights)

    def run(self) -> None:
        self.weights = self.train(self.weights, self.images, self.one_hot, self.batches)
        self.jax.block_until_ready(self.weights)

    def parameters(self) -> Parameters:
        return [(np.asarray(w), np.asarray(b)) for w, b in self.weights]


class ScikitLearn(Contender):
    """MLPRegressor.partial_fit: one pass over inputs that are already gathered and scaled."""

    name = "scikit-learn"

    def __init__(self, problem: Problem) -> None:
        if problem.device.type != "cpu":
            raise Skipped("runs on the CPU")
        super().__init__(problem)
        if not problem.configuration.linear:
            raise Skipped(
                "has no squared error on a sigmoid output: see the configurations ending in :linear"
            )
        from sklearn.neural_network import MLPRegressor

        *_, n_out = sizes = problem.configuration.sizes
        order = problem.order.cpu().numpy()
        self.x = problem.images.cpu().numpy()[order] * np.float32(PIXEL_SCALE)
        self.y = problem.one_hot.cpu().numpy()[order]
        self.network: Any = MLPRegressor(
            hidden_layer_sizes=sizes[1:-1],
            activation="logistic",
            solver="sgd",
            alpha=0.0,
            batch_size=problem.configuration.batch,
            learning_rate_init=problem.lr * 2 / n_out,  # its cost is ½ Σ (a − y)² / m
            momentum=0.0,
            nesterovs_momentum=False,
            shuffle=False,
        )
        self.network.partial_fit(
            self.x[: problem.configuration.batch], self.y[: problem.configuration.batch]
        )
        self.load()

    def load(self) -> None:
        for i, (weight, bias) in enumerate(self.problem.weights):
            self.network.coefs_[i][...] = weight.cpu().numpy().T
            self.network.intercepts_[i][...] = bias.cpu().numpy()

    def run(self) -> None:
        self.network.partial_fit(self.x, self.y)

    def parameters(self) -> Parameters:
        return [
            (w.T, b) for w, b in zip(self.network.coefs_, self.network.intercepts_, strict=True)
        ]
