"""Checkpoints in Hugging Face layout: config.json, model.safetensors and the tokenizer's files, in and out."""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaConfig, PretrainedConfig, PreTrainedTokenizerBase
from transformers.utils import logging

from outdo.errors import UserError, check
from outdo.models import adapt
from outdo.models.base import LanguageModel
from outdo.models.decoder import Decoder, DecoderConfig
from outdo.models.fallback import Fallback
from outdo.models.families import FAMILIES, decoder_config, why_slow
from outdo.system import files

_FIELDS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings",
)  # fmt: skip
_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
_INDEX, _GENERATION = "model.safetensors.index.json", "generation_config.json"


def save(model: LanguageModel, tokenizer: PreTrainedTokenizerBase, folder: Path, shard_bytes: int = 5 * 10**9) -> None:
    """Write a folder that `transformers.AutoModelForCausalLM` and `AutoTokenizer` open. Weights in float32, adapters merged."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    if model.generation is not None:
        (folder / _GENERATION).write_text(model.generation, encoding="utf-8")
    if adapt.adapted(model):
        adapt.save(model, folder / adapt.FOLDER, model.source)
    weights = adapt.merged(model)
    if isinstance(model, Fallback):
        plain = {k.removeprefix("module."): v.detach().cpu().float().contiguous() for k, v in weights.items()}
        with _quiet():
            model.module.save_pretrained(folder, max_shard_size=shard_bytes, state_dict=plain)
        return
    assert isinstance(model, Decoder)
    config = config_of(model, tokenizer)
    config.dtype = "float32"
    config.save_pretrained(folder)
    files.write_weights(folder, weights, shard_bytes)


def config_of(model: LanguageModel, tokenizer: PreTrainedTokenizerBase) -> PretrainedConfig:
    """A copy of the Hugging Face config that the model was loaded with; what a decoder made here is called there."""
    if model.origin is not None:
        return copy.deepcopy(model.origin)
    assert isinstance(model, Decoder)
    return _llama_config(model.config, tokenizer)


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
        data = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as e:
        raise UserError(f"{str(file)!r} cannot be read ({e}); the checkpoint is damaged, use an earlier one") from None
    check(isinstance(data, dict), f"{str(file)!r} is no table of settings; the checkpoint is damaged")
    family = data.get("model_type")
    missing = [name for name in _FIELDS[:5] if family in FAMILIES and data.get(name) is None]
    check(not missing, f"{str(file)!r} lacks {', '.join(missing)}; the checkpoint is damaged, use an earlier one")
    check(family in transformers.models.auto.configuration_auto.CONFIG_MAPPING, f"checkpoint {str(folder)!r} is of model_type "
          f"{family!r}, which transformers {transformers.__version__} does not know; use another model or a newer transformers")
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(folder)
    except Exception as e:
        raise UserError(f"{str(file)!r} is no valid config ({type(e).__name__}: {e}); the checkpoint is damaged") from None
    check(type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING, f"checkpoint {str(folder)!r} is a {family!r}, which is no "
          "causal language model; outdo trains models that write text from left to right")
    return config


def skeleton(folder: Path) -> LanguageModel:
    """The model in folder without its weights, on the meta device. Raises UserError."""
    origin = load_config(folder)
    if _untied(folder, origin):
        origin.tie_word_embeddings = False
    fast = None if why_slow(origin) else decoder_config(origin, str(folder))
    with torch.device("meta"):
        return Decoder(fast) if fast else Fallback(AutoModelForCausalLM.from_config(origin))  # type: ignore[no-untyped-call]


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in folder, chat template included. Raises UserError."""
    load_config(folder)  # a damaged one would be taken for the tokenizer's fault
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
        tokenizer.generation_ends = _generation_ends(folder)
        return tokenizer
    except Exception as e:
        raise UserError(f"checkpoint {str(folder)!r} has no tokenizer that can be read ({type(e).__name__}: {_first(e)}); copy "
                        "tokenizer.json and tokenizer_config.json of its model into it") from None


def _generation_ends(folder: Path) -> tuple[int, ...]:
    """The end tokens that generation_config.json names beside the tokenizer's own (Llama 3, Qwen, Phi and GLM list several)."""
    file = folder / _GENERATION
    try:
        ends = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id") if file.is_file() else None
    except (json.JSONDecodeError, AttributeError) as e:
        raise UserError(f"{file} is not a JSON object ({e}); copy it from its model again, or delete it") from None
    return tuple(i for i in (ends if isinstance(ends, list) else [ends]) if isinstance(i, int))


def load(folder: Path) -> LanguageModel:
    """The model in folder, float32: the fast decoder, or transformers' own model for other families, said on stderr.

    Raises UserError if it cannot be read or does not fit its config.
    """
    origin = load_config(folder)
    if _untied(folder, origin):
        print(f"outdo: {folder}: config.json ties the head to the embeddings and the file holds a head of its own; it is used, "
              "and saved as not tied", file=sys.stderr)
        origin.tie_word_embeddings = False
    if not (reason := why_slow(origin)):
        model: LanguageModel = Decoder(decoder_config(origin, str(folder)))
        model.origin = origin
        load_weights(model, folder)
    else:
        _say_slower(reason)
        model = Fallback(_foreign(folder))
        model.verify(str(folder))
    model.source, generation = str(folder.resolve()), folder / _GENERATION
    model.generation = generation.read_text(encoding="utf-8") if generation.is_file() else None
    return model


