"""Turns in which the model calls tools: Python callables, or the methods of an environment object (TRL's environment_factory);
or in which a partner answers it.

A call is what Hermes and Qwen templates teach, <tool_call>{"name": ..., "arguments": {...}}</tool_call>; its result comes back as
a message of the role `tool`, in the tokens that the chat template writes for it. Those tokens are observations: they never train.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import get_json_schema

from outdo.errors import UserError, check
from outdo.interop import partners
from outdo.interop.partners import Partner
from outdo.system.user_code import guarded
from outdo.text import chat
from outdo.text.chat import Messages
from outdo.types import BoolArray, IntArray, Prompt

Tool = Callable[..., Any]
_CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
_RESERVED = ("reset", "get_reward")
_TEACH = """You may call functions. They are described by these JSON schemas:
<tools>
{tools}
</tools>
To call one, write
<tool_call>
{{"name": <function name>, "arguments": <JSON object>}}
</tool_call>"""


def schemas(tools: Mapping[str, Tool]) -> list[dict[str, Any]]:
    """JSON schemas from type hints and Google docstrings. Raises UserError for tools that lack them."""
    out = []
    for name, tool in tools.items():
        try:
            out.append(get_json_schema(tool))
        except Exception as e:
            raise UserError(f"tool {name} cannot be described to the model ({e}); it needs type hints and a Google docstring "
                            "with a line for every argument") from None
    return out


def methods(environment: Any) -> dict[str, Tool]:
    """The public methods of an environment object, which are its tools. A partner has none."""
    if isinstance(environment, Partner):
        return {}
    found = inspect.getmembers(environment, inspect.ismethod)
    return {name: method for name, method in found if not name.startswith("_") and name not in _RESERVED}


def introduce(tokenizer: PreTrainedTokenizerBase, messages: Messages, described: Sequence[dict[str, Any]]) -> Messages:
    """The messages, with the tools in the system message where the chat template says nothing of them itself."""
    if not described or chat.render(tokenizer, messages, described) != chat.render(tokenizer, messages):
        return messages
    text = _TEACH.format(tools="\n".join(json.dumps(d) for d in described))
    if messages and messages[0]["role"] == "system":
        return [{"role": "system", "content": f"{messages[0]['content']}\n\n{text}"}, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]


def calls(text: str) -> list[tuple[str, dict[str, Any]] | str]:
    """(name, arguments) of every call in a reply, or what is wrong with it."""
    out: list[tuple[str, dict[str, Any]] | str] = []
    for said in _CALL.findall(text):
        try:
            call = json.loads(said)
            arguments = call.get("arguments", {})
            arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
            out.append((call["name"], arguments) if isinstance(call["name"], str) and isinstance(arguments, dict)
                       else "name must be a string and arguments an object")
        except (ValueError, KeyError, AttributeError, RecursionError) as e:
            out.append(f"not a call in JSON ({type(e).__name__}: {e})")
    return out


class Conversations:
    """Many conversations with tools or partners (see `Episodes`).

    One is over when a reply calls nothing, is cut, or was the last allowed.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], tools: Mapping[str, Tool],
                 environments: Sequence[Any], stop_ids: Sequence[int], max_turns: int, max_tool_tokens: int,
                 renders: bool = False) -> None:
        self.tokenizer, self.prompts, self.stop_ids = tokenizer, prompts, stop_ids
        self.max_turns, self.max_tool_tokens, self.renders = max_turns, max_tool_tokens, renders
        self.environments = environments  # one per row, or none
        self.tools = [{**tools, **methods(e)} for e in environments] or [dict(tools)] * len(prompts)
        self.described = [schemas(t) for t in (self.tools if environments else self.tools[:1])] or [[]]
        self.messages: list[Messages] = [[] for _ in prompts]
        self.turns, self.errors = np.zeros(len(prompts), np.int64), np.zeros(len(prompts), np.int64)
        self._rewards: dict[int, float | None] = {}
        self._broken: dict[int, str] = {}

    def step(self, rows_R: IntArray, replies_RN: IntArray) -> tuple[IntArray, BoolArray]:
        """See `Episodes.step`: run the calls, answer with their results."""
        observed: list[IntArray] = []
        done = np.zeros(len(rows_R), bool)
        for i, (row, reply) in enumerate(zip(rows_R.tolist(), replies_RN, strict=True)):
            tokens = reply[reply >= 0]
            text = chat.decode(self.tokenizer, tokens, self.stop_ids)
            environment = self.environments[row] if self.environments else None
            partner = environment if isinstance(environment, Partner) else None
            found = [] if partner else calls(text)
            self.turns[row] += 1
            self.messages[row].append(_said(text, found))
            whole = len(tokens) > 0 and tokens[-1] in self.stop_ids
            answers: list[dict[str, Any]] | str = ""
            if partner:
                answers = self._respond(row, partner, tokens)
            elif whole:
                answers = [self._answer(row, call) for call in found]
            self.messages[row] += [{"role": "user", "content": answers}] if answers and isinstance(answers, str) else answers
            over = getattr(environment, "done", False) is True
            done[i] = not answers or not whole or over or self.turns[row] >= self.max_turns
            observed.append(self._observed(row, answers) if answers and whole else np.zeros(0, np.int64))
        out = np.full((len(rows_R), max(map(len, observed), default=0)), -1, np.int64)
        for i, o in enumerate(observed):
            out[i, : len(o)] = o
        return out, done

    def context(self, row: int) -> IntArray:
        """The whole conversation so far as the chat template renders it before the next reply."""
        asked, described = self.prompts[row].row, self.described[row if self.environments else 0]
        said = [*asked["prompt"], *self.messages[row]]
        return chat.encode(self.tokenizer, chat.render(self.tokenizer, said, described, row=asked))

    def _observed(self, row: int, answers: list[dict[str, Any]] | str) -> IntArray:
        """The tokens of answers: text as it is, messages as the chat template writes them."""
        if isinstance(answers, str):
            return chat.encode(self.tokenizer, answers)
        return chat.between_turns(self.tokenizer, answers, self.described[row if self.environments else 0], self.prompts[row].row)

    def _respond(self, row: int, partner: Partner, reply: IntArray) -> list[dict[str, Any]] | str:
        """What the partner says to the conversation. One that raises, or says too much at once, ends it."""
        if partner.verbatim:
            said = str(self.tokenizer.decode(reply.tolist(), clean_up_tokenization_spaces=False))
        else:
            said = chat.decode(self.tokenizer, reply, self.stop_ids)
        conversation = [*self.prompts[row].row["prompt"], *self.messages[row][:-1], {"role": "assistant", "content": said}]
        try:
            with guarded():
                answers = partners.answer(partner, conversation)
            words = [answers] if isinstance(answers, str) else [m["content"] for m in answers]
            n = sum(len(chat.encode(self.tokenizer, w)) for w in words)
            check(n <= self.max_tool_tokens, f"it said {n} tokens at once; raise max_tool_tokens = {self.max_tool_tokens}")
            return answers
        except Exception as e:
            self.errors[row] += 1
            self._broken[row] = _reason(e)
            return ""

    def _short(self, content: str) -> str:
        ids = chat.encode(self.tokenizer, content)
        return content if len(ids) <= self.max_tool_tokens else chat.decode(self.tokenizer, ids[: self.max_tool_tokens])

    def _answer(self, row: int, call: tuple[str, dict[str, Any]] | str) -> dict[str, Any]:
        """The tool message for a call. A tool that raises answers with the error: the policy has to live with it."""
        name, content = "unknown" if isinstance(call, str) else call[0], ""
        try:
            check(not isinstance(call, str), str(call))
            tool = self.tools[row].get(name)
            if tool is None:
                raise UserError(f"no tool is called {name!r}; there is {', '.join(self.tools[row])}")
            with guarded():
                result = partners.awaited(tool(**call[1]))  # type: ignore[arg-type]
                content = json.dumps(result, default=str) if isinstance(result, dict | list | tuple) else str(result)
        except Exception as e:
            self.errors[row] += 1
            content = f"Error: {e}" if isinstance(e, UserError) else f"Error: {type(e).__name__}: {e}"
        return {"role": "tool", "name": name, "content": self._short(content)}

    def info(self, row: int) -> dict[str, Any]:
        """The row's columns, the conversation after the prompt, turns, failed calls, and what the environment became."""
        columns = {k: v for k, v in self.prompts[row].row.items() if k != "asked"}
        out = {**columns, "completion": self.messages[row], "turns": int(self.turns[row]),
               "tool_errors": int(self.errors[row])}
        if self.environments:
            environment = self.environments[row]
            try:
                with guarded():
                    state = environment.facts() if isinstance(environment, Partner) else partners.public(environment)
                    out["environment_state"] = partners.plain(state)
                    if row not in self._rewards:
                        self._rewards[row] = _reward(environment) if hasattr(environment, "get_reward") else None
            except Exception as e:
                self._broken.setdefault(row, _reason(e))
            out["environment_reward"] = self._rewards.get(row)
            if row in self._broken:
                out["environment_error"] = self._broken[row]
        return out


