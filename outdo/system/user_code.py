"""Calling code that is not ours: reward functions, tools, partners, environments, rollout functions, the files of plug-ins.

`guarded()` stands at every such door. User code finds the process as it left it, and outdo as it was before: current folder,
environment variables, locale, numpy's error handling, torch's grad mode, default dtype and number of threads, signal handlers,
sys.stdout and sys.stderr. The global random generators are left alone, for outdo draws from none of them. What the code raises
that is no Exception (`sys.exit()`, a cancelled task) becomes one, and so does `os._exit()`.

`call()` also limits the time. On the main thread a watchdog interrupts the function (SIGURG, which nothing else uses and which is
ignored outside a call), so that a hanging one is really stopped; libraries like math_verify need the main thread for their own
alarms. On another thread the function is left behind in a thread of its own.
"""

from __future__ import annotations

import asyncio
import inspect
import locale
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from os import _exit, chdir, getcwd, getpid  # code that is meant for a sandbox puts None in their place
from typing import Any, NoReturn


class TimedOut(BaseException):
    """The function took too long. Not an Exception, so that the function's own `except Exception` does not swallow it."""


class Escaped(Exception):
    """What user code raised and is no Exception. Its class is named after the original: SystemExit, CancelledError, ..."""


def escaped(e: BaseException) -> Exception:
    """The same as an exception like any other."""
    said = f"it called exit({'' if e.code is None else repr(e.code)})" if isinstance(e, SystemExit) else str(e)
    kind: type[Escaped] = type(type(e).__name__, (Escaped,), {})
    return kind(said or "user code must not raise it")


# --- the process's settings ------------------------------------------------------------------------------------------

_environ: Any = os.environb  # the same variables as os.environ; its _data is read in half a microsecond, all else takes fifty


def _folder() -> str | None:
    try:
        return getcwd()
    except FileNotFoundError:  # somebody removed it
        return None


def _set_folder(folder: str | None) -> None:
    if folder is not None:
        chdir(folder)


def _variables() -> dict[bytes, bytes]:
    return dict(_environ._data)


def _set_variables(wanted: dict[bytes, bytes]) -> None:
    now = _variables()
    for key in now.keys() - wanted.keys():
        del _environ[key]
    for key, value in wanted.items():
        if now.get(key) != value:
            _environ[key] = value


Setting = tuple[Callable[[], Any], Callable[[Any], Any]]  # how to read and how to write it
_SETTINGS: dict[str, Setting] = {
    "folder": (_folder, _set_folder),
    "variables": (_variables, _set_variables),
    "locale": (partial(locale.setlocale, locale.LC_ALL), partial(locale.setlocale, locale.LC_ALL)),
}
_theirs: dict[str, Any] = {}  # what user code has changed for itself


def _settings() -> dict[str, Setting]:
    """All of them; those of numpy and torch once these are imported."""
    if "numpy" not in _SETTINGS and "numpy" in sys.modules:
        import numpy as np

        _SETTINGS["numpy"] = (np.geterr, lambda kinds: np.seterr(**kinds))
    if "gradients" not in _SETTINGS and hasattr(sys.modules.get("torch"), "get_num_threads"):
        import torch

        _SETTINGS["gradients"] = (torch.is_grad_enabled, torch.set_grad_enabled)
        _SETTINGS["dtype"] = (torch.get_default_dtype, torch.set_default_dtype)
        _SETTINGS["threads"] = (torch.get_num_threads, torch.set_num_threads)
    return dict(_SETTINGS)


# --- the doors -------------------------------------------------------------------------------------------------------


@contextmanager
def guarded() -> Iterator[None]:
    """For the time of a call of user code; see the head of this file."""
    pid, known = getpid(), _settings()
    ours, streams = {name: read() for name, (read, _) in known.items()}, (sys.stdout, sys.stderr)
    for name, value in _theirs.items():
        _write(known, name, value)
    before, os._exit = os._exit, partial(_refuse_exit, pid)  # type: ignore[assignment]
    try:
        yield
    except BaseException as e:
        if getpid() != pid:
            _end_child(e)
        if isinstance(e, Exception | KeyboardInterrupt | TimedOut):
            raise
        raise escaped(e) from None
    else:
        if getpid() != pid:
            _end_child(None)
    finally:
        os._exit = before
        for name, (read, _) in known.items():
            if (now := read()) != ours[name]:
                _theirs[name] = now
                _write(known, name, ours[name])
            else:
                _theirs.pop(name, None)
        sys.stdout, sys.stderr = streams
        for number, handler in _handlers.items():
            if signal.getsignal(number) is not handler and threading.current_thread() is threading.main_thread():
                signal.signal(number, handler)


def _write(known: dict[str, Setting], name: str, value: Any) -> None:
    with suppress(OSError, locale.Error):  # a folder that was removed
        known[name][1](value)


