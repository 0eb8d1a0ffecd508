"""What is the caller's, and a function under check may change: put back as it was found.

One check at a time: torch's modes, its number of threads and Python's warning filters belong to the
whole process.
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

_one_check = threading.RLock()


@contextmanager
def kept(function: Any) -> Iterator[None]:
    """Run a check: with autograd on, no autocast and one thread; afterwards all is as before.

    In thousands of calls on small tensors a second thread only waits, and it makes sums differ in
    their last bits.
    """
    with _one_check, ExitStack() as stack:
        stack.callback(_restore, _seen(), _modes(function))
        numpy = sys.modules.get("numpy")
        if numpy is not None:
            stack.enter_context(numpy.errstate())
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # odd sizes are tried on purpose, and would warn
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.autocast("cpu", enabled=False))
        torch.set_num_threads(1)
        torch.autograd.set_detect_anomaly(False)
        torch.set_default_dtype(torch.float32)
        yield


def _seen() -> dict[str, Any]:
    return {
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn_only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "anomaly": torch.is_anomaly_enabled(),
        "check_nan": torch.is_anomaly_check_nan_enabled(),
        "grad": torch.is_grad_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "autocast_dtype": torch.get_autocast_dtype("cpu"),
        "cache": torch.is_autocast_cache_enabled(),
    }


def _modes(function: Any) -> list[tuple[nn.Module, bool]]:
    if not isinstance(function, nn.Module):
        return []
    return [(module, module.training) for module in function.modules()]


def _restore(seen: dict[str, Any], modes: list[tuple[nn.Module, bool]]) -> None:
    torch.set_num_threads(seen["threads"])
    torch.set_default_dtype(seen["dtype"])
    if torch.get_default_device() != seen["device"]:
        torch.set_default_device(seen["device"])
    now = _seen()
    if any(now[key] != seen[key] for key in ("deterministic", "warn_only")):
        # only then: it imports torch's compiler, and what a program has put in the place of modules
        torch.use_deterministic_algorithms(seen["deterministic"], warn_only=seen["warn_only"])
    torch.autograd.set_detect_anomaly(seen["anomaly"], seen["check_nan"])
    torch.set_grad_enabled(seen["grad"])
    torch.set_autocast_enabled("cpu", seen["autocast"])
    torch.set_autocast_dtype("cpu", seen["autocast_dtype"])
    torch.set_autocast_cache_enabled(seen["cache"])
    for module, training in modes:
        module.training = training
