"""A real chat model for tests: SmolLM2-135M-Instruct, fetched once into the user's cache."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from outdo.models import fetch, hf
from outdo.rollout.engine import Engine


@functools.cache
def smollm2() -> Path:
    return fetch.fetch("smollm2", print)


@functools.cache
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(smollm2())


@functools.cache
def engine() -> Engine:
    out = Engine(hf.load(smollm2()), torch.float32, slots=64)
    out.load(0)
    return out
