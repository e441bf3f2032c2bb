"""A function in a process of its own, which can be ended: no time limit inside a process holds for arithmetic on huge numbers."""

from __future__ import annotations

import json
import os
import resource
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import IO, Any

from outdo.errors import UserError

_MEMORY_BYTES = 4 << 30
_START_S = 60.0  # imports included


class TimedOut(Exception):
    """The function took longer than it may, or ended its process. The next question goes to a fresh one."""


class Worker:
    """`python -m module` that answers each line of JSON with one. Started at the first question."""

    def __init__(self, module: str) -> None:
        self.module, self.command = module, [sys.executable, "-m", module]
        self._process: subprocess.Popen[bytes] | None = None
        self._said: IO[bytes] | None = None  # its warnings, in a file: a pipe that nobody reads would fill, and stop it

    def ask(self, question: Any, timeout_s: float) -> Any:
        """The answer. Raises TimedOut, and UserError if the module cannot start."""
        if self._process is None or self._process.poll() is not None:
            self._start()
        process = self._process
        assert process is not None and process.stdin is not None
        try:
            process.stdin.write(json.dumps(question).encode() + b"\n")
            process.stdin.flush()
            return json.loads(self._line(timeout_s))
        except (TimedOut, OSError, ValueError):
            self.close()
            raise TimedOut from None

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
        if self._said is not None:
            self._said.close()
            self._said = None

    def _start(self) -> None:
        self.close()
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
        self._process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                         stderr=self._said, start_new_session=True)
        try:
            self._line(_START_S)
        except TimedOut:
            self._said.seek(0)
            said = self._said.read().decode(errors="replace").strip().splitlines()
            self.close()
            raise UserError(f"{self.module} cannot start ({said[-1] if said else 'it says nothing'})") from None

    def _line(self, timeout_s: float) -> bytes:
        assert self._process is not None and self._process.stdout is not None
        pipe, out = self._process.stdout.fileno(), b""
        while not out.endswith(b"\n"):
            if not select.select([pipe], [], [], timeout_s)[0] or not (more := os.read(pipe, 1 << 16)):
                raise TimedOut
            out += more
        return out

    def __del__(self) -> None:
        self.close()


def serve(answer: Callable[[Any], Any]) -> None:
    """The worker's side: answer lines of stdin until it closes. The process may fill 4 GiB of memory."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    print("ready", file=out, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=out, flush=True)
