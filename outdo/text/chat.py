"""Between messages and token ids: conversations as the model's chat template writes them, and what ends a turn.

A prompt is a string, given to the model as it is, or a list of messages ({"role", "content", ...}), given through the
tokenizer's chat template. What the policy wrote is never encoded again: only what comes before and after it is rendered.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
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

    def __init__(self, tokenizer: PreTrainedTokenizerBase, row: Mapping[str, Any], place: str, marker: str | None = None) -> None:
        """marker: the tokenizer's `closing_marker`; where there is one, texts to train on end with it."""
        tools = row.get("tools") or None
        self.place, self.marker = place, marker
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

    def pieces(self, prompt: Messages, answer: Messages, turns: str = "auto") -> list[tuple[str, list[Span]]]:
        """Texts to train on, each with the places of the assistant's words in it.

        turns: "together" is one text with all of the answer's turns; "apart" one text a turn, each rendered as it is at
        inference: the conversation so far, then what the assistant wrote. "auto" takes them apart only where the template
        renders an earlier turn differently once the conversation goes on (it drops earlier thoughts, as Qwen3's does).
        """
        if turns != "apart":
            whole = self._together(prompt, answer)
            if whole is not None:
                return [whole]
            check(turns == "auto", f"{self.place}: turns = 'together', and the chat template renders earlier turns differently "
                  "when the conversation goes on; use turns = 'apart', or mark the assistant's words in the template with "
                  "{% generation %}")
        conversation = [*prompt, *answer]
        replies = [i for i, m in enumerate(conversation) if m["role"] == "assistant" and i >= len(prompt)]
        return [self._turn(conversation[: i + 1]) for i in replies]

    def whole(self, prompt: Messages, answer: Messages) -> tuple[str, list[Span]]:
        """The conversation as one text, for training on all of it."""
        return self._together(prompt, answer) or (self.text([*prompt, *answer]), [])

    def _together(self, prompt: Messages, answer: Messages) -> tuple[str, list[Span]] | None:
        """The whole conversation, if the template writes each turn as it did when the conversation ended there."""
        conversation = [*prompt, *answer]
        if _MARKED.search(self.template):
            text, spans = self._render(conversation, marks=True)
            return text, spans[len(self._render(prompt, marks=True)[1]) if prompt else 0 :]
        text, spans = self.text(conversation), list[Span]()
        for i, message in enumerate(conversation):
            if message["role"] == "assistant" and i >= len(prompt):
                before, after = self.text(conversation[:i], generate=True), self.text(conversation[: i + 1])
                if not (after.startswith(before) and text.startswith(after)):
                    return None
                spans.append((len(before), len(after)))
        return self._closed(text, spans)

    def _turn(self, conversation: Messages) -> tuple[str, list[Span]]:
        """A conversation up to one of the assistant's turns, of which only that turn trains."""
        before, text = self.text(conversation[:-1], generate=True), self.text(conversation)
        check(text.startswith(before), f"{self.place}: the chat template cannot tell what the assistant wrote in message "
              f"{len(conversation) - 1}: it renders the prompt differently once it is answered; mark the assistant's part in the "
              "template with {% generation %}")
        return self._closed(text, [(len(before), len(text))])

    def _closed(self, text: str, spans: list[Span]) -> tuple[str, list[Span]]:
        """With the marker that ends a turn where the template leaves that to the next role's: it trains, so replies end."""
        marker = self.marker
        if marker is None:
            return text, spans
        if spans and spans[-1][1] == len(text):
            text += marker
        return text, [(a, b + len(marker) if text.startswith(marker, b) else b) for a, b in spans]

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
           reply: bool = True, row: Mapping[str, Any] | None = None) -> str:
    """Messages as the chat template writes them, up to where the policy begins. Raises UserError.

    row: its columns `tools` (beside the ones given) and `chat_template_kwargs` go to the template.
    """
    go_on = reply and bool(messages) and messages[-1].get("role") == "assistant"
    row = row or {}
    columns = {"tools": [*tools, *tools_of(row)], "chat_template_kwargs": row.get("chat_template_kwargs")}
    return Chat(tokenizer, columns, "the prompt").text(messages, reply and not go_on, go_on)


