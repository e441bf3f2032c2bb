"""Rows of every shape, and tokenizers to render them with. Imported as `chats`."""

from __future__ import annotations

import functools
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from outdo.models import fetch
from outdo.text.shapes import Shape

USER = {"role": "user", "content": "What is 2+2?"}
GOOD = {"role": "assistant", "content": "It is 4."}
BAD = {"role": "assistant", "content": "It is 5."}
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}]

# each shape's rows, of text and of messages
EXAMPLES: list[tuple[Shape, dict[str, Any]]] = [
    (Shape.TEXT, {"text": "The sky is blue, \"mostly\".\nSo it is. 😀"}),
    (Shape.MESSAGES, {"messages": [USER, GOOD]}),
    (Shape.MESSAGES, {"messages": [USER, GOOD], "tools": TOOLS}),
    (Shape.PROMPT_ONLY, {"prompt": "The sky is", "answer": "blue"}),
    (Shape.PROMPT_ONLY, {"prompt": [USER]}),
    (Shape.PROMPT_COMPLETION, {"prompt": "The sky is", "completion": " blue."}),
    (Shape.PROMPT_COMPLETION, {"prompt": [USER], "completion": [GOOD]}),
    (Shape.PREFERENCE, {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}),
    (Shape.PREFERENCE, {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]}),
    (Shape.IMPLICIT_PREFERENCE, {"chosen": "The sky is blue.", "rejected": "The sky is green."}),
    (Shape.IMPLICIT_PREFERENCE, {"chosen": [USER, GOOD], "rejected": [USER, BAD]}),
    (Shape.UNPAIRED_PREFERENCE, {"prompt": "The sky is", "completion": " blue.", "label": True}),
    (Shape.UNPAIRED_PREFERENCE, {"prompt": [USER], "completion": [BAD], "label": False}),
    (Shape.STEPWISE, {"prompt": "Larger?", "completions": ["Compare.", "9 < 8.", "So 8."], "labels": [True, False, False]}),
]  # fmt: skip
NAMES = [f"{shape.name.lower()}-{'-'.join(row)}-{i}" for i, (shape, row) in enumerate(EXAMPLES)]

# ChatML with the assistant's part marked, its end token included.
MARKED = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] }}<|im_end|>{% endgeneration %}{% else %}{{ m['content'] }}<|im_end|>{% endif %}\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Like templates of reasoning models: thoughts of earlier turns are taken out once the conversation goes on.
FORGETFUL = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{{ m['content'] if loop.last else m['content'].split('</think>')[-1] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@functools.cache
def smollm2() -> PreTrainedTokenizerBase:
    """SmolLM2-135M-Instruct's tokenizer with its own template. Do not change it."""
    return AutoTokenizer.from_pretrained(fetch.fetch("smollm2", print))


def with_template(template: str | None) -> PreTrainedTokenizerBase:
    tokenizer = AutoTokenizer.from_pretrained(fetch.fetch("smollm2", print))
    tokenizer.chat_template = template
    return tokenizer


@functools.cache
def sentencepiece() -> PreTrainedTokenizerBase:
    """As Llama 2's and Mistral's: puts a space before whatever text it is given, and <s> before that."""
    bare = Tokenizer(models.BPE(unk_token="<unk>"))
    bare.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bare.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    bare.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    bare.train_from_iterator(["[INST] hello there [/INST] good day to you", "together [INST] good [/INST] hello"] * 9, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bare, bos_token="<s>", eos_token="</s>", unk_token="<unk>",
                                        clean_up_tokenization_spaces=False)  # fmt: skip
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
        "{% elif m['role'] == 'assistant' %} {{ m['content'] }}{{ eos_token }}"
        "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
    )
    return tokenizer
