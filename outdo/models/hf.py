"""Checkpoints in Hugging Face layout: config.json, model.safetensors and the tokenizer's files, in and out."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, LlamaConfig, PretrainedConfig, PreTrainedTokenizerBase

from outdo.errors import UserError, check
from outdo.models.decoder import Decoder, DecoderConfig
from outdo.models.families import FAMILIES, decoder_config

_FIELDS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings",
)  # fmt: skip
_INDEX = "model.safetensors.index.json"


def save(model: Decoder, tokenizer: PreTrainedTokenizerBase, folder: Path, shard_bytes: int = 5 * 10**9) -> None:
    """Write a folder that `transformers.AutoModelForCausalLM` and `AutoTokenizer` open. Weights in float32."""
    config = copy.deepcopy(model.origin) if model.origin is not None else _llama_config(model.config, tokenizer)
    config.dtype = "float32"
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    weights = {k: v.detach().to("cpu", torch.float32).contiguous() for k, v in model.state_dict().items()}
    save_torch_state_dict(weights, folder, max_shard_size=shard_bytes, metadata={"format": "pt"})


def _llama_config(c: DecoderConfig, tokenizer: PreTrainedTokenizerBase) -> LlamaConfig:
    """What a decoder made here is called elsewhere."""
    return LlamaConfig(
        **{name: getattr(c, name) for name in _FIELDS},
        rope_parameters={"rope_type": "default", "rope_theta": c.rope_theta},
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attention_bias=False,
        mlp_bias=False,
        architectures=["LlamaForCausalLM"],
    )


def load_config(folder: Path) -> PretrainedConfig:
    """config.json, every default of its family filled in. Raises UserError for folders that hold none."""
    file = folder / "config.json"
    check(file.is_file(), f"checkpoint {str(folder)!r} has no config.json; give a folder in Hugging Face layout")
    try:
        data = json.loads(file.read_text())
    except ValueError as e:
        raise UserError(f"{str(file)!r} cannot be read ({e}); the checkpoint is damaged, use an earlier one") from None
    family = data.get("model_type")
    check(family in FAMILIES, f"checkpoint {str(folder)!r} is a {family!r}; supported: {', '.join(FAMILIES)}")
    missing = [name for name in _FIELDS[:5] if data.get(name) is None]
    check(not missing, f"{str(file)!r} lacks {', '.join(missing)}; the checkpoint is damaged, use an earlier one")
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(folder)
        return config
    except Exception as e:
        raise UserError(f"{str(file)!r} is no valid config ({type(e).__name__}: {e}); the checkpoint is damaged") from None


def load(folder: Path) -> Decoder:
    """The model in folder, float32. Raises UserError if it cannot be read or does not fit its config."""
    origin = load_config(folder)
    model = Decoder(decoder_config(origin, str(folder)))
    model.origin = origin
    load_weights(model, folder)
    return model


def load_weights(model: Decoder, folder: Path) -> None:
    """Read the weights into an existing model. Raises UserError; the model is then unchanged."""
    weights: dict[str, Tensor] = {}
    for file in _weight_files(folder):
        try:
            weights |= load_file(file)
        except (SafetensorError, OSError) as e:
            raise UserError(f"checkpoint file {str(file)!r} cannot be read ({e}); it is damaged, use an earlier one") from None
    want = {k: v.shape for k, v in model.state_dict().items()}
    weights = {k: v for k, v in weights.items() if k in want}
    wrong = sorted(k for k, shape in want.items() if k not in weights or weights[k].shape != shape)
    check(not wrong, f"checkpoint {str(folder)!r} does not fit its config.json: {', '.join(wrong[:3])} missing or misshapen")
    model.load_state_dict({k: v.float() for k, v in weights.items()})


def _weight_files(folder: Path) -> list[Path]:
    """model.safetensors, or all of its shards."""
    index, single = folder / _INDEX, folder / "model.safetensors"
    if not index.is_file():
        check(single.is_file(), f"checkpoint {str(folder)!r} has no model.safetensors; it is incomplete, use an earlier one")
        return [single]
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise UserError(f"{str(index)!r} cannot be read ({e}); the checkpoint is damaged, use an earlier one") from None
    files = [folder / Path(str(name)).name for name in names]
    missing = [f.name for f in files if not f.is_file()]
    check(not missing, f"checkpoint {str(folder)!r} lacks {', '.join(missing[:3])}, which {_INDEX} names; fetch it again")
    return files
