"""The process of the reward under audit: whatever the reward does, a result says so and the audit goes on.

Run: .venv/bin/python -m pytest tests/audit/test_host.py   (about 15 s on one core)
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from outdo.audit.base import Case, Result
from outdo.audit.host import Host, once
from outdo.errors import UserError


def cases(*completions: str) -> list[Case]:
    return [Case("What is 1 + 1?", c, {"answer": "2"}, "2", column="answer") for c in completions]


def scored(reward: Callable[[str, Any], Any], *completions: str, how: str = "alone", **options: Any) -> list[Result]:
    with Host(lambda: reward, **{"timeout_s": 2.0, **options}) as host:
        return host.score(cases(*completions), how)


def hangs(answer: str, reference: str) -> float:
    while answer == "bad":
        time.sleep(0.05)
    return 1.0


def spins(answer: str, reference: str) -> float:
    while answer == "bad":
        pass
    return 1.0


def ends(answer: str, reference: str) -> float:
    if answer == "bad":
        os._exit(0)
    return 1.0


def killed(answer: str, reference: str) -> float:
    if answer == "bad":
        os.kill(os.getpid(), signal.SIGKILL)
    return 1.0


def quits(answer: str, reference: str) -> float:
    if answer == "bad":
        sys.exit(0)
    return 1.0


def eats(answer: str, reference: str) -> float:
    return float(len(bytearray(1 << 33))) if answer == "bad" else 1.0


def dials(answer: str, reference: str) -> float:
    if answer == "bad":
        socket.create_connection(("127.0.0.1", 9), timeout=1)
    return 1.0


def patches(answer: str, reference: str) -> float:
    if answer == "bad":
        json.dumps = lambda *a, **k: "nonsense"  # type: ignore[assignment]
    return 1.0


def raises(answer: str, reference: str) -> float:
    if answer == "bad":
        raise KeyboardInterrupt("me")
    return 1.0


@pytest.mark.parametrize(("reward", "said"), [
    (hangs, "out of time (2 s)"), (spins, "out of time (2 s)"), (ends, "ended its process"), (killed, "ended its process"),
    (quits, "raised SystemExit"), (eats, "raised MemoryError"),
    (dials, "raised OSError: the reward is audited without a network"),
    (patches, "broke the channel of its answers"), (raises, "raised KeyboardInterrupt: me"),
])  # fmt: skip
def test_the_audit_goes_on(reward: Callable[[str, Any], Any], said: str) -> None:
    before, bad, after = scored(reward, "good", "bad", "good again")
    assert before.value == 1.0 and after.value == 1.0
    assert bad.value is None and bad.error.startswith(said)


def test_prints_do_not_reach_the_answers() -> None:
    def loud(answer: str, reference: str) -> float:
        print('{"value": 7}')
        os.write(1, b'{"value": 8}\n')
        return 0.5

    assert [r.value for r in scored(loud, "a", "b")] == [0.5, 0.5]


def given(what: Any) -> Callable[[str, Any], Any]:
    def reward(answer: str, reference: str) -> Any:
        return what

    return reward


@pytest.mark.parametrize(("what", "value", "error"), [
    (1, 1.0, ""), (np.float32(0.5), 0.5, ""), (True, 1.0, ""), (None, None, ""), ({"score": 0.25}, 0.25, ""), ([0.5], 0.5, ""),
    (float("nan"), None, "returned nan"), (float("inf"), None, "returned inf"), ("0.5", None, "returned str, which is no number"),
    ([1, 2], None, "returned list, which is no number"), (10**400, None, "returned int, which is no number"),
])  # fmt: skip
def test_numbers(what: Any, value: float | None, error: str) -> None:
    (r,) = scored(given(what), "a")
    assert (r.value, r.error) == (value, error)


def test_a_coroutine_is_awaited() -> None:
    async def reward(answer: str, reference: str) -> float:
        return 0.75

    assert scored(reward, "a")[0].value == 0.75


def test_what_is_changed_is_seen() -> None:
    import random

    def meddles(answer: str, reference: str) -> float:
        random.random()
        os.environ["OUTDO_MEDDLED"] = answer
        return 1.0

    first, second = scored(meddles, "a", "b", how="watched")
    assert set(second.changed) == {"random's generator", "environment variables"} and "its arguments" not in first.changed
    assert "OUTDO_MEDDLED" not in os.environ


def test_swallowed_exceptions_are_seen() -> None:
    def swallows(answer: str, reference: str) -> float:
        try:
            return float(int(answer) == 2)
        except ValueError:
            return 0.0

    good, bad = scored(swallows, "2", "two", how="traced")
    assert good.raised == () and bad.value == 0.0 and bad.raised[0].startswith("ValueError in swallows")


def test_a_reward_that_cannot_be_called_is_refused() -> None:
    with pytest.raises(UserError, match=r"the reward cannot be audited: .*cannot be called"):
        Host(lambda: 7)
    with pytest.raises(UserError, match="it cannot be loaded"):
        Host(lambda: 1 / 0)


def test_no_process_is_left() -> None:
    with Host(lambda: ends) as host:
        host.score(cases("bad", "good"))
        pid = host._pid
    assert pid is not None and host.restarts == 1
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert not os.path.exists(host.folder)


def test_once() -> None:
    assert once(lambda: {"a": 1}, 5.0) == {"a": 1}
    assert once(lambda: {"a": 1 / 0}, 5.0) == {"error": "ZeroDivisionError: division by zero"}
    assert once(lambda: os._exit(0), 5.0) == {"error": "it ended its process"}  # type: ignore[arg-type, return-value]
    assert once(lambda: time.sleep(60) or {}, 0.5) is None  # type: ignore[func-returns-value]
