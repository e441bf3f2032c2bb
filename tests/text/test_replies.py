"""What a model wrote and where it ends: read back whole, and stopped by every token that ends a reply.

Run: .venv/bin/python -m pytest tests/text/test_replies.py   (about 5 s on one core)
"""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import real
from chats import FORGETFUL, GOOD, TOOLS, USER, smollm2, with_template
from talk import bound

from outdo.models import hf
from outdo.tasks.text import tools
from outdo.text import chat
from outdo.text.render import Renderer

END = 2  # <|im_end|>
# As GLM's: an assistant's turn ends where the next role's marker begins.
OPEN_ENDED = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}{% endfor %}" \
             "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"  # fmt: skip
PLAIN = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"


def with_special_tags() -> Any:
    """A tokenizer of which thoughts and tool calls are special tokens, as in several reasoning models."""
    tokenizer = copy.deepcopy(smollm2())
    tags = ["<think>", "</think>", "<tool_call>", "</tool_call>"]
    tokenizer.add_special_tokens({"additional_special_tokens": tags})
    return tokenizer


def test_tags_that_are_special_tokens_reach_rewards_and_tools() -> None:
    tokenizer = with_special_tags()
    said = '<think>easy</think>four <tool_call>{"name": "add", "arguments": {}}</tool_call>'
    ids = np.array([*chat.encode(tokenizer, said), END, -1, -1])
    assert {t for t in ids.tolist() if t >= 0} & {tokenizer.convert_tokens_to_ids("<think>")}, "one token each"
    assert chat.decode(tokenizer, ids, [END]) == said
    task = bound(tokenizer)
    (prompt,) = task.prompts("train", 1, 0)
    episodes = task.episodes([prompt], np.arange(1))
    episodes.step(np.array([0]), ids[None])
    assert episodes.info(0)["completion"][0]["content"] == said
    assert tools.calls(chat.decode(tokenizer, ids, [END])) == [("add", {})]


def test_only_what_ends_a_reply_is_taken_off() -> None:
    ids = np.array([*chat.encode(smollm2(), "a<|im_start|>b"), END])
    assert chat.decode(smollm2(), ids, [END]) == "a<|im_start|>b"
    assert chat.decode(smollm2(), ids) == "a<|im_start|>b" + "<|im_end|>" * (smollm2().pad_token_id != END)


def test_every_end_that_the_checkpoint_names_stops_a_reply(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(real.smollm2(), folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 7, 11]}), encoding="utf-8")
    assert chat.stop_ids(hf.load_tokenizer(folder)) == (2, 7, 11)
    (folder / "generation_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(Exception, match=r"generation_config\.json is not a JSON object"):
        hf.load_tokenizer(folder)


def test_the_next_roles_marker_ends_a_turn() -> None:
    tokenizer = with_template(OPEN_ENDED)
    marker = tokenizer.convert_tokens_to_ids("<|im_start|>")
    assert marker in chat.stop_ids(tokenizer) and not chat.never_ends(tokenizer)
    (text,) = Renderer(tokenizer, 99)({"messages": [USER, GOOD, USER, GOOD]})
    assert tokenizer.decode(text.token_ids[text.mask]) == "It is 4.<|im_start|>" * 2
    assert text.token_ids.tolist().count(marker) == 5, "four turns, and the end of the last"


def test_a_template_that_never_ends_a_turn_is_seen() -> None:
    assert chat.never_ends(with_template(PLAIN))
    assert not any(chat.never_ends(t) for t in (smollm2(), with_template(FORGETFUL), with_template(None)))


def test_the_rows_own_tools_and_template_options_are_used_everywhere() -> None:
    """Training on rows, sampling from prompts and what `outdo inspect` shows come from the same rendering."""
    template = ("{% if tools %}{{ tools | tojson }}{% endif %}{% if enable_thinking is defined %}thinking={{ enable_thinking }} "
                "{% endif %}" + FORGETFUL)
    tokenizer = with_template(template)
    row = {"messages": [USER, GOOD], "tools": TOOLS, "chat_template_kwargs": {"enable_thinking": False}}
    (text,) = Renderer(tokenizer, 999)(row)
    (prompt,) = bound(tokenizer, [row]).prompts("train", 1, 0)
    assert text.token_ids[: len(prompt.token_ids)].tolist() == prompt.token_ids.tolist()
    shown = tokenizer.decode(prompt.token_ids)
    assert "thinking=False" in shown and '"name": "add"' in shown


def test_bare_strings_as_messages() -> None:
    (bare,), (wrapped,) = (bound(smollm2(), [{"prompt": "2+2?"}], chat=c).prompts("train", 1, 0) for c in (False, True))
    assert smollm2().decode(bare.token_ids) == "2+2?"
    assert wrapped.row["prompt"] == [{"role": "user", "content": "2+2?"}] and END in wrapped.token_ids