def load_weights(model: LanguageModel, folder: Path) -> None:
    """Read what trained into an existing model: an adapter where it has one. Raises UserError; the model is then unchanged."""
    if adapt.adapted(model):
        return adapt.load(model, folder / adapt.FOLDER)
    if isinstance(model, Fallback):
        model.module.load_state_dict(_foreign(folder).state_dict())
        return
    weights: dict[str, Tensor] = {}
    for file in _weight_files(folder):
        try:
            weights |= load_file(file)
        except (SafetensorError, OSError) as e:
            raise UserError(f"checkpoint file {str(file)!r} cannot be read ({e}); it is damaged, use an earlier one") from None
    want = {k: v.shape for k, v in model.state_dict().items()}
    _check_known(weights, want, folder)
    weights = {k: v for k, v in weights.items() if k in want}
    wrong = sorted(k for k, shape in want.items() if k not in weights or weights[k].shape != shape)
    check(not wrong, f"checkpoint {str(folder)!r} does not fit its config.json: {', '.join(wrong[:3])} missing or misshapen")
    for name, weight in weights.items():
        check(bool(torch.isfinite(weight).all()), f"checkpoint {str(folder)!r}: parameter {name} holds numbers that are not "
              "finite; it is damaged, use an earlier one")
    model.load_state_dict({k: v.float() for k, v in weights.items()})


# Weights that some files carry and no model needs: they are computed, or tied to others.
_SUPERFLUOUS = ("rotary_emb.inv_freq", "attn.masked_bias", "attn.bias_mask")


def _check_known(weights: Mapping[str, Tensor], want: Mapping[str, Any], folder: Path) -> None:
    """Raise UserError for a weight that the architecture of config.json does not have: leaving it out is another model."""
    unknown = sorted(k for k in weights if k not in want and k != _HEAD and not k.endswith(_SUPERFLUOUS))
    check(not unknown, f"checkpoint {str(folder)!r} holds {', '.join(unknown[:3])}, which the model_type of its config.json "
          "does not have; name the right model_type, or take these weights out of the file")


def _untied(folder: Path, origin: PretrainedConfig) -> bool:
    """Whether config.json says that the head is tied to the embeddings and the file holds another head (merged adapters do)."""
    if not getattr(origin, "tie_word_embeddings", False):
        return False
    head = embedding = None
    for file in _weight_files(folder):
        with contextlib.suppress(SafetensorError, OSError), safe_open(file, "pt") as f:
            keys = set(f.keys())
            head = f.get_tensor(_HEAD) if _HEAD in keys else head
            embedding = f.get_tensor(_EMBEDDING) if _EMBEDDING in keys else embedding
    return head is not None and embedding is not None and not torch.equal(head, embedding)


def _foreign(folder: Path) -> transformers.PreTrainedModel:
    """A model of a family that is not ours, by transformers, which would fill gaps with random numbers."""
    for file in _weight_files(folder):
        check(file.stat().st_size > 0, f"checkpoint file {str(file)!r} is empty; it is damaged, fetch it again")
    try:
        with _quiet():
            loaded: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, use_safetensors=True,
                                                               ignore_mismatched_sizes=True, output_loading_info=True)
    except Exception as e:
        raise UserError(f"checkpoint {str(folder)!r} cannot be read ({type(e).__name__}: {_first(e)}); it is damaged, use an "
                        "earlier one") from None
    module: transformers.PreTrainedModel = loaded[0]
    wrong = sorted(str(k) for kind in ("missing_keys", "mismatched_keys") for k in loaded[1][kind])
    check(not wrong, f"checkpoint {str(folder)!r} does not fit its config.json: {', '.join(wrong[:3])} missing or misshapen")
    return module


def _weight_files(folder: Path) -> list[Path]:
    """model.safetensors, or all of its shards."""
    index, single = folder / _INDEX, folder / "model.safetensors"
    if not index.is_file():
        check(single.is_file(), f"checkpoint {str(folder)!r} has no model.safetensors; it is incomplete, use an earlier one")
        return [single]
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise UserError(f"{str(index)!r} cannot be read ({e}); the checkpoint is damaged, use an earlier one") from None
    shards = [folder / Path(str(name)).name for name in names]
    missing = [f.name for f in shards if not f.is_file()]
    check(not missing, f"checkpoint {str(folder)!r} lacks {', '.join(missing[:3])}, which {_INDEX} names; fetch it again")
    return shards


@functools.cache
def _say_slower(reason: str) -> None:
    print(f"outdo: {reason} run through transformers, which is the slower path; fast are {', '.join(FAMILIES)}",
          file=sys.stderr)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bars and load reports."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(level)
        logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _first(e: Exception) -> str:
    return (str(e).strip().splitlines() or [""])[0]
