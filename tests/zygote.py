"""A process that has imported everything and forks a fresh `outdo` on request: seconds of imports saved per test.

Reads one JSON job a line from stdin: {"argv", "cwd", "out", "err", "kill", "file_bytes"} starts `outdo argv...` and
answers with its pid; {"wait": pid} answers with its exit code (minus the signal that ended it). The client is
`tests/processes.py`.
"""

from __future__ import annotations

import faulthandler
import functools
import json
import math
import os
import resource
import signal
import sys
import time
import traceback
from typing import Any

PATIENCE_S = 120.0
_WRITES = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"}


def kill_at(under: str, n: int, number: int = signal.SIGKILL) -> None:
    """Get a signal just before the n-th writing file operation (1 is the first) on a path that contains `under`."""
    left = n

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal left
        if event not in _WRITES or not isinstance(args[0], str | os.PathLike) or under not in os.fspath(args[0]):
            return
        if event == "open" and not args[2] & (os.O_WRONLY | os.O_RDWR):
            return
        left -= 1
        if left == 0:
            os.kill(os.getpid(), number)

    sys.addaudithook(hook)


def become(job: dict[str, Any]) -> None:
    """In the forked child: be `outdo argv...`."""
    from outdo.cli.main import app_main

    os.chdir(job["cwd"])
    # A limit on file sizes is meant for the run folder: what is printed does not count.
    out = os.devnull if job["file_bytes"] else job["out"]
    for path, number in ((os.devnull, 0), (out, 1), (job["err"], 2)):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644), number)
    faulthandler.enable()
    sys.argv = ["outdo", *job["argv"]]
    if job["file_bytes"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["file_bytes"], job["file_bytes"]))
    if job["kill"]:
        kill_at(*job["kill"])
    code = 1
    try:
        app_main()
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else 1
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def wait(pid: int) -> int:
    """The child's exit code. One that hangs is made to say where and to end."""
    end = time.monotonic() + PATIENCE_S
    while (done := os.waitpid(pid, os.WNOHANG))[0] == 0:
        if time.monotonic() > end:
            os.kill(pid, signal.SIGABRT)
            end = math.inf
        time.sleep(0.005)
    return os.waitstatus_to_exitcode(done[1])


def main() -> None:
    import torch

    torch.set_num_threads(1)
    from outdo.cli import board, compare, evaluate, inspect, report, run  # noqa: F401
    from outdo.report import page
    from outdo.runs import plan, side_by_side  # noqa: F401
    from outdo.system import environment, machine, progress  # noqa: F401
    from outdo.tasks.chess.tables import tables

    for material in ("KRK", "KQK"):
        tables(material)
    # Half a second of each run: the machine is the same for all children.
    machine.gemm_peak_flops = functools.cache(machine.gemm_peak_flops)
    machine.copy_bandwidth = functools.cache(machine.copy_bandwidth)
    environment.describe(torch.float32, machine.CPU)
    for shares in (True, False):
        templates = page._templates(shares)
        for name in templates.list_templates(["jinja"]):
            templates.get_template(name)  # compiled once for all children
    for line in sys.stdin:
        job = json.loads(line)
        if "wait" in job:
            answer = wait(job["wait"])
        elif (answer := os.fork()) == 0:
            become(job)
        print(answer, flush=True)


if __name__ == "__main__":
    main()
