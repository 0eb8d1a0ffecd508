"""The formats of `manual-bp export`: each file is written, read again and compared."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from manual_bp.training.errors import UserError
from manual_bp.twins import to_torch

_NEEDS = {"onnx": ("onnx", "onnxscript"), "safetensors": ("safetensors",)}
_TOLERANCE = 1e-5  # between two programs' activations in float32

Network = Callable[[Tensor], Tensor]


def write(model: nn.Sequential, path: Path, form: str) -> float:
    """Write a network of Linear and Sigmoid layers as torch.nn's layers, and read it again.

    Args:
        model: the network, with an input (m, n_in); it is left as it is.
        path: the file, which must not be there yet.
        form: "onnx", "pt2", "safetensors" or "torch".

    Returns:
        The largest difference between the activations of the file's network and the model's.

    Raises:
        UserError: the file is there, a package is missing, or the file read again computes
            something else; then no file is left.
    """
    missing = [name for name in _NEEDS.get(form, ()) if importlib.util.find_spec(name) is None]
    if missing:
        names = " ".join(missing)
        raise UserError(f"the format {form} needs {names}: pip install {names}")
    if path.exists():
        raise UserError(f"{path} exists already: name another file with --out")
    plain = to_torch(copy.deepcopy(model)).eval()
    weight = next(plain.parameters())
    x = torch.rand(16, weight.shape[1], generator=torch.Generator().manual_seed(0)).to(weight)
    to_file, from_file = _WAYS[form]
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
            beside = Path(folder) / path.name
            with _quiet(), torch.no_grad():
                to_file(plain, x, beside)
                difference = float((from_file(plain, beside)(x) - model(x)).abs().max())
            if not difference <= _TOLERANCE:
                raise UserError(
                    f"{path}: not written: read again, the activations differ by {difference:.3g} "
                    f"from the trained network's"
                )
            beside.rename(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error
    return difference


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Exporters warn about their own insides, which concerns nobody who exports."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _any_batch() -> Any:
    """Says that the first dimension of the one input, m, may be any number."""
    return ({0: torch.export.Dim("m", min=1)},)


def _write_onnx(model: nn.Sequential, x: Tensor, path: Path) -> None:
    torch.onnx.export(
        model,
        (x,),
        path,
        dynamo=True,
        external_data=False,
        verbose=False,
        input_names=["x"],
        output_names=["a"],
        dynamic_shapes=_any_batch(),
    )


def _read_onnx(_: nn.Sequential, path: Path) -> Network:
    import onnx
    from onnx.reference import ReferenceEvaluator

    onnx.checker.check_model(onnx.load(path))
    evaluator = ReferenceEvaluator(str(path))
    run: Callable[..., Any] = evaluator.run
    return lambda x: torch.from_numpy(run(["a"], {"x": x.numpy()})[0])


def _write_pt2(model: nn.Sequential, x: Tensor, path: Path) -> None:
    torch.export.save(torch.export.export(model, (x,), dynamic_shapes=_any_batch()), path)


def _read_pt2(_: nn.Sequential, path: Path) -> Network:
    program: Network = torch.export.load(path).module()
    return program


def _write_safetensors(model: nn.Sequential, _: Tensor, path: Path) -> None:
    from safetensors.torch import save_file

    save_file(model.state_dict(), path)


def _read_safetensors(model: nn.Sequential, path: Path) -> Network:
    from safetensors.torch import load_file

    return _with_weights(model, load_file(path))


def _write_torch(model: nn.Sequential, _: Tensor, path: Path) -> None:
    torch.save(model.state_dict(), path)


def _read_torch(model: nn.Sequential, path: Path) -> Network:
    return _with_weights(model, torch.load(path, weights_only=True))


def _with_weights(model: nn.Sequential, state: dict[str, Tensor]) -> Network:
    """A network of the same layers whose weights come from the file alone."""
    other = copy.deepcopy(model)
    for parameter in other.parameters():
        parameter.zero_()
    other.load_state_dict(state)
    return other


_WAYS: dict[str, tuple[Callable[..., None], Callable[..., Network]]] = {
    "onnx": (_write_onnx, _read_onnx),
    "pt2": (_write_pt2, _read_pt2),
    "safetensors": (_write_safetensors, _read_safetensors),
    "torch": (_write_torch, _read_torch),
}
