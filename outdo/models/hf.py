"""Checkpoints in Hugging Face layout: config.json, model.safetensors and the tokenizer's files, in and out."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, PreTrainedTokenizerBase

from outdo.errors import UserError, check
from outdo.models.decoder import Decoder, DecoderConfig

_FIELDS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings",
)  # fmt: skip
# What this decoder has no code for: a config.json that says otherwise would load and compute something else.
_FIXED = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False}


def save(model: Decoder, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a folder that `transformers.AutoModelForCausalLM` and `AutoTokenizer` open. Weights in float32."""
    c = model.config
    config = LlamaConfig(
        **{name: getattr(c, name) for name in _FIELDS},
        rope_parameters={"rope_type": "default", "rope_theta": c.rope_theta},
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attention_bias=False,
        mlp_bias=False,
        architectures=["LlamaForCausalLM"],
        dtype="float32",
    )
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    weights = {k: v.detach().to("cpu", torch.float32).contiguous() for k, v in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def load_config(folder: Path) -> DecoderConfig:
    """Sizes from config.json. Raises UserError for folders and architectures that this decoder cannot run."""
    file = folder / "config.json"
    check(file.is_file(), f"checkpoint {str(folder)!r} has no config.json; give a folder in Hugging Face layout")
    try:
        data = json.loads(file.read_text())
    except ValueError as e:
        raise UserError(f"{str(file)!r} cannot be read ({e}); the checkpoint is damaged, use an earlier one") from None
    check(data.get("model_type") == "llama", f"checkpoint {str(folder)!r} is a {data.get('model_type')!r}; supported: llama")
    rope = data.get("rope_parameters") or {}
    kind = rope.get("rope_type", "default")
    check(kind == "default" and not data.get("rope_scaling"), f"checkpoint {str(folder)!r} scales its rotary positions "
          f"({kind}); only the default is supported")
    for name, value in _FIXED.items():
        check(data.get(name, value) == value, f"checkpoint {str(folder)!r} has {name} = {data.get(name)!r}; only {value!r} "
                                              "is supported")
    # Folders written by older versions of transformers leave these out.
    data = {"num_key_value_heads": data.get("num_attention_heads"), "tie_word_embeddings": False, "rms_norm_eps": 1e-6,
            "max_position_embeddings": 2048, **data}
    missing = [name for name in _FIELDS if data.get(name) is None]
    check(not missing, f"{str(file)!r} lacks {', '.join(missing)}; the checkpoint is damaged, use an earlier one")
    theta = rope.get("rope_theta", data.get("rope_theta", 10000.0))
    config = DecoderConfig(**{name: data[name] for name in _FIELDS}, rope_theta=theta)
    check(data.get("head_dim") in (None, config.head_dim), f"checkpoint {str(folder)!r} has head_dim = {data.get('head_dim')}; "
          f"only hidden_size / num_attention_heads = {config.head_dim} is supported")
    return config


def load(folder: Path) -> Decoder:
    """The model in folder, float32. Raises UserError if it cannot be read or does not fit its config."""
    model = Decoder(load_config(folder))
    load_weights(model, folder)
    return model


def load_weights(model: Decoder, folder: Path) -> None:
    """Read model.safetensors into an existing model. Raises UserError; the model is then unchanged."""
    file = folder / "model.safetensors"
    check(file.is_file(), f"checkpoint {str(folder)!r} has no model.safetensors; it is incomplete, use an earlier one")
    try:
        weights = load_file(file)
    except SafetensorError as e:
        raise UserError(f"checkpoint file {str(file)!r} cannot be read ({e}); it is damaged, use an earlier one") from None
    want = {k: v.shape for k, v in model.state_dict().items()}
    weights = {k: v for k, v in weights.items() if k in want}
    wrong = sorted(k for k, shape in want.items() if k not in weights or weights[k].shape != shape)
    check(not wrong, f"checkpoint {str(folder)!r} does not fit its config.json: {', '.join(wrong[:3])} missing or misshapen")
    model.load_state_dict({k: v.float() for k, v in weights.items()})
