"""`outdo` as its users meet it: a process with arguments, an exit code and two streams. Imported as `processes`.

`outdo(...)` starts `python -m outdo`. `start(...)` and `forked(...)` do the same from a process that has the imports
behind it (tests/zygote.py): a second instead of six.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TINY = Path(__file__).with_name("tiny.toml")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "140", "OUTDO_DEBUG": ""}
SCRATCH = Path(tempfile.mkdtemp(prefix="outdo-tests-"))
atexit.register(shutil.rmtree, SCRATCH, ignore_errors=True)


@dataclass(frozen=True)
class Ended:
    """A process that is over. code: minus the signal if one ended it."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Running:
    """A forked outdo."""

    pid: int
    streams: Path

    def wait(self) -> Ended:
        code = _ask({"wait": self.pid})
        return Ended(code, *((self.streams / name).read_text(encoding="utf-8") for name in ("out", "err")))


def outdo(*argv: object, cwd: Path, **environment: str) -> Ended:
    """`python -m outdo argv...`, from the first import on."""
    command = [sys.executable, "-m", "outdo", *map(str, argv)]
    variables = {**ENVIRONMENT, **environment}
    done = subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, timeout=120)
    return Ended(done.returncode, done.stdout, done.stderr)


def start(*argv: object, cwd: Path, kill: tuple[str, int] | tuple[str, int, int] | None = None,
          file_bytes: int | None = None) -> Running:  # fmt: skip
    """outdo argv... beside the test. kill: ("part of a path", n) dies before the n-th writing file operation there, or
    gets the signal that is given third. file_bytes: no file may grow larger, as on a disk that is full."""
    streams = Path(tempfile.mkdtemp(dir=SCRATCH))
    (streams / "out").touch()
    job = {"argv": [str(a) for a in argv], "cwd": str(cwd), "out": str(streams / "out"), "err": str(streams / "err"),
           "kill": kill and [*map(str, kill[:1]), *map(int, kill[1:])], "file_bytes": file_bytes}  # fmt: skip
    return Running(_ask(job), streams)


def forked(*argv: object, cwd: Path, kill: tuple[str, int] | tuple[str, int, int] | None = None,
           file_bytes: int | None = None) -> Ended:  # fmt: skip
    """outdo argv... until it ends."""
    return start(*argv, cwd=cwd, kill=kill, file_bytes=file_bytes).wait()


@functools.cache
def _zygote() -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, str(Path(__file__).with_name("zygote.py"))], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)  # fmt: skip

    atexit.register(process.wait)
    atexit.register(process.kill)
    return process


def _ask(job: dict[str, Any]) -> int:
    z = _zygote()
    assert z.stdin is not None and z.stdout is not None
    z.stdin.write(json.dumps(job) + "\n")
    z.stdin.flush()
    return int(z.stdout.readline())


@functools.cache
def reference(seed: int = 0) -> Path:
    """The folder of a tiny run that nobody disturbed. Do not write into it."""
    folder = SCRATCH / f"reference-{seed}"
    done = forked("run", TINY, "--out", folder, "--seed", seed, cwd=SCRATCH)
    assert done.code == 0, done.err
    return folder


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.002)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def files_below(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))
