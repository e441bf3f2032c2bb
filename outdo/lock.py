"""One process per run folder: a lock file that names its holder and dies with it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from outdo.errors import UserError

FILE = ".lock"


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process. Raises UserError if another living process holds it.

    The kernel lets go of the lock when its holder dies, however it dies: a file left behind by a dead process is no
    obstacle, and a process that happens to have got the dead one's number is none either.
    """
    file = folder / FILE
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
                            "interrupt it and go on with --resume") from None
        # The holder before us deletes the file before it lets go: then this handle locks a file without a name.
        if file.exists() and os.fstat(handle).st_ino == file.stat().st_ino:
            break
        os.close(handle)
    os.ftruncate(handle, 0)
    os.write(handle, f"{os.getpid()}\n".encode())
    return handle
