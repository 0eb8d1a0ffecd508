"""`Plan`: everything that a run decides before its first step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import torch

from manual_bp.training import machine
from manual_bp.training.archive import is_count, is_number, is_text, shown
from manual_bp.training.dataset import Dataset
from manual_bp.training.errors import UsageError, UserError
from manual_bp.training.options import LARGEST, MOST_THREADS, Options, restore
from manual_bp.training.recipe import learning_rate, recipe
from manual_bp.training.world import World

_MAY_CHANGE = {"epochs", "data_dir", "device", "threads", "histograms"}  # by --resume
_TUPLES = ("sizes", "shape", "classes")  # lists in a file
_WIDEST = 100_000_000  # of an image
_RANGES = {  # of a plan in a file
    "epochs": (0, LARGEST),
    "batch_size": (1, LARGEST),
    "steps": (1, LARGEST),
    "threads": (1, MOST_THREADS),
    "processes": (1, 100_000),
    "seed": (0, 2**63 - 1),
    "histograms": (0, LARGEST),
}
_BESIDE = {"logdir", "resume", "dry_run"}  # flags that say nothing of a plan


@dataclass(frozen=True)
class Plan:
    """Settled values: no flag is at "auto" or left to a default any more.

    config.json, the checkpoint, TensorBoard's pages and the terminal take a run's settings from
    here alone.
    """

    dataset: str  # "mnist", "fashion-mnist", "digits", or the path of other data
    data_dir: str | None
    data_fingerprint: str  # SHA-256 of images and labels
    shape: tuple[int, int]  # of an image: height and width
    classes: tuple[str, ...]  # their names
    augment: bool
    sizes: tuple[int, ...]  # the width of each layer, the input's first: (784, 128, 10)
    output: Literal["sigmoid", "linear"]
    init: str
    init_epsilon: float
    cost: str  # the `reduction` of mse_loss
    epochs: int
    batch_size: int  # of all processes together
    batch_size_asked: int | str | None  # --batch-size, of each process
    steps: int  # of an epoch
    lr: float
    lr_schedule: str
    momentum: float
    weight_decay: float
    impl: str
    engine: str  # "autograd" or "direct"
    device: str
    device_asked: str  # --device, which a resumed run asks again
    dtype: str
    amp: str
    compile: bool
    deterministic: bool
    threads: int
    threads_asked: int | None  # --threads, likewise
    processes: int
    seed: int
    histograms: int

    @property
    def network(self) -> str:
        """The layer widths as a name: "784-128-10"."""
        return "-".join(map(str, self.sizes))

    @property
    def run_name(self) -> str:
        """What a run is called that is given no name: "mnist-128-lr3-s0", "mnist-6x30-lr3-s0"."""
        widths = [(width, len(list(run))) for width, run in groupby(self.sizes[1:-1])]
        hidden = [f"{times}x{width}" if times > 1 else f"{width}" for width, times in widths]
        data = Path(self.dataset).stem.lstrip(".")[:60] or "data"
        return "-".join([data, *hidden, f"lr{self.lr:g}", f"s{self.seed}"])

    def rates(self, first: int, steps: int) -> list[float]:
        """η for each of the steps first, first + 1, …: η, or η ½(1 + cos(π k/K)) at step k of K."""
        last = max(1, self.epochs * self.steps)
        if self.lr_schedule == "constant":
            return [self.lr] * steps
        cosines = (math.cos(math.pi * k / last) for k in range(first, first + steps))
        return [self.lr * 0.5 * (1 + cosine) for cosine in cosines]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as config.json and the checkpoint keep them."""
        lists = {name: list(getattr(self, name)) for name in _TUPLES}
        return {**asdict(self), **lists}

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Plan:
        """The plan that `as_dict` made `values` of, checked as strictly as a command line.

        Raises:
            ValueError: no run has such a plan.
        """
        odd = {field.name for field in fields(cls)} ^ set(values)
        if odd:
            raise ValueError(f"{shown(min(map(str, odd)))} is missing or unknown")
        kinds: dict[str, str] = {field.name: str(field.type) for field in fields(cls)}
        for name, value in values.items():
            known = name not in _RANGES or is_count(value, *_RANGES[name])
            if not known or not _is(value, kinds[name]):
                raise ValueError(f"{name} {shown(value)}")
        sizes = values["sizes"]
        if len(sizes) < 2 or not all(is_count(n, 1, _WIDEST) for n in sizes):
            raise ValueError(f"sizes {shown(sizes)}")
        if values["dataset"] == "auto":
            raise ValueError("dataset 'auto'")
        if not _are(values["shape"], int, 2) or math.prod(values["shape"]) != sizes[0]:
            raise ValueError(f"shape {shown(values['shape'])}")
        if not _are(values["classes"], str, sizes[-1]):
            raise ValueError("classes that are not one name an output")
        plan = cls(**{**values, **{name: tuple(values[name]) for name in _TUPLES}})
        restored = vars(plan.options())
        for name, value in vars(plan).items():
            beside = name not in restored or f"{name}_asked" in values
            if not beside and (restored[name] != value or (value is None and name != "data_dir")):
                raise ValueError(f"{name} {shown(value)}")
        return plan

    def options(self) -> Options:
        """The flags that give this plan again.

        Raises:
            ValueError: there are none.
        """
        own = {name: value for name, value in vars(self).items() if hasattr(Options, name)}
        own |= {"device": self.device_asked, "threads": self.threads_asked}
        own |= {"batch_size": self.batch_size_asked, "hidden": self.sizes[1:-1]}
        return restore(own)

    def resumed(self, options: Options, given: set[str], path: Path) -> Options:
        """The flags that a resumed run goes on with: its own, and those that may change.

        Of the command line's `options` only those `given` there count; `path` is the checkpoint's.

        Raises:
            UserError: a flag that was given contradicts the run.
        """
        kept = self.options()
        for name in sorted(given - _MAY_CHANGE - _BESIDE):
            seen, saved = getattr(options, name), getattr(kept, name)
            if name == "run_name":
                saved = path.parent.name
            same = {"dataset": "auto", "batch_size": self.batch_size}.get(name, saved)
            if seen not in (saved, same):
                flag = "--" + name.replace("_", "-")
                raise UserError(
                    f"{path}: that run has {flag} {_shown(saved)}, the command line {flag} "
                    f"{_shown(seen)}: leave {flag} out to continue it, or start a new run without "
                    f"--resume"
                )
        changed = {name: getattr(options, name) for name in given & (_MAY_CHANGE | _BESIDE)}
        return replace(kept, **changed)


