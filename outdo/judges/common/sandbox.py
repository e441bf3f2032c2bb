"""Runs a candidate's code in namespaces of its own: no network, no files but the system's libraries, limits on the rest.

Right answers stay here: the sandbox gives back what the code printed or returned, and the caller compares. So nothing that the
code can do to its own process (patch builtins, read frames, write to the pipe, claim to be equal to anything) tells it more or
counts for it. Linux only: `unshare` of util-linux makes the namespaces, as root or where users may make their own.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_CHILD = Path(__file__).with_name("sandbox_child.py")
_FIRST_UID = 60_000  # one for each slot, so that limits on processes are its own
_SPARE_S = 5.0  # for starting Python, beside the candidate's time


@dataclass(frozen=True)
class Limits:
    """Of one candidate with all of its tests."""

    timeout_s: float = 10.0  # all tests together
    test_s: float = 4.0  # one test of a program
    memory_bytes: int = 1 << 30
    file_bytes: int = 1 << 24  # largest file that it may write
    output_bytes: int = 1 << 20
    processes: int = 16


class Broken(Exception):
    """The sandbox itself could not start."""


def run(code: str, tests: list[dict[str, Any]], function: str | None, limits: Limits, slot: int = 0,
        isolated: bool = True, packages: bool = False) -> list[dict[str, Any]]:
    """One answer for each test: {"value"}, {"printed"} or {"error": why}. Raises Broken.

    tests: {"input"} for programs, {"arguments"} for `function`, {"expression"} of the candidate's names. packages: the code may
    import what is installed beside outdo.
    """
    root = tempfile.mkdtemp(prefix="outdo-sandbox-")
    keep = [p for p in ("/usr", "/lib", "/lib64", "/bin", sys.base_prefix) if os.path.exists(p)]
    site = [sysconfig.get_paths()["purelib"]] if packages else []
    job = {"code": code, "tests": tests, "function": function, "expressions": any("expression" in t for t in tests),
           **vars(limits), "uid": _FIRST_UID + slot if os.geteuid() == 0 else None, "root": root if isolated else None,
           "keep": [*keep, *site], "path": site}
    process = subprocess.Popen([*(_namespaces() if isolated else ()), os.path.realpath(sys.executable), "-I", "-S", str(_CHILD)],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
                               cwd=root, env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"})
    try:
        answers, why = _answers(process, json.dumps(job).encode(), limits, len(tests))
    finally:
        _kill(process.pid)
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        shutil.rmtree(root, ignore_errors=True)
    return [*answers, *({"error": why} for _ in range(len(tests) - len(answers)))]


def _answers(process: subprocess.Popen[bytes], job: bytes, limits: Limits, wanted: int) -> tuple[list[dict[str, Any]], str]:
    """What the sandbox says until it is done, out of time or says too much; and why the rest is missing."""
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    end, out = time.monotonic() + _SPARE_S + limits.timeout_s, b""
    with contextlib.suppress(OSError):  # it says why below
        process.stdin.write(job)
        process.stdin.close()
    pipe, why = process.stdout.fileno(), "it ended the process"
    while out.count(b"\n") <= wanted:
        left = end - time.monotonic()
        if left <= 0 or not select.select([pipe], [], [], left)[0]:
            why = "out of time"
            break
        more = os.read(pipe, 1 << 16)
        if not more:
            break
        if not out:  # it is ready: from here on the candidate's own time counts
            end = time.monotonic() + limits.timeout_s
        out += more
        if len(out) > 4 * limits.output_bytes:
            why = "too much output"
            break
    lines = out.split(b"\n")[:-1]
    if not lines:
        process.kill()
        said = process.stderr.read(2000).decode(errors="replace").strip().splitlines()
        raise Broken(said[-1] if said else why)
    answers: list[dict[str, Any]] = []
    for line in lines[1 : wanted + 1]:
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            return answers, "it wrote to the pipe of its answers"
        if not isinstance(answer, dict) or "stopped" in answer:
            return answers, str(answer.get("stopped", why)) if isinstance(answer, dict) else why
        answers.append(answer)
    return answers, why


def _kill(pid: int) -> None:
    """End a process, its group, and the first process of the namespace that it made: everything in there ends with that one."""
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split():
            os.kill(int(child), signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _namespaces() -> list[str]:
    """The command that starts another in namespaces of its own; when it ends, so does everything in them."""
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return ["unshare", *user, "--net", "--ipc", "--pid", "--mount", "--fork", "--kill-child=SIGKILL"]


@functools.cache
def available() -> str:
    """Empty if code can be isolated here; else why not."""
    if sys.platform != "linux" or shutil.which("unshare") is None:
        return "it takes Linux and unshare (Debian: util-linux)"
    try:
        answer = run("def f(): return 1", [{"arguments": []}], "f", Limits())
    except Broken as e:
        return f"this machine does not let processes have namespaces of their own ({e})"
    return "" if answer == [{"value": 1}] else f"a first try gave {answer}"
