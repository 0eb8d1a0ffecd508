"""A run's folder, its alone: config.json, metrics.jsonl, checkpoint.pt, look.html, summary.png."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch

from manual_bp.training.errors import UserError, taken

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_FILES = ("config.json", "metrics.jsonl", "checkpoint.pt", "look.html", "summary.png")


class RunFolder:
    """`logdir/name`, made by `create` or found again by its path."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._metrics = _Written()
        self._lock: int | None = None
        self._identity: tuple[int, int] | None = None  # of the folder that was taken

    def take(self) -> None:
        """Make this process the one that writes the run, until `release`, and clear away what a
        killed one left.

        Raises:
            UserError: another process writes it.
        """
        if self._lock is not None:
            return
        with contextlib.suppress(OSError):  # gone, which the first write says
            self._identity = _identity(self.path)
        if fcntl is not None:
            try:
                self._lock = _locked(self.path)
            except BlockingIOError as error:
                self.release()
                raise UserError(
                    f"{self.path}: another process is writing this run: wait for it, or start a "
                    f"new run"
                ) from error
            except OSError:  # gone, which the first write says, or a file system without locks
                self.release()
        for name in _FILES:
            for half in self.path.glob(f".{name}-*"):
                half.unlink(missing_ok=True)

    @property
    def is_complete(self) -> bool:
        """Whether summary.png, the last thing a run writes, was written after all its metrics."""
        try:
            return (self.path / "summary.png").stat().st_mtime_ns >= (
                self.path / "metrics.jsonl"
            ).stat().st_mtime_ns
        except OSError:
            return False

    def release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @classmethod
    def create(
        cls,
        logdir: Path,
        name: str | None,
        default: str,
        config: dict[str, Any],
        state: dict[str, Any],
    ) -> RunFolder:
        """Make the folder with its configuration and first checkpoint, all at once: it is there
        whole, or not at all.

        Without a name it is called `default`, with a number behind if that is taken.

        Raises:
            UserError: a run of the given name is there already, or the folder cannot be made.
        """
        base = name or default
        beside = mine = None
        try:
            logdir.mkdir(parents=True, exist_ok=True)
            beside = logdir / f".new-{secrets.token_hex(8)}"
            mine = _make_alone(beside)
            new = cls(beside)
            new.write_config(config)
            new.write_checkpoint(state)
            for attempt in range(1000):
                path = logdir / (base if attempt == 0 else f"{base}-{attempt + 1}")
                if not os.path.lexists(path):
                    try:
                        os.rename(beside, path)
                        return cls(path)
                    except OSError as error:
                        # Either: taken since the line above.
                        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                            raise
                if name is not None:
                    raise taken(path)
            raise UserError(
                f"{logdir / base} and a thousand numbered names are taken: choose a --run-name"
            )
        except (FileExistsError, NotADirectoryError) as error:
            raise UserError(f"{logdir} is not a folder: choose another --logdir") from error
        except (OSError, ValueError) as error:  # a ValueError for a name with a null character
            reason = error.strerror if isinstance(error, OSError) else error
            raise UserError(
                f"no run can be made in {str(logdir)!r} ({reason}): choose another --logdir"
            ) from error
        finally:
            if beside is not None:
                shutil.rmtree(beside, ignore_errors=True)
            if mine is not None:
                os.close(mine)

    def write_config(self, config: dict[str, Any]) -> None:
        with self._replacing("config.json") as file:
            file.write((json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode())

    def write_metrics(self, rows: list[dict[str, Any]]) -> None:
        """Write metrics.jsonl: one JSON object a line; NaN and infinities become null, for strict
        readers.

        New rows are added to the file that the last call left. Where that is not what is there, as
        in a new process, the whole file is written anew: a line that was cut short goes.

        Args:
            rows: those of the last call, and new ones behind them.
        """
        self.check()
        path, before = self.path / "metrics.jsonl", self._metrics
        # Not durable: the checkpoint holds the rows too, and decides which of them count.
        goes_on = before.rows > 0 and before.is_at(path)
        if not (goes_on and _append(path, b"".join(map(_line, rows[before.rows :])))):
            with self._replacing("metrics.jsonl", durable=False) as file:
                file.writelines(map(_line, rows))
        self._metrics = _Written(len(rows), _state(path))

    def write_checkpoint(self, state: dict[str, Any]) -> None:
        whole = io.BytesIO()  # on a full disk torch.save would speak of positions in a file
        torch.save(state, whole)
        with self._replacing("checkpoint.pt") as file:
            file.write(whole.getbuffer())

    def write_summary(self, png: bytes) -> None:
        with self._replacing("summary.png") as file:
            file.write(png)

    def write_look(self, page: str) -> None:
        with self._replacing("look.html", durable=False) as file:  # `manual-bp look` makes it again
            file.write(page.encode())

    @contextlib.contextmanager
    def _replacing(self, name: str, durable: bool = True) -> Iterator[BinaryIO]:
        """Write beside and rename: at any moment the file is the old one or the new one, and whole.

        If `durable`, also after a loss of power: waiting for the disk takes as long as training for
        some steps.
        """
        self.check()
        beside = None
        try:
            half = self.path / f".{name}-{secrets.token_hex(8)}"
            with open(half, "xb") as file:  # with the mode that umask leaves
                beside = half
                yield file
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            os.replace(beside, self.path / name)
        except BaseException as error:  # Ctrl-C too
            if beside is not None:
                beside.unlink(missing_ok=True)
            if not isinstance(error, OSError):
                raise
            raise UserError(
                f"{self.path / name} cannot be written ({error.strerror or error}): what was "
                f"written before is intact; make room, and continue with --resume {self.path}"
            ) from error

    def check(self) -> None:
        """Look whether the folder is there, and is the one that the run began in.

        Raises:
            UserError: it is not: nothing may be written into it.
        """
        if not self.path.is_dir():
            raise UserError(
                f"{self.path} is gone: the run cannot be saved; start it again with --run-name"
            )
        if self._identity not in (None, _identity(self.path)):
            raise UserError(
                f"{self.path} is another folder than this run began in: nothing is written into "
                f"it; move it away, and start the run again with --run-name"
            )


class _Written(NamedTuple):
    """What this process wrote of a file: so many rows, and what the file was like afterwards."""

    rows: int = 0
    state: tuple[int, int, int] | None = None

    def is_at(self, path: Path) -> bool:
        return self.state is not None and self.state == _state(path)


def _state(path: Path) -> tuple[int, int, int] | None:
    """Which file this is, and how long; None if it is no file."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_size) if stat.S_ISREG(found.st_mode) else None


def _append(path: Path, content: bytes) -> bool:
    """Add `content` to a file. Where that cannot be done, the file is left as it was."""
    try:
        with open(path, "ab", buffering=0) as file:
            size = file.tell()
            if file.write(content) == len(content):
                return True
            file.truncate(size)
    except OSError:
        pass
    return False


def _line(row: dict[str, Any]) -> bytes:
    return (json.dumps({key: _finite(value) for key, value in row.items()}) + "\n").encode()


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def _locked(folder: Path) -> int:
    """A descriptor that holds the lock of `folder` until it is closed, or its process ends.

    Raises:
        BlockingIOError: another has it.
        OSError: the folder is gone, or its file system has no locks.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _make_alone(beside: Path) -> int | None:
    """Make the folder `beside` and hold its lock; clear away those of processes that have died.

    The log folder is locked meanwhile. So a folder that nobody holds has nobody who makes it.
    """
    if fcntl is None:
        beside.mkdir()
        return None
    logdir = os.open(beside.parent, os.O_RDONLY)
    try:
        try:
            fcntl.flock(logdir, fcntl.LOCK_EX)
        except OSError:  # a file system without locks
            beside.mkdir()
            return None
        for left in beside.parent.glob(".new-*"):
            with contextlib.suppress(OSError):  # somebody holds it
                os.close(_locked(left))
                shutil.rmtree(left, ignore_errors=True)
        beside.mkdir()
        return _locked(beside)
    finally:
        os.close(logdir)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and value - value != 0 else value
