"""Between messages and token ids: conversations as the model's chat template writes them, and what ends a turn.

A prompt is a string, given to the model as it is, or a list of messages ({"role", "content", ...}), given through the
tokenizer's chat template. What the policy wrote is never encoded again: only what comes before and after it is rendered.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from outdo.errors import UserError, check
from outdo.types import IntArray

Messages = Sequence[Mapping[str, Any]]
Span = tuple[int, int]  # of characters
_MARK = "outdo7mark"  # stands for the policy's words where a template is rendered around them
_MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")


class Chat:
    """Renders conversations with the tokenizer's chat template, which is given the row's `tools` and `chat_template_kwargs`."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, row: Mapping[str, Any], place: str) -> None:
        tools = row.get("tools") or None
        self.place = place
        try:
            self.tools = without_none(json.loads(tools) if isinstance(tools, str) else tools)
            self.template: str = tokenizer.get_chat_template(tools=self.tools)
        except ValueError as e:
            what = "its tools are not JSON" if isinstance(e, json.JSONDecodeError) else "the tokenizer has no chat template"
            raise UserError(f"{place}: {what} ({str(e).splitlines()[0]}); messages take a chat model's tokenizer, and tools a "
                            "list of JSON schemas; other models take plain strings") from None
        self.variables = {**tokenizer.special_tokens_map, **(row.get("chat_template_kwargs") or {})}

    def text(self, messages: Messages, generate: bool = False, go_on: bool = False) -> str:
        """generate: up to where the assistant begins to write. go_on: up to where it goes on with the last message."""
        return self._render(messages, generate, go_on=go_on)[0]

    def spans(self, prompt: Messages, answer: Messages) -> tuple[str, list[Span]]:
        """The whole conversation as text, and where in it are the assistant's turns of the answer."""
        conversation = [*prompt, *answer]
        if _MARKED.search(self.template):
            text, spans = self._render(conversation, marks=True)
            return text, spans[len(self._render(prompt, marks=True)[1]) if prompt else 0 :]
        text, spans = self.text(conversation), list[Span]()
        for i, message in enumerate(conversation):
            if message["role"] == "assistant" and i >= len(prompt):
                before, after = self.text(conversation[:i], generate=True), self.text(conversation[: i + 1])
                check(after.startswith(before) and text.startswith(after), f"{self.place}: the chat template cannot tell what "
                      f"the assistant wrote in message {i}: the conversation up to there is rendered differently when it goes "
                      "on; mark the assistant's part in the template with {% generation %}, or keep each row to one answer")
                spans.append((len(before), len(after)))
        return text, spans

    def _render(self, messages: Messages, generate: bool = False, marks: bool = False,
                go_on: bool = False) -> tuple[str, list[Span]]:
        try:
            rendered: Any = render_jinja_template(
                conversations=[[dict(m) for m in messages]], tools=self.tools, chat_template=self.template,
                add_generation_prompt=generate, continue_final_message=go_on, return_assistant_tokens_mask=marks,
                **self.variables)  # fmt: skip
        except Exception as e:  # templates raise what they like
            said = " ".join(str(e).split())
            raise UserError(f"{self.place}: the chat template cannot render {_roles(messages)} ({type(e).__name__}: {said}); "
                            "change the row, or use a model whose template takes such conversations") from None
        (text,), spans = rendered
        return text, [(a, b) for a, b in spans[0] if b > a] if marks else []


def render(tokenizer: PreTrainedTokenizerBase, messages: Messages, tools: Sequence[dict[str, Any]] = (),
           reply: bool = True) -> str:
    """Messages as the chat template writes them, up to where the policy begins. Raises UserError."""
    go_on = reply and bool(messages) and messages[-1].get("role") == "assistant"
    return Chat(tokenizer, {"tools": list(tools)}, "the prompt").text(messages, reply and not go_on, go_on)


def encode(tokenizer: PreTrainedTokenizerBase, text: str, plain: bool = False) -> IntArray:
    """Token ids. plain: with the special tokens that the tokenizer puts around a text (rendered text has its own)."""
    return np.array(tokenizer(text, add_special_tokens=plain)["input_ids"], np.int64)


def decode(tokenizer: PreTrainedTokenizerBase, ids: IntArray) -> str:
    """The text of token ids (-1: nothing there), special tokens left out."""
    known = [i for i in ids.tolist() if i >= 0]
    return str(tokenizer.decode(known, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def turn_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token that the chat template writes after an assistant's words; None if there is no such special token."""
    if not tokenizer.chat_template:
        return None
    turn = [{"role": "user", "content": "x"}, {"role": "assistant", "content": _MARK}]
    after = encode(tokenizer, render(tokenizer, turn, reply=False).rpartition(_MARK)[2])
    special = {*tokenizer.all_special_ids, *(i for i, t in tokenizer.added_tokens_decoder.items() if t.special)}
    return next((int(i) for i in after if i in special), None)


def stop_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """End of text and end of turn. Raises UserError for a tokenizer that has neither."""
    found = {i for i in (tokenizer.eos_token_id, turn_end(tokenizer)) if i is not None}
    check(bool(found), "the model's tokenizer has no end-of-text token, so no answer would ever end; set its eos_token")
    return tuple(sorted(found))


def between_turns(tokenizer: PreTrainedTokenizerBase, messages: Messages, tools: Sequence[dict[str, Any]]) -> IntArray:
    """The tokens that the template writes after an assistant's end of turn when `messages` come next and it is then asked again.

    Rendered around a stand-in and cut after its end of turn: the policy's own tokens stay as they are. Raises UserError for
    templates that rewrite what came before.
    """
    turn = [{"role": "user", "content": "x"}, {"role": "assistant", "content": _MARK}]
    end = str(tokenizer.convert_ids_to_tokens(turn_end(tokenizer) or tokenizer.eos_token_id))
    before = render(tokenizer, turn, tools, reply=False)
    known = before[: before.rindex(_MARK) + len(_MARK)] + end
    after = render(tokenizer, [*turn, *messages], tools)
    check(before.startswith(known) and after.startswith(known), "the chat template rewrites earlier turns when a tool answers, "
          "so its tokens would not be those that the policy saw; use a model whose template only appends")
    return encode(tokenizer, after[len(known) :])


def without_none(value: Any) -> Any:
    """Without the keys that Arrow tables add to dicts that lack them."""
    if isinstance(value, Mapping):
        return {k: without_none(v) for k, v in value.items() if v is not None}
    return [without_none(v) for v in value] if isinstance(value, list | tuple) else value


def _roles(messages: Messages) -> str:
    return "a conversation of " + (", ".join(str(m["role"]) for m in messages[:6]) or "no messages")