def settle(
    options: Options, dataset: Dataset, device: torch.device, world: World, saved: Plan | None
) -> Plan:
    """Decide what the flags leave open.

    A resumed run has a `saved` plan, and its `options` are those of `Plan.resumed`.

    Raises:
        UsageError: flags that contradict each other.
        UserError: a device that cannot do what was asked for.
    """
    _check(options, device, world)
    if options.augment and dataset.shape[0] != dataset.shape[1]:
        seen = " × ".join(map(str, dataset.shape))
        raise UsageError(f"--augment distorts square images, and these are {seen}: leave it out")
    defaults, examples = recipe(dataset.name, len(dataset.train)), len(dataset.train)
    asked = options.batch_size or defaults.batch_size
    # With several processes a batch is what all of them take together, whoever continues the run.
    batch_size = examples if asked == "full" else min(int(asked) * world.size, examples)
    batch_size = batch_size if saved is None else saved.batch_size
    n_in, n_out = math.prod(dataset.shape), len(dataset.classes)
    sizes = (n_in, *options.hidden, n_out)
    lr = options.lr or learning_rate(
        defaults, options.cost, sizes, options.output, batch_size, options.momentum
    )
    most = torch.finfo(getattr(torch, options.dtype)).max
    for flag, value in (("--lr", lr), ("--weight-decay", options.weight_decay)):
        if value > most:
            raise UsageError(f"{flag} {value:g}: {options.dtype} holds at most {most:.2g}")
    names = {field.name for field in fields(Plan)}
    flags = {name: value for name, value in vars(options).items() if name in names}
    settled = {
        "dataset": dataset.name,
        "data_fingerprint": dataset.fingerprint,
        "shape": dataset.shape,
        "classes": dataset.classes,
        "sizes": sizes,
        "epochs": defaults.epochs if options.epochs is None else options.epochs,
        "batch_size": batch_size,
        "batch_size_asked": options.batch_size,
        "steps": math.ceil(examples / batch_size),
        "lr": lr,
        "device": str(device),
        "device_asked": options.device,
        "threads": machine.choose_threads(options.threads, batch_size, sizes),
        "threads_asked": options.threads,
        "processes": world.size,
    }
    return Plan(**{**flags, **settled})


def _check(options: Options, device: torch.device, world: World) -> None:
    beside = {
        "--impl builtin": options.impl == "builtin",
        f"--amp {options.amp}": options.amp != "off",
        "--compile": options.compile,
        "several processes": world.size > 1,
    }
    for what, asked in beside.items():
        if options.engine == "direct" and asked:
            raise UsageError(f"--engine direct does not go with {what}: use --engine autograd")
    if device.type == "mps" and options.dtype == "float64":
        raise UserError(
            "--dtype float64 on mps: Apple's GPU has no float64; use float32, or --device cpu"
        )


def _is(value: Any, kind: str) -> bool:
    """Whether a value in a file is of the kind that the field is annotated with."""
    if kind.startswith("tuple"):
        return type(value) is list and all(is_text(v) or type(v) is int for v in value)
    if kind == "float":
        return is_number(value)
    if kind == "bool":
        return type(value) is bool
    if value is None:
        return kind.endswith("None")
    return (
        is_text(value)
        if kind.startswith(("str", "Literal"))
        else (type(value) is int or ("str" in kind and is_text(value)))
    )


def _are(values: Any, kind: type, count: int) -> bool:
    """Whether this is a list of so many values of a kind."""
    return type(values) is list and len(values) == count and all(type(v) is kind for v in values)


def _shown(value: Any) -> str:
    if value is None:
        return "at its default"
    if isinstance(value, float):
        return f"{value:g}"
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
