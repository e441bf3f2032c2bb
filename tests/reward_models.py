"""A reward model that many tests share: a tiny Llama classifier of random weights, saved as its users save theirs."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

import real
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification


def model(seed: int = 0, labels: int = 1) -> LlamaForSequenceClassification:
    torch.manual_seed(seed)
    words = len(real.tokenizer())
    c = LlamaConfig(vocab_size=words, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                    num_key_value_heads=2, max_position_embeddings=256, num_labels=labels, initializer_range=0.3,
                    pad_token_id=real.tokenizer().pad_token_id)
    return LlamaForSequenceClassification(c).eval()


@functools.cache
def folder() -> Path:
    """On disk, with SmolLM2's tokenizer and chat template."""
    path = Path(tempfile.mkdtemp(prefix="outdo-test-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    model().save_pretrained(path)
    real.tokenizer().save_pretrained(path)
    return path
