"""Between messages and token ids: prompts as the model's chat template writes them, and what ends a turn.

A prompt is a string, given to the model as it is, or a list of messages ({"role", "content", ...}), given through the
tokenizer's chat template. What the policy wrote is never encoded again: only what comes before and after it is rendered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from outdo.errors import UserError, check
from outdo.types import IntArray

Messages = list[dict[str, Any]]
_MARK = "outdo7mark"  # stands for the policy's words where a template is rendered around them


def render(tokenizer: PreTrainedTokenizerBase, messages: Messages, tools: Sequence[dict[str, Any]] = (),
           reply: bool = True) -> str:
    """Messages as the chat template writes them, up to where the policy begins. Raises UserError."""
    check(bool(tokenizer.chat_template), "the model's tokenizer has no chat template, and the prompts are messages; use a chat "
          "model, or give prompts as plain strings (a column `prompt`; chat = false)")
    continued = reply and bool(messages) and messages[-1].get("role") == "assistant"
    try:
        return str(tokenizer.apply_chat_template(
            messages, tools=list(tools) or None, tokenize=False, add_generation_prompt=reply and not continued,
            continue_final_message=continued))
    except (TemplateError, TypeError, ValueError, KeyError) as e:
        roles = ", ".join(str(m.get("role")) for m in messages)
        raise UserError(f"the chat template refuses messages with the roles {roles} ({type(e).__name__}: {e})") from None


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
    turn: Messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": _MARK}]
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
    turn: Messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": _MARK}]
    end = str(tokenizer.convert_ids_to_tokens(turn_end(tokenizer) or tokenizer.eos_token_id))
    before = render(tokenizer, turn, tools, reply=False)
    known = before[: before.rindex(_MARK) + len(_MARK)] + end
    after = render(tokenizer, [*turn, *messages], tools)
    check(before.startswith(known) and after.startswith(known), "the chat template rewrites earlier turns when a tool answers, "
          "so its tokens would not be those that the policy saw; use a model whose template only appends")
    return encode(tokenizer, after[len(known) :])