def tools_of(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The JSON schemas in a row's `tools` column, a list or its JSON. Raises UserError."""
    tools = row.get("tools") or []
    try:
        found = json.loads(tools) if isinstance(tools, str) else tools
    except json.JSONDecodeError as e:
        raise UserError(f"column tools is not JSON ({e}); it holds a list of JSON schemas") from None
    return [without_none(t) for t in found]


def encode(tokenizer: PreTrainedTokenizerBase, text: str, plain: bool = False) -> IntArray:
    """Token ids. plain: with the special tokens that the tokenizer puts around a text (rendered text has its own)."""
    return np.array(tokenizer(text, add_special_tokens=plain)["input_ids"], np.int64)


def decode(tokenizer: PreTrainedTokenizerBase, ids: IntArray, ends: Collection[int] = ()) -> str:
    """The text that a model wrote, as token ids (-1: nothing there): everything but the tokens that end it.

    ends: the tokens that end a reply. These and padding are taken off the end; other special tokens, such as `<think>` and
    `<tool_call>` in several models, are words of the model and stay.
    """
    known = [i for i in ids.tolist() if i >= 0]
    while known and (known[-1] in ends or known[-1] == tokenizer.pad_token_id):
        known.pop()
    return str(tokenizer.decode(known, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def turn_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token that the chat template writes after an assistant's words; None if there is no such special token."""
    if not tokenizer.chat_template:
        return None
    turn = [{"role": "user", "content": "x"}, {"role": "assistant", "content": _MARK}]
    after = encode(tokenizer, render(tokenizer, turn, reply=False).rpartition(_MARK)[2])
    special = _special_ids(tokenizer)
    return next((int(i) for i in after if i in special), None)


def _special_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    return {*tokenizer.all_special_ids, *(i for i, t in tokenizer.added_tokens_decoder.items() if t.special)}


def closing_marker(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The next role's marker, where the chat template writes nothing after an assistant's turn and leaves its end to that."""
    if not tokenizer.chat_template or turn_end(tokenizer) is not None:
        return None
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": _MARK}, {"role": "user", "content": "x"}]
    after = encode(tokenizer, render(tokenizer, turns, reply=False).rpartition(_MARK)[2])[:1]
    special = _special_ids(tokenizer)
    return str(tokenizer.convert_ids_to_tokens(int(after[0]))) if len(after) and int(after[0]) in special else None


NEVER_ENDS = ("the chat template writes nothing after an assistant's turn, so training on it never teaches the model to stop; "
              "write the end-of-text token after the assistant's words in the template")


def never_ends(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether training on conversations would never show the model a token that ends its turn."""
    return bool(tokenizer.chat_template) and turn_end(tokenizer) is None and closing_marker(tokenizer) is None


def known_ends(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """As `stop_ids`; empty for a tokenizer that has none."""
    marker = closing_marker(tokenizer)
    closing: Any = None if marker is None else tokenizer.convert_tokens_to_ids(marker)
    own = (tokenizer.eos_token_id, turn_end(tokenizer), closing, *getattr(tokenizer, "generation_ends", ()))
    return {i for i in own if i is not None}


def stop_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The tokens that end a reply: of the tokenizer, of the chat template and of the checkpoint's generation_config.json.

    Raises UserError if there is none.
    """
    found = known_ends(tokenizer)
    check(bool(found), "the model's tokenizer has no end-of-text token, so no answer would ever end; set its eos_token")
    return tuple(sorted(found))


def between_turns(tokenizer: PreTrainedTokenizerBase, messages: Messages, tools: Sequence[dict[str, Any]],
                  row: Mapping[str, Any] | None = None) -> IntArray:
    """The tokens that the template writes after an assistant's end of turn when `messages` come next and it is then asked again.

    Rendered around a stand-in and cut after its end of turn: the policy's own tokens stay as they are, thoughts included, even
    where the template would drop them from an earlier turn.
    """
    turn = [{"role": "user", "content": "x"}, {"role": "assistant", "content": _MARK}]
    marker = closing_marker(tokenizer)
    end = marker or str(tokenizer.convert_ids_to_tokens(turn_end(tokenizer) or tokenizer.eos_token_id))
    after = render(tokenizer, [*turn, *messages], tools, row=row)
    check(_MARK + end in after, "the chat template leaves out an earlier turn when the conversation goes on, so there is no "
          "telling which tokens come next; use a model whose template keeps it")
    return encode(tokenizer, after[after.rindex(_MARK + end) + len(_MARK + end) :])


def rewrites_turns(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template renders an assistant's turn differently once the conversation goes on (it drops thoughts)."""
    if not tokenizer.chat_template:
        return False
    turn = [{"role": "user", "content": "x"}, {"role": "assistant", "content": f"<think>\ny\n</think>\n\n{_MARK}"}]
    before = render(tokenizer, turn, reply=False).partition(_MARK)[0]
    return not render(tokenizer, [*turn, {"role": "user", "content": "z"}]).startswith(before)


def without_none(value: Any) -> Any:
    """Without the keys that Arrow tables add to dicts that lack them."""
    if isinstance(value, Mapping):
        return {k: without_none(v) for k, v in value.items() if v is not None}
    return [without_none(v) for v in value] if isinstance(value, list | tuple) else value


def _roles(messages: Messages) -> str:
    return "a conversation of " + (", ".join(str(m["role"]) for m in messages[:6]) or "no messages")
