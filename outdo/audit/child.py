"""The process of the reward under audit: it loads the reward, scores cases and says what else that did.

Forked from the auditor, so that functions made in a notebook can be audited. What the reward does ends with this process: it has
no network, limited memory and files, an empty folder of its own, and writes its answers to a pipe that its prints do not reach.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import random
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from outdo.audit import scorer as scorers
from outdo.audit.base import Case
from outdo.errors import UserError

_NEW_USER, _NEW_NET = 0x10000000, 0x40000000
_HERE = Path(__file__).parent
_OURS = (
    str(_HERE.parent / "judges"),
    *(str(_HERE / f) for f in ("child.py", "scorer.py", "host.py", "base.py")),
)  # not the reward


def serve(load: Callable[[], Any], jobs: TextIO, answers: TextIO, memory_bytes: int, offline: bool) -> None:
    """Answer jobs until there are no more. The first answer says how the reward is called, or why it is not."""
    _confine(memory_bytes, offline)

    def say(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    try:
        scorer = scorers.scorer(load())
    except UserError as e:
        say({"refused": str(e)})
        return
    except BaseException as e:
        say({"refused": f"it cannot be loaded ({type(e).__name__}: {e})"})
        return
    say({"name": scorer.name, "style": scorer.style, "batched": scorer.batched, "grouped": scorer.grouped})
    for line in jobs:
        job = json.loads(line)
        cases = [Case(**c) for c in job["cases"]]
        if job["how"] == "together":
            say({"results": _together(scorer, cases)})
        elif job["how"] == "thread":
            say({"results": _in_thread(scorer, cases)})
        else:
            for case in cases:
                say(_alone(scorer, case, job["how"]))


def _confine(memory_bytes: int, offline: bool) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    sys.stdin, sys.stdout, sys.stderr = (open(os.devnull, m, encoding="utf-8") for m in ("r", "w", "w"))  # noqa: SIM115
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGURG):
        signal.signal(number, signal.SIG_DFL)
    os.setsid()
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(1)  # the threads of the process that this one was forked from are not here
    if offline:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.unshare(_NEW_NET if os.geteuid() == 0 else _NEW_USER | _NEW_NET)
        socket.socket.connect = _refuse  # type: ignore[method-assign]
        socket.create_connection = _refuse  # type: ignore[assignment]
    held = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + memory_bytes,) * 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 28,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.path.insert(0, os.getcwd())


def _refuse(*_: Any, **__: Any) -> None:
    raise OSError("the reward is audited without a network")


def _alone(scorer: scorers.Scorer, case: Case, how: str) -> dict[str, Any]:
    """One case by itself. how: alone, watched (what it changes), traced (exceptions that it swallows)."""
    before = _state(case) if how == "watched" else {}
    raised: list[str] = []
    began = time.perf_counter()
    try:
        with _tracing(raised) if how == "traced" else contextlib.nullcontext():
            (given,) = scorer.values([case])
        value, error = scorers.number(given)
        error = error or (scorer.why(case) if value is None else "")
    except BaseException as e:
        value, error = None, f"raised {type(e).__name__}: {e}"[:300]
    seconds = time.perf_counter() - began
    changed = [k for k, v in _state(case).items() if before[k] != v] if how == "watched" else []
    return {"value": value, "error": error, "raised": raised, "changed": changed, "seconds": seconds, "parts": scorer.parts(case)}


def _together(scorer: scorers.Scorer, cases: Sequence[Case]) -> list[dict[str, Any]]:
    try:
        return [{"value": v, "error": e} for v, e in map(scorers.number, scorer.values(cases))]
    except BaseException as e:
        return [{"value": None, "error": f"raised {type(e).__name__}: {e}"[:300]}] * len(cases)


def _in_thread(scorer: scorers.Scorer, cases: Sequence[Case]) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: out.extend(_alone(scorer, c, "alone") for c in cases))
    thread.start()
    thread.join()
    return out


@contextlib.contextmanager
def _tracing(raised: list[str]) -> Iterator[None]:
    """Collects exceptions that pass through code that is neither Python's nor a library's."""

    def trace(frame: Any, event: str, arg: Any) -> Any:
        file = frame.f_code.co_filename
        if (
            event == "exception"
            and not file.startswith(_OURS)
            and not any(p in file for p in ("site-packages", "/lib/python", "<frozen"))
        ):
            kind = arg[0].__name__
            if kind not in ("StopIteration", "GeneratorExit"):
                raised.append(f"{kind} in {frame.f_code.co_name}, line {frame.f_lineno}")
        return trace

    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(None)


def _state(case: Case) -> dict[str, Any]:
    """What a reward must leave as it was, by name."""
    out: dict[str, Any] = {
        "its arguments": json.dumps(case.record(), sort_keys=True, default=str),
        "random's generator": hash(random.getstate()),
        "numpy's generator": np.random.get_state()[1].tobytes() + bytes([np.random.get_state()[2] % 256]),  # type: ignore[index]
        "the current folder": os.getcwd(),
        "environment variables": hash(frozenset(os.environ.items())),
        "files in the current folder": tuple(sorted(os.listdir("."))),
        "open files": len(os.listdir("/proc/self/fd")),
    }
    if "torch" in sys.modules:
        import torch

        out["torch's generator"] = hash(torch.get_rng_state().numpy().tobytes())
    return out
