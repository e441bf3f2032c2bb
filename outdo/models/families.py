"""Hugging Face configs of the families that the fast decoder covers, read as its own options.

transformers fills in every default of a family and computes the frequencies of scaled positions; what it says here is what its
own models compute. tests/models/test_families.py compares each family with them.
"""

from __future__ import annotations

from transformers import PretrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from outdo.errors import UserError
from outdo.models.decoder import DecoderConfig

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "smollm3")
_SCALINGS = ("default", "linear", "llama3", "yarn")  # the others change with the length of the sequence


def why_slow(config: PretrainedConfig) -> str:
    """Why a model of this config runs through transformers and not on the fast decoder; empty: it does."""
    if config.model_type not in FAMILIES:
        return f"{config.model_type} models"
    if config.hidden_act != "silu":
        return f"models with hidden_act = {config.hidden_act!r}"
    rope = config.rope_parameters
    if rope.get("rope_type", "default") not in _SCALINGS:
        return f"models that scale their rotary positions by {rope['rope_type']!r}"
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        return f"models that rotate a part of each head (partial_rotary_factor = {rope['partial_rotary_factor']})"
    return ""


def decoder_config(config: PretrainedConfig, name: str) -> DecoderConfig:
    """The decoder that computes what this config means, of which `why_slow` has nothing to say. name: for messages.

    Raises UserError for damaged options.
    """
    family, rope = config.model_type, config.rope_parameters
    kind = rope.get("rope_type", "default")
    try:
        frequencies, magnitude = ROPE_INIT_FUNCTIONS[kind](config) if kind != "default" else (None, 1.0)
    except (KeyError, TypeError, ZeroDivisionError) as e:
        raise UserError(f"checkpoint {name!r} scales its rotary positions by {kind!r}, but its rope_parameters lack or spoil "
                        f"{e}; the config is damaged") from None
    layers = config.num_hidden_layers
    biased = bool(getattr(config, "attention_bias", False))
    return DecoderConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        max_position_embeddings=config.max_position_embeddings,
        rope_theta=float(rope["rope_theta"]),
        rms_norm_eps=config.rms_norm_eps,
        tie_word_embeddings=bool(config.tie_word_embeddings),
        head_size=_head_size(config),
        qkv_bias=biased or family == "qwen2",
        o_bias=biased,
        mlp_bias=bool(getattr(config, "mlp_bias", False)),
        qk_norm=family == "qwen3",
        windows=_windows(config, layers),
        rotary=tuple(map(bool, config.no_rope_layers)) if family == "smollm3" else (),
        frequencies=None if frequencies is None else tuple(float(f) for f in frequencies),
        rope_magnitude=float(magnitude),
    )


def _head_size(config: PretrainedConfig) -> int | None:
    """None where it is what the other sizes say."""
    size = getattr(config, "head_dim", None)
    return None if size in (None, config.hidden_size // config.num_attention_heads) else int(size)


def _windows(config: PretrainedConfig, layers: int) -> tuple[int | None, ...]:
    window = getattr(config, "sliding_window", None)
    if window is None:
        return ()
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * layers
    windows = tuple(int(window) if kind == "sliding_attention" else None for kind in kinds)
    return windows if any(windows) else ()
