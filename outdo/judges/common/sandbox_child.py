"""Runs a candidate's code inside the sandbox. Nothing here is trusted: what right answers are never comes in.

Started by `sandbox.run` as root of fresh namespaces, with one JSON job on stdin. It leaves the file system for an empty one,
takes limits, becomes a nobody, runs the code and writes one line of JSON for each test to the pipe that it was given. Imports
nothing but the standard library: it runs without outdo.
"""

from __future__ import annotations

import ast
import contextlib
import ctypes
import io
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

_MS_BIND, _MS_REC, _MS_PRIVATE, _MS_RDONLY, _MS_REMOUNT, _MNT_DETACH = 4096, 16384, 1 << 18, 1, 32, 2
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}


def leave(root: str, keep: Sequence[str]) -> None:
    """An empty file system with nothing but `keep`, read-only, and an empty /tmp."""
    libc = ctypes.CDLL(None, use_errno=True)

    def mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
        if libc.mount(source and source.encode(), target.encode(), kind and kind.encode(), flags, data and data.encode()):
            raise OSError(ctypes.get_errno(), f"mount {target}")

    mount(None, "/", None, _MS_REC | _MS_PRIVATE)
    mount("tmpfs", root, "tmpfs", 0, "size=64m,mode=755")
    for place in keep:
        if os.path.islink(place):
            os.makedirs(root + os.path.dirname(place), exist_ok=True)
            os.symlink(os.readlink(place), root + place)
        elif os.path.isdir(place):
            os.makedirs(root + place, exist_ok=True)
            mount(place, root + place, None, _MS_BIND)
            mount(None, root + place, None, _MS_BIND | _MS_REMOUNT | _MS_RDONLY)
    os.makedirs(root + "/tmp", exist_ok=True)
    os.chmod(root + "/tmp", 0o777)
    os.makedirs(root + "/old")
    os.makedirs(root + "/dev")
    for name in ("null", "zero", "urandom"):
        os.close(os.open(root + "/dev/" + name, os.O_CREAT | os.O_WRONLY))
        mount("/dev/" + name, root + "/dev/" + name, None, _MS_BIND)
    os.chdir(root)
    if libc.syscall(_PIVOT_ROOT[os.uname().machine], b".", b"old"):
        raise OSError(ctypes.get_errno(), "pivot_root")
    os.chdir("/tmp")
    if libc.umount2(b"/old", _MNT_DETACH):
        raise OSError(ctypes.get_errno(), "umount")


def limit(job: dict[str, Any]) -> None:
    """Memory, files, processes, processor time; no more rights than anybody has."""
    resource.setrlimit(resource.RLIMIT_AS, (job["memory_bytes"],) * 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (job["file_bytes"],) * 2)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (int(job["timeout_s"]) + 1,) * 2)
    if job["uid"] is not None:
        os.setgroups([])
        os.setgid(job["uid"])
        os.setuid(job["uid"])
    resource.setrlimit(resource.RLIMIT_NPROC, (job["processes"],) * 2)


def plain(value: Any, depth: int = 0) -> Any:
    """A value as JSON that says its exact type; objects of other classes only say what they are."""
    kind = type(value)
    if depth > 50:
        raise RecursionError
    if value is None or kind in (bool, int, str):
        return value
    if kind is float:
        return {"float": repr(value)}
    if kind in (list, tuple):
        return {kind.__name__: [plain(v, depth + 1) for v in value]}
    if kind in (set, frozenset):
        return {"set": sorted((plain(v, depth + 1) for v in value), key=json.dumps)}
    if kind is dict:
        return {"dict": [[plain(k, depth + 1), plain(v, depth + 1)] for k, v in value.items()]}
    return {"other": getattr(kind, "__name__", "?")[:40]}


def called(job: dict[str, Any], say: Callable[[Any], None]) -> None:
    """Tests of a function: each an expression, evaluated in the candidate's own namespace."""
    space: dict[str, Any] = {"__name__": "candidate"}
    exec(compile(job["code"], "candidate.py", "exec"), space)
    for test in job["tests"]:
        try:
            if "arguments" in test:
                value = space[job["function"]](*test["arguments"])
            else:
                value = eval(compile(ast.parse(test["expression"], mode="eval"), "test", "eval"), space)
            say({"value": plain(value)})
        except BaseException as e:
            say({"error": f"{type(e).__name__}: {e}"[:200]})


def piped(job: dict[str, Any], say: Callable[[Any], None]) -> None:
    """Tests of a program: each a fresh process with the input on its stdin."""
    for test in job["tests"]:
        (in_read, in_write), (out_read, out_write) = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            os.dup2(in_read, 0)
            os.dup2(out_write, 1)
            for fd in (in_read, in_write, out_read, out_write):
                os.close(fd)
            sys.stdin, sys.stdout = io.TextIOWrapper(io.FileIO(0)), io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "w")))
            code = 1
            try:
                exec(compile(job["code"], "candidate.py", "exec"), {"__name__": "__main__"})
                code = 0
            except SystemExit as e:
                code = e.code if isinstance(e.code, int) else 0 if e.code is None else 1
            except BaseException as e:
                sys.stderr.write(f"{type(e).__name__}: {e}"[:200])
            finally:
                try:
                    sys.stdout.flush()
                finally:
                    os._exit(code & 255)
        os.close(in_read)
        os.close(out_write)
        say(talk(child, in_write, out_read, test["input"].encode(errors="replace"), job))


def talk(child: int, write: int, read: int, data: bytes, job: dict[str, Any]) -> dict[str, Any]:
    """Feed a program and read what it prints, within the limits."""
    import select

    end, out, sent = time.monotonic() + job["test_s"], b"", 0
    os.set_blocking(write, False)
    while time.monotonic() < end and len(out) <= job["output_bytes"]:
        ready, open_, _ = select.select([read], [write] if sent < len(data) else [], [], max(0.0, end - time.monotonic()))
        if open_:
            try:
                with contextlib.suppress(BlockingIOError):
                    sent += os.write(write, data[sent : sent + 65536])
            except OSError:
                sent = len(data)
        if sent >= len(data) and write >= 0:
            os.close(write)
            write = -1
        if ready:
            more = os.read(read, 65536)
            if not more:
                break
            out += more
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return {"error": "too much output" if len(out) > job["output_bytes"] else "too slow"}
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.close(read)
    return {"printed": out.decode(errors="replace")} if status == 0 else {"error": f"exit code {status}"}


def main() -> None:
    job = json.loads(sys.stdin.buffer.read())
    channel = os.fdopen(os.dup(1), "w")
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)

    def say(answer: Any) -> None:
        print(json.dumps(answer), file=channel, flush=True)

    if job["root"] is not None:
        leave(job["root"], job["keep"])
    limit(job)
    say({"ready": True})
    sys.path[:0] = job["path"]
    try:
        (piped if job["function"] is None and not job["expressions"] else called)(job, say)
    except BaseException as e:
        say({"stopped": f"{type(e).__name__}: {e}"[:200]})
    channel.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
