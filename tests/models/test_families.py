"""Every family that the fast decoder covers against its own model in transformers, on small random configurations.

Run: .venv/bin/python -m pytest tests/models/test_families.py   (about 15 s on one core)

Logits, gradients of all parameters, greedy tokens with a cache, and folders that go out and come back.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from toys import engine, prompts, tokenizer
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.llama import LlamaConfig
from transformers.models.mistral import MistralConfig
from transformers.models.qwen2 import Qwen2Config
from transformers.models.qwen3 import Qwen3Config
from transformers.models.smollm3 import SmolLM3Config

from outdo.errors import UserError
from outdo.models import hf
from outdo.models.decoder import Decoder
from outdo.models.families import FAMILIES
from outdo.rollout.engine import Sampling

SIZES: dict[str, Any] = {"vocab_size": 29, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 4,
                         "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
                         "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}  # fmt: skip
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 16}  # fmt: skip
LINEAR = {"rope_type": "linear", "rope_theta": 99.0, "factor": 3.0}
YARN = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 16}
CASES = {
    "llama": LlamaConfig(**SIZES),
    "llama with biases": LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
    "llama 3": LlamaConfig(**SIZES, rope_parameters=LLAMA3),
    "llama, positions stretched": LlamaConfig(**SIZES, rope_parameters=LINEAR),
    "llama, wide heads": LlamaConfig(**SIZES, head_dim=10),
    "smollm2": LlamaConfig(**{**SIZES, "num_attention_heads": 3, "num_key_value_heads": 1}, tie_word_embeddings=True),
    "mistral": MistralConfig(**SIZES, sliding_window=None),
    "mistral with a window": MistralConfig(**SIZES, sliding_window=5),
    "qwen2": Qwen2Config(**SIZES, tie_word_embeddings=True),
    "qwen2 with windows above": Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=4, max_window_layers=2),
    "qwen2, yarn": Qwen2Config(**SIZES, rope_parameters=YARN),
    "qwen3": Qwen3Config(**SIZES, head_dim=8),
    "qwen3 with biases": Qwen3Config(**SIZES, head_dim=6, attention_bias=True, tie_word_embeddings=True),
    "smollm3": SmolLM3Config(**SIZES),
    "smollm3 with windows": SmolLM3Config(**SIZES, use_sliding_window=True, sliding_window=4, no_rope_layers=[1, 0, 0, 1]),
}
LENGTH = 40


@pytest.fixture(params=CASES, ids=list(CASES), scope="module")
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[PreTrainedModel, Decoder, Path]:
    """transformers' model with random weights, biases and norms included, and ours from its folder."""
    config = CASES[request.param]
    config._attn_implementation = "eager"
    generator = torch.Generator().manual_seed(3)
    theirs = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for p in theirs.parameters():
            p.copy_((1.0 if p.dim() == 1 else 0.0) + 0.3 * torch.randn(p.shape, generator=generator))
    folder = tmp_path_factory.mktemp("family")
    theirs.save_pretrained(folder)
    tokenizer(29).save_pretrained(folder)
    return theirs, hf.load(folder), folder


def ids(rows: int = 2) -> torch.Tensor:
    return torch.randint(3, 29, (rows, LENGTH), generator=torch.Generator().manual_seed(1))


def logits(model: Decoder, tokens: torch.Tensor) -> torch.Tensor:
    packed = model.pack(torch.float32)
    return model.logits(packed, model.hidden(packed, tokens))


def test_logits_and_gradients(both: tuple[PreTrainedModel, Decoder, Path]) -> None:
    theirs, ours, _ = both
    want, got = theirs(ids()).logits, logits(ours, ids())
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4 * float(want.detach().abs().max()))
    weights = torch.randn(want.shape, generator=torch.Generator().manual_seed(2))
    for out in (want, got):
        (out * weights).sum().backward()
    gradients = {name: p.grad for name, p in theirs.named_parameters()}
    for name, p in ours.named_parameters():
        g = gradients[name]
        assert g is not None and p.grad is not None
        torch.testing.assert_close(p.grad, g, rtol=1e-3, atol=2e-4 * max(1.0, float(g.abs().max())), msg=name)
    assert gradients.keys() == dict(ours.named_parameters()).keys()


def test_greedy_tokens_with_a_cache(both: tuple[PreTrainedModel, Decoder, Path]) -> None:
    theirs, ours, _ = both
    for prompt in prompts([3, 9, 14]):
        start = torch.from_numpy(prompt.token_ids)[None]
        want = theirs.generate(start, attention_mask=torch.ones_like(start), max_new_tokens=20, do_sample=False,
                               eos_token_id=None, pad_token_id=0)[0]  # fmt: skip
        got, _ = engine(ours).generate([prompt], 1, Sampling(0.0, 20, len(prompt.token_ids) + 20), 0)
        assert got[0].token_ids.tolist() == want.tolist()


def test_a_folder_goes_out_as_the_family_it_came_in(both: tuple[PreTrainedModel, Decoder, Path], tmp_path: Path) -> None:
    theirs, ours, _ = both
    hf.save(ours, tokenizer(29), tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    assert type(again) is type(theirs)
    with torch.no_grad():
        torch.testing.assert_close(again(ids()).logits, theirs(ids()).logits, rtol=1e-5, atol=1e-5)
    assert hf.load(tmp_path).config == ours.config


def test_shards_in_and_out(both: tuple[PreTrainedModel, Decoder, Path], tmp_path: Path) -> None:
    _, ours, _ = both
    hf.save(ours, tokenizer(29), tmp_path, shard_bytes=8_000)
    names = [f.name for f in tmp_path.glob("model-*.safetensors")]
    assert len(names) > 2 and not (tmp_path / "model.safetensors").exists()
    again = hf.load(tmp_path)
    assert all(torch.equal(again.state_dict()[k], v) for k, v in ours.state_dict().items())
    (tmp_path / names[0]).unlink()
    with pytest.raises(UserError, match=names[0]):
        hf.load(tmp_path)


@pytest.mark.parametrize("damage", ["{", "[]", "{}", '{"weight_map": 3}'])
def test_a_damaged_index_is_a_user_error(damage: str, tmp_path: Path) -> None:
    theirs = AutoModelForCausalLM.from_config(CASES["llama"])
    theirs.save_pretrained(tmp_path, max_shard_size="8KB")
    index = tmp_path / "model.safetensors.index.json"
    assert json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    index.write_text(damage, encoding="utf-8")
    with pytest.raises(UserError, match="index"):
        hf.load(tmp_path)


def test_every_family_is_compared() -> None:
    assert {c.model_type for c in CASES.values()} == set(FAMILIES)
