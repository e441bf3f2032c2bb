"""The auditor's side of the reward's process: sends cases, keeps to time, and goes on when the reward does not.

A case on which the reward hangs or ends its process gets a result that says so; the process is started again for the next one.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from outdo.audit import child
from outdo.audit.base import Case, Result
from outdo.errors import UserError

_START_S = 120.0  # for loading the reward: it may read a model


class Host:
    """score(cases) -> results. Use as a context manager."""

    def __init__(
        self, load: Callable[[], Any], timeout_s: float = 5.0, memory_bytes: int = 2 << 30, offline: bool = True
    ) -> None:
        self.load, self.timeout_s, self.memory_bytes, self.offline = load, timeout_s, memory_bytes, offline
        self.calls, self.restarts = 0, 0
        self.about: dict[str, Any] = {}
        self.folder = tempfile.mkdtemp(prefix="outdo-audit-")
        self._pid: int | None = None
        self._read, self._write, self._rest = -1, -1, b""
        self._start()

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def score(self, cases: Sequence[Case], how: str = "alone") -> list[Result]:
        """One result a case. how: alone, watched, traced (see `child`), together (one call), thread."""
        self.calls += len(cases)
        if how in ("together", "thread"):
            answer = self._ask(cases, how)
            if answer is None:
                return [Result(None, self._why)] * len(cases)
            return [_result(a) for a in answer["results"]] or [Result(None, "gave nothing")] * len(cases)
        out: list[Result] = []
        while len(out) < len(cases):
            left = cases[len(out) : len(out) + 200]
            first = self._ask(left, how)
            while first is not None:
                out.append(_result(first))
                left = left[1:]
                if not left:
                    break
                first = self._answer(self.timeout_s)
            if first is None:
                out.append(Result(None, self._why))
                self._stop()
                self.restarts += 1
                self._start()
        return out

    # --- the process --------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        (job_read, job_write), (answer_read, answer_write) = os.pipe(), os.pipe()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads: the child starts none of theirs
            pid = os.fork()
        if pid == 0:
            os.close(job_write)
            os.close(answer_read)
            status = 1
            try:
                jobs, answers = os.fdopen(job_read, encoding="utf-8"), os.fdopen(answer_write, "w", encoding="utf-8")
                child.serve(self.load, jobs, answers, self.memory_bytes, self.offline)
                status = 0
            except BaseException:
                pass
            finally:
                os._exit(status)
        os.close(job_read)
        os.close(answer_write)
        self._pid, self._read, self._write, self._rest = pid, answer_read, job_write, b""
        about = self._answer(_START_S)
        if about is None or "refused" in about:
            self._stop()
            raise UserError(f"the reward cannot be audited: {about['refused'] if about else self._why}")
        self.about = about

    def _stop(self) -> None:
        if self._pid is None:
            return
        for kill in (os.killpg, os.kill):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                kill(self._pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)
        os.close(self._read)
        os.close(self._write)
        self._pid = None

    def _ask(self, cases: Sequence[Case], how: str) -> dict[str, Any] | None:
        job = {"how": how, "cases": [vars(c) for c in cases]}
        data = (json.dumps(job, default=str) + "\n").encode()
        os.set_blocking(self._write, False)
        end = time.monotonic() + self.timeout_s + 10.0
        while data and time.monotonic() < end:
            if not select.select([], [self._write], [], 1.0)[1]:
                continue
            try:
                data = data[os.write(self._write, data[:65536]) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                break
        return self._answer(self.timeout_s * (1 if how in ("alone", "watched") else max(3, len(cases) // 10)))

    def _answer(self, limit_s: float) -> dict[str, Any] | None:
        """The next line from the process; None with the reason in `_why` if there is none in time."""
        end = time.monotonic() + limit_s
        while b"\n" not in self._rest:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self._read], [], [], left)[0]:
                self._why = f"out of time ({limit_s:g} s)"
                return None
            more = os.read(self._read, 1 << 16)
            if not more:
                self._why = "ended its process"
                return None
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\n")
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        self._why = "broke the channel of its answers"  # what it scored reached this process's own functions
        return found if isinstance(found, dict) else None

    _why = ""


def _result(a: dict[str, Any]) -> Result:
    raised, changed = tuple(a.get("raised", ())), tuple(a.get("changed", ()))
    return Result(a["value"], a.get("error", ""), raised, changed, a.get("seconds", 0.0), a.get("parts") or {})


def once(work: Callable[[], dict[str, Any]], timeout_s: float) -> dict[str, Any] | None:
    """What `work` gives, from a process of its own; {"error": why} if it raises or ends it, None if it takes longer."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            os.close(read)
            try:
                given = work()
            except BaseException as e:
                given = {"error": f"{type(e).__name__}: {e}"[:300]}
            os.write(write, json.dumps(given).encode())
        finally:
            os._exit(0)
    os.close(write)
    end, data = time.monotonic() + timeout_s, b""
    try:
        while (left := end - time.monotonic()) > 0 and select.select([read], [], [], left)[0]:
            more = os.read(read, 1 << 16)
            if not more:
                found: dict[str, Any] = json.loads(data) if data else {"error": "it ended its process"}
                return found
            data += more
        return None
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
        os.close(read)