def _refuse_exit(pid: int, status: int) -> None:
    """In place of os._exit, which nobody could catch; in a process that the code forked it is the real one."""
    if getpid() != pid:
        _exit(status)
    raise SystemExit(status)


def _end_child(e: BaseException | None) -> NoReturn:
    """A process that user code forked comes back here, and must not go on as a second outdo."""
    code = 0
    if isinstance(e, SystemExit):
        code = e.code if isinstance(e.code, int) else int(e.code is not None)
    elif e is not None:
        traceback.print_exception(e)
        code = 1
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    _exit(code)


def call(function: Callable[[], Any], timeout_s: float) -> Any:
    """function's result; a coroutine is awaited. Raises TimedOut, or whatever the function raises."""
    with guarded():
        on_main = threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGURG")
        result = _interrupted(function, timeout_s) if on_main else _in_thread(function, timeout_s)
        if inspect.iscoroutine(result):
            return _in_thread(lambda: asyncio.run(asyncio.wait_for(result, timeout_s)), timeout_s + 1.0)
        return result


async def awaiting(value: Coroutine[Any, Any, Any]) -> Any:
    """What the coroutine gives; on an event loop that others share, which a SystemExit would end."""
    try:
        return await value
    except BaseException as e:
        if isinstance(e, Exception):
            raise
        raise escaped(e) from None


def _interrupted(function: Callable[[], Any], timeout_s: float) -> Any:
    armed, lock, main = True, threading.Lock(), threading.main_thread().ident
    assert main is not None

    def bite() -> None:
        with lock:
            if armed:
                signal.pthread_kill(main, signal.SIGURG)

    def stop(signum: int, frame: Any) -> None:
        del signum, frame
        if armed:
            raise TimedOut

    old = signal.signal(signal.SIGURG, stop)
    dog = threading.Timer(timeout_s, bite)
    dog.daemon = True
    dog.start()
    try:
        return function()
    finally:
        armed = False
        dog.cancel()
        with lock:  # a bite that has begun is over after this, and SIGURG's own effect is none
            signal.signal(signal.SIGURG, old)


def _in_thread(function: Callable[[], Any], timeout_s: float) -> Any:
    result: list[Any] = []
    error: list[BaseException] = []

    def work() -> None:
        try:
            result.append(function())
        except TimeoutError:
            error.append(TimedOut())
        except BaseException as e:
            error.append(e)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(timeout_s)
    if error:
        raise error[0]
    if not result:
        raise TimedOut
    return result[0]


# --- signal handlers -------------------------------------------------------------------------------------------------

_handlers: dict[int, Any] = {}  # outdo's own, while they are in place
_before: dict[int, Any] = {}  # what they took the place of


@contextmanager
def handling(handler: Callable[[int, Any], None], *signals: signal.Signals) -> Iterator[None]:
    """`handler` for these signals, on the main thread alone, for others get none.

    Processes that are forked meanwhile have the handlers from before: Pool.terminate() ends its workers by SIGTERM.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    old: dict[int, Any] = {s: signal.signal(s, handler) or signal.SIG_DFL for s in signals}
    _handlers.update(dict.fromkeys(signals, handler))
    _before.update(old)
    try:
        yield
    finally:
        for s, earlier in old.items():
            signal.signal(s, earlier)
            del _handlers[s], _before[s]


_masks: list[set[int]] = []  # of threads that are forking


def _before_fork() -> None:
    """A signal to a child that has just begun waits until it has its own handlers back: ours would swallow it."""
    _masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, set(_before)))


def _in_parent() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _masks.pop())


def _in_child() -> None:
    for number, earlier in _before.items():
        signal.signal(number, earlier)
    _handlers.clear()
    _before.clear()
    _in_parent()


os.register_at_fork(before=_before_fork, after_in_parent=_in_parent, after_in_child=_in_child)


# --- the end of the process ------------------------------------------------------------------------------------------

PATIENCE_S = 3.0  # for threads and processes that user code has left behind


def end_in_time(code: int) -> None:
    """Call last: the process ends with this code even if user code has left a thread or a process running, and says so."""
    if _left_behind():
        threading.Thread(target=_end, args=(code,), daemon=True).start()


def _end(code: int) -> None:
    """The interpreter waits for threads that are no daemons, and multiprocessing for its processes; this thread goes on."""
    threading.Event().wait(PATIENCE_S)
    if left := _left_behind():
        print(f"outdo: warning: user code has left {', '.join(left)} running; ended without waiting any longer", file=sys.stderr)
        for process in _children():
            process.kill()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        _exit(code)


def _left_behind() -> list[str]:
    threads = [t for t in threading.enumerate() if not t.daemon and t is not threading.main_thread()]
    return [f"thread {t.name!r}" for t in threads] + [f"process {p.name!r}" for p in _children()]


def _children() -> list[Any]:
    """Processes of multiprocessing that are no daemons."""
    module = sys.modules.get("multiprocessing")
    return [p for p in module.active_children() if not p.daemon] if module else []
