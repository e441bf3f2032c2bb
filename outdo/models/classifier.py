"""A reward model in Hugging Face layout: the decoder and a head of one number, for AutoModelForSequenceClassification."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers
from transformers import PreTrainedTokenizerBase

from outdo.errors import check
from outdo.models import adapt, hf
from outdo.models.base import LanguageModel
from outdo.models.critic import Critic
from outdo.system import files

_HEAD = "score.weight"


def save(model: LanguageModel, head: Critic, tokenizer: PreTrainedTokenizerBase, folder: Path, **more: Any) -> None:
    """Write config, weights in float32 (adapters merged) and tokenizer. Raises UserError for a family without that class.

    The head has no bias, as in transformers' classes. more: further keys of config.json.
    """
    config = hf.config_of(model, tokenizer)
    kind: Any = transformers.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(config), None)
    check(kind is not None, f"transformers has no sequence-classification model of family {config.model_type!r}; train the "
          "reward model from a Llama, Qwen, Mistral or Gemma checkpoint")
    config.architectures, config.num_labels, config.dtype = [kind.__name__], 1, "float32"
    config.pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    config.update(more)
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    weights = {k.removeprefix("module."): v.detach().cpu().float().contiguous() for k, v in adapt.merged(model).items()
               if not k.removeprefix("module.").startswith("lm_head.")}
    files.write_weights(folder, {**weights, _HEAD: head.weight.detach().cpu().float()[None].contiguous()})

