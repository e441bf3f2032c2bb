"""Partners: the other side of a conversation, who answers every reply in words of its own instead of running calls."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from outdo.system import user_code

Messages = Sequence[Mapping[str, Any]]


class Partner(ABC):
    """One conversation's other side, for `environment_factory`: made anew for every sample, with `reset` called first.

    With a `get_reward()` it judges, too. One that raises ends the conversation, and the sample has no score.
    """

    done = False  # set to True: it has said its last word
    verbatim = False  # whether it is given the policy's words with their special tokens

    def reset(self, **row: Any) -> str | None:
        """What it says at first, put behind the prompt's last message. The same row must always give the same words."""
        del row
        return None

    @abstractmethod
    def respond(self, messages: Messages) -> Any:
        """Its answer to the whole conversation, whose last message is the policy's; may be async.

        A message, messages (the chat template writes them), or a string, which follows the policy's tokens as it is. Also
        called for a reply that was cut and for the last one allowed, whose answers the policy never sees.
        """

    def facts(self) -> dict[str, Any]:
        """What the column `environment_state` says of it in the end: its public attributes, as far as JSON can hold them."""
        return public(self)


def public(thing: Any) -> dict[str, Any]:
    """Attributes without an underscore."""
    return {k: v for k, v in vars(thing).items() if not k.startswith("_")}


def awaited(value: Any) -> Any:
    """The value, or what the coroutine gives, on an event loop that all of them share: they may keep clients between turns.

    In a thread of its own, for a notebook's has a loop already.
    """
    if not inspect.iscoroutine(value):
        return value
    return asyncio.run_coroutine_threadsafe(user_code.awaiting(value), _loop(os.getpid())).result()


@functools.cache
def _loop(process: int) -> asyncio.AbstractEventLoop:
    del process  # threads do not survive a fork
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True, name="partners").start()
    return loop


def plain(value: Any) -> Any:
    """As JSON holds it: keys as text, sets as sorted lists, arrays as lists, all else that JSON does not know as text."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(plain, value), key=str)
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return plain(value.tolist()) if hasattr(value, "tolist") else str(value)


def answer(partner: Partner, messages: Messages) -> list[dict[str, Any]] | str:
    """What the partner answers, as plain messages or as text."""
    said = awaited(partner.respond(messages))
    if said is None or isinstance(said, str):
        return said or ""
    return [_plain(m) for m in ([said] if isinstance(said, Mapping) or hasattr(said, "role") else said)]


def _plain(message: Any) -> dict[str, Any]:
    """Role and words: of a mapping, or of an object with these attributes."""
    role, content = (message.get(k) if isinstance(message, Mapping) else getattr(message, k, None) for k in ("role", "content"))
    if isinstance(content, list):  # parts, as chat APIs have them
        content = "".join(str(p.get("text", "")) for p in content if isinstance(p, Mapping))
    return {"role": str(role or "user"), "content": str(content or "")}
