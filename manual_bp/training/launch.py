"""From flags to a run that is ready: checkpoint, device, processes, data, plan."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from manual_bp.escape import escaped
from manual_bp.training import checkpoint, data, machine, terminal, world
from manual_bp.training.options import Options
from manual_bp.training.plan import settle
from manual_bp.training.run import Run
from manual_bp.training.run_folder import RunFolder


def prepare(options: Options, given: set[str], stack: ExitStack) -> Run:
    """The run that the flags describe, new or resumed; it is introduced on the terminal.

    Args:
        options: the flags.
        given: the names of those that were given rather than left to their default.
        stack: when it is closed, device, processes and torch's settings are given back.

    Raises:
        UserError: the run cannot be had; the message says why and what to do.
    """
    saved = folder = None
    if options.resume is not None:
        path = checkpoint.find(options.resume, Path(options.logdir))
        folder = RunFolder(path.parent)
        if world.may_write() and not options.dry_run:
            # Before the checkpoint is read: nobody moves the run on after that.
            folder.take()
            stack.callback(folder.release)
        saved = checkpoint.read(path)
        options = saved.plan.resumed(options, given, saved.path)
    device, why = machine.choose_device(options.device)
    stack.enter_context(machine.current(device))
    processes = stack.enter_context(world.join(device))
    if not processes.writes:
        processes.wait()  # for the one that writes, which may have to download the data
        if saved is not None:  # as that one has read it
            saved = checkpoint.read(saved.path)
    if saved is None:
        dataset = data.load(options.dataset, options.data_dir)
    else:
        given_dir = options.data_dir if "data_dir" in given else None
        dataset = data.load_again(saved.path, options.dataset, saved.plan.data_dir, given_dir)
    if processes.writes:
        processes.wait()
    plan = settle(options, dataset, device, processes, None if saved is None else saved.plan)
    stack.enter_context(machine.configured(plan.threads, plan.deterministic))
    run = Run(plan, dataset, processes, saved, folder)
    if processes.writes:
        before = () if saved is None else (saved.plan, saved.epoch)
        lines = terminal.introduction(plan, dataset, why, *before)
        print("\n".join(map(escaped, lines)), flush=True)
    return run