def made(factory: Callable[[], Any]) -> Any:
    """A fresh environment. Raises UserError if it cannot be made."""
    try:
        with guarded():
            return factory()
    except UserError:
        raise
    except Exception as e:
        raise UserError(f"environment {_called(factory)} cannot be made ({type(e).__name__}: {e})") from None


def begin(factory: Callable[[], Any], row: Mapping[str, Any]) -> tuple[Any, str]:
    """A fresh environment, reset with the row's columns, and what it says at first. Raises UserError if it cannot."""
    environment = made(factory)
    try:
        with guarded():
            said = environment.reset(**row)
            return environment, "" if said is None else str(said)
    except UserError:
        raise
    except Exception as e:
        raise UserError(f"environment {_called(factory)}: reset(**row) raised {type(e).__name__}: {e}; it must take the columns "
                        f"{', '.join(row)}, for example through **kwargs") from None


def _called(factory: Callable[[], Any]) -> str:
    return str(getattr(factory, "__name__", repr(factory)))


def _said(text: str, found: Sequence[tuple[str, dict[str, Any]] | str]) -> dict[str, Any]:
    """The policy's turn as a message: words, and calls that can be read."""
    good = [{"type": "function", "function": {"name": c[0], "arguments": c[1]}} for c in found if not isinstance(c, str)]
    if not good:
        return {"role": "assistant", "content": text}
    return {"role": "assistant", "content": _CALL.sub("", text).strip(), "tool_calls": good}


def _reward(environment: Any) -> float | None:
    """What it pays; None: nothing of its own. Raises what it raises, and ValueError for what is no finite number."""
    paid = partners.awaited(environment.get_reward())
    value = None if paid is None else float(paid)
    if value is not None and not np.isfinite(value):
        raise ValueError(f"get_reward() gave {value}")
    return value


def _reason(e: Exception) -> str:
    return str(e) if isinstance(e, UserError) else f"{type(e).__name__}: {e}"
