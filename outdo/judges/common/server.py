"""A client of OpenAI-compatible servers, for judges and teachers: many requests at a time, retries, a cache, a limit on money.

Requests are kept by their content: the same question to the same model is asked once, and costs nothing again.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import sqlite3
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from outdo.errors import UserError, check
from outdo.models import fetch


@dataclass(frozen=True)
class Settings:
    """Where the server is and what it may cost."""

    model: str
    base_url: str | None  # None: OPENAI_BASE_URL
    key_env: str  # name of the variable that holds the key
    concurrency: int
    timeout_s: float  # one request
    give_up_s: float  # so long a request is tried again and again
    price_in: float  # of a million tokens
    price_out: float
    max_cost: float | None
    cache: bool


class Refused(Exception):
    """The server will not answer this request, however often it is asked."""


class Server:
    """ask(requests) -> texts."""

    who = "judge llm"  # in messages

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.tokens, self.cost = 0, 0.0  # since `spent` was last called
        self.paid = 0.0  # in all
        self._client: Any = None
        self._lock = threading.Lock()
        self._cache: sqlite3.Connection | None = None

    @property
    def _url(self) -> str | None:
        return self.settings.base_url or os.environ.get("OPENAI_BASE_URL")

    @property
    def local(self) -> bool:
        """Whether the server is on this machine."""
        return self._url is not None and any(host in self._url for host in ("localhost", "127.0.0.1", "[::1]", "0.0.0.0"))

    @property
    def client(self) -> Any:
        """The library's. Raises UserError if it, the address or the key is missing."""
        if self._client is None:
            try:
                import openai
            except ImportError:
                raise UserError(f"{self.who} needs the library openai; install it: pip install 'outdo[openai]'") from None
            s = self.settings
            key = os.environ.get(s.key_env) or ("none" if self.local else None)
            check(key is not None, f"{self.who}: the environment has no {s.key_env}; set it to the server's key, or base_url to "
                  "a server on this machine")
            self._client = openai.OpenAI(api_key=key, base_url=self._url, timeout=s.timeout_s, max_retries=0)
        return self._client

    def reach(self) -> None:
        """Raise UserError if nobody answers at the address."""
        try:
            self.client.models.list()
        except UserError:
            raise
        except Exception as e:
            if getattr(e, "status_code", None) not in (None, 401, 403):  # somebody is there; not every server lists its models
                return
            raise UserError(f"{self.who}: no answer from {self.client.base_url} ({_said(e)}); start the server, or mend base_url "
                            f"and {self.settings.key_env}") from None

    def ask(self, requests: Sequence[dict[str, Any]]) -> list[str | None]:
        """The text of each answer; None where the server refuses. Raises UserError when it stays away, or at max_cost."""
        with ThreadPoolExecutor(self.settings.concurrency) as pool:
            return list(pool.map(self._one, requests))

    def spent(self) -> tuple[int, float]:
        """Tokens and money since the last call."""
        with self._lock:
            out, self.tokens, self.cost = (self.tokens, self.cost), 0, 0.0
        return out

    def _one(self, request: dict[str, Any]) -> str | None:
        body = {"model": self.settings.model, **request}
        key = hashlib.sha256(json.dumps([self.settings.base_url, body], sort_keys=True).encode()).hexdigest()
        known = self._known(key)
        if known is not None:
            return known
        s = self.settings
        check(s.max_cost is None or self.paid < s.max_cost, f"{self.who} has spent {self.paid:.2f} of max_cost = {s.max_cost}; "
              "raise it and resume: outdo run --resume")
        try:
            text = self._tried(body, key)
        except Refused as e:
            return self._refused(request, str(e))
        self._keep(key, text)
        return text

    def _answer(self, body: dict[str, Any]) -> str:
        """One request, its cost booked -> its text; whatever it raises is tried again or refused, by its status."""
        answer = self.client.chat.completions.create(**body)
        self._book(answer.usage)
        return str(answer.choices[0].message.content or "")

    def _refused(self, request: dict[str, Any], why: str) -> str | None:
        """What stands for the answer that the server will not give."""
        del request, why
        return None

    def _tried(self, body: dict[str, Any], key: str) -> str:
        """Again and again with growing pauses, as long as it may help. Raises Refused, UserError."""
        begun, pause, jitter = time.monotonic(), 0.5, random.Random(key)
        while True:
            wait = pause * (0.5 + jitter.random())
            try:
                content = self._answer(body)
                if content:
                    return content
                said = "an empty answer"
            except Exception as e:
                status = getattr(e, "status_code", None)
                if status is not None and 400 <= status < 500 and status not in (408, 409, 425, 429):
                    check(status not in (401, 403), f"{self.who}: the server refuses the key in {self.settings.key_env} "
                          f"({status}); set it to one that is valid")
                    raise Refused(_said(e)) from None
                said = _said(e)
                wait = max(wait, _retry_after(e))
            if time.monotonic() + wait - begun > self.settings.give_up_s:
                raise UserError(f"{self.who}: {self.client.base_url} gives no answer since {time.monotonic() - begun:.0f} s "
                                f"({said}); the run is saved: start the server and resume it") from None
            time.sleep(wait)
            pause = min(2 * pause, 30.0)

    def _book(self, usage: Any) -> None:
        read, written = (int(getattr(usage, k, 0) or 0) for k in ("prompt_tokens", "completion_tokens"))
        cost = (read * self.settings.price_in + written * self.settings.price_out) / 1e6
        with self._lock:
            self.tokens, self.cost, self.paid = self.tokens + read + written, self.cost + cost, self.paid + cost

    # --- the cache ----------------------------------------------------------------------------------------------------

    def _known(self, key: str) -> str | None:
        if not self.settings.cache:
            return None
        with self._lock:
            row = self._database().execute("SELECT text FROM answers WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def _keep(self, key: str, text: str) -> None:
        if self.settings.cache:
            with self._lock, self._database() as database:
                database.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (key, text))

    def _database(self) -> sqlite3.Connection:
        if self._cache is None:
            file: Path = fetch.cache() / "judges" / "answers.sqlite"
            file.parent.mkdir(parents=True, exist_ok=True)
            self._cache = sqlite3.connect(file, timeout=60.0, check_same_thread=False)
            self._cache.execute("PRAGMA journal_mode = WAL")
            self._cache.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, text TEXT)")
        return self._cache


def _retry_after(e: Exception) -> float:
    """Seconds that the server asks to wait."""
    response = getattr(e, "response", None)
    try:
        return min(float(response.headers.get("retry-after", 0)), 60.0) if response is not None else 0.0
    except ValueError:
        return 0.0


def _said(e: Exception) -> str:
    return f"{type(e).__name__}: {' '.join(str(e).split())[:120]}"
