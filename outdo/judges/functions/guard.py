"""Calling somebody else's function with a time limit.

On the main thread a watchdog interrupts it (SIGURG, which nothing else uses and which is ignored outside a call), so that a
hanging function is really stopped; libraries like math_verify need the main thread for their own alarms. On another thread,
or where the system has no such signal, the function is left behind in a thread of its own.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable
from typing import Any


class TimedOut(BaseException):
    """The function took too long. Not an Exception, so that the function's own `except Exception` does not swallow it."""


def call(function: Callable[[], Any], timeout_s: float) -> Any:
    """function's result; a coroutine is awaited. Raises TimedOut, or whatever the function raises."""
    on_main = threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGURG")
    result = _interrupted(function, timeout_s) if on_main else _in_thread(function, timeout_s)
    if asyncio.iscoroutine(result):
        return _in_thread(lambda: asyncio.run(asyncio.wait_for(result, timeout_s)), timeout_s + 1.0)
    return result


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
