"""A run folder's life: it begins with its first stage, belongs to one process at a time, and can be gone on with."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from outdo.errors import UserError

FILE = ".lock"
_NOTHING_KEPT = "interrupted before the first stage; nothing was kept"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Interrupted(Exception):
    """Ctrl-C, after everything was saved that could be. Its text says how to go on."""


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process. Raises UserError if another living process holds it.

    The kernel lets go of the lock when its holder dies, however it dies: a file left behind by a dead process is no
    obstacle, and a process that happens to have got the dead one's number is none either.
    """
    file = folder.absolute() / FILE
    handle = _acquire(file)
    try:
        yield
    finally:
        # Only while still holding it: after closing, the file may already be somebody else's.
        file.unlink(missing_ok=True)
        os.close(handle)


def _acquire(file: Path) -> int:
    while True:
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.read(handle, 20).decode().strip()
            os.close(handle)
            raise UserError(f"run folder {str(file.parent)!r} is in use by process {pid or 'unknown'}; wait for it, or "
                            "interrupt it and use --resume") from None
        # The holder before us deletes the file before it lets go: then this handle locks a file without a name.
        if file.exists() and os.fstat(handle).st_ino == file.stat().st_ino:
            break
        os.close(handle)
    os.set_inheritable(handle, True)  # a process that works for this one holds the folder, too, as long as it lives
    os.ftruncate(handle, 0)
    os.write(handle, f"{os.getpid()}\n".encode())
    return handle


@contextmanager
def new_folder(name: Callable[[], Path]) -> Iterator[Path]:
    """Make the run folder `name()`; a run that ends before its first stage begins leaves none behind."""
    made: Path | None = None
    try:
        while made is None:
            folder = name()
            missing = [p for p in folder.parents if not p.exists()]
            with _undisturbed(), suppress(FileExistsError):  # another process took the same free number
                folder.mkdir(parents=True)
                made = folder
        yield made
    except KeyboardInterrupt:  # before anybody else could say what it means
        if made is not None and (made / "stages").exists():
            raise
        raise Interrupted(_NOTHING_KEPT) from None
    finally:
        if made is not None and not (made / "stages").exists():
            shutil.rmtree(made, ignore_errors=True)
            for parent in missing:
                with suppress(OSError):
                    parent.rmdir()


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ctrl-C waits until this is over: a folder is made and known to be ours, or neither."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def endings(folder: Path, go_on: str = "outdo run --resume") -> Iterator[None]:
    """Say how to go on after Ctrl-C and after a full disk: `go_on` and the folder."""
    try:
        yield
    except (KeyboardInterrupt, OSError) as e:
        begun = (folder / "stages").exists()
        if isinstance(e, KeyboardInterrupt):
            raise Interrupted(f"interrupted; resume with: {go_on} {folder}" if begun else _NOTHING_KEPT) from None
        if e.errno not in _FULL:
            raise
        again = f"{go_on} {folder}" if begun else "start it again"
        raise UserError(f"disk full while writing to {folder}; free space, then {again}") from e
