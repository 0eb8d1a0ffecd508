"""The plan of a default run on MNIST, for tests to change with `dataclasses.replace`."""

from __future__ import annotations

from manual_bp.training.plan import Plan

PLAN = Plan(
    dataset="mnist",
    data_dir=None,
    data_fingerprint="0" * 64,
    shape=(28, 28),
    classes=tuple("0123456789"),
    augment=False,
    sizes=(784, 128, 10),
    output="sigmoid",
    init="pytorch",
    init_epsilon=0.1,
    cost="half_per_example",
    epochs=10,
    batch_size=10,
    batch_size_asked=None,
    steps=5000,
    lr=3.0,
    lr_schedule="cosine",
    momentum=0.0,
    weight_decay=0.0,
    impl="manual",
    engine="autograd",
    device="cpu",
    device_asked="auto",
    dtype="float32",
    amp="off",
    compile=False,
    deterministic=False,
    threads=1,
    threads_asked=None,
    processes=1,
    seed=0,
    histograms=0,
)
