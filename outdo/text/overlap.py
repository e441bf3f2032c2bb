"""Rows that must not train because a task measures on their prompts.

Two prompts are the same if their words are, whatever their case and the white space between them. A text for pre-training holds a
prompt if the prompt's words stand in it in a row; prompts of few words count only as whole texts, or chance would hold many.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

_FEWEST_WORDS = 5  # of a prompt that is looked for inside of texts
_KEY_WORDS = 8  # by which prompts are looked up


def words_of(prompt: Any) -> str:
    """What a prompt says, text or messages, without the system message: what decides whether two prompts are the same."""
    if isinstance(prompt, str):
        return prompt
    said = (m for m in prompt if isinstance(m, Mapping) and m.get("role") != "system")
    return "\n".join(str(m.get("content")) for m in said)


def prompt_of(row: Mapping[str, Any]) -> str | None:
    """The words of a row's prompt; None for plain texts."""
    if row.get("prompt"):
        return words_of(row["prompt"])
    messages = row.get("messages") or row.get("chosen")
    if isinstance(messages, list) and messages and all(isinstance(m, Mapping) for m in messages):
        answers = [i for i, m in enumerate(messages) if m.get("role") == "assistant"]
        return words_of(messages[: answers[-1]] if answers else messages)
    return str(row["question"]) if row.get("question") else None


class Withheld:
    """The prompts that a task measures on."""

    def __init__(self, prompts: Iterable[str]) -> None:
        split = {tuple(_words(p)) for p in prompts} - {()}
        self._whole = split
        self._keys: dict[int, dict[tuple[str, ...], list[tuple[str, ...]]]] = {}
        for words in split:
            if len(words) >= _FEWEST_WORDS:
                key = words[:_KEY_WORDS]
                self._keys.setdefault(len(key), {}).setdefault(key, []).append(words)

    def __bool__(self) -> bool:
        return bool(self._whole)

    def holds(self, row: Mapping[str, Any]) -> bool:
        """Whether the row's prompt is one of them, or its text or one of its turns holds one."""
        prompt = prompt_of(row)
        if prompt is not None:
            return tuple(_words(prompt)) in self._whole or any(self._asked(m) for m in _messages(row))
        return self._inside(_words(str(row.get("text", ""))))

    def _asked(self, message: Mapping[str, Any]) -> bool:
        """A later question of a conversation that is one of the prompts."""
        return message.get("role") == "user" and tuple(_words(str(message.get("content")))) in self._whole

    def _inside(self, words: list[str]) -> bool:
        if tuple(words) in self._whole:
            return True
        for n, known in self._keys.items():
            for i in range(len(words) - n + 1):
                for prompt in known.get(tuple(words[i : i + n]), ()):
                    if tuple(words[i : i + len(prompt)]) == prompt:
                        return True
        return False


def _messages(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = row.get("messages")
    return [m for m in found if isinstance(m, Mapping)] if isinstance(found, list) else []


def _words(text: str) -> list[str]:
    return text.casefold().split()
