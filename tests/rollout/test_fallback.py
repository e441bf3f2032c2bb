"""Models of families that are not ours, by transformers, behind the fast decoder's interface.

Run: .venv/bin/python -m pytest tests/rollout/test_fallback.py   (about 10 s on one core)

The same contract as for the decoder: logits are transformers' own, decoding with a cache is a full forward pass, neighbours and
packing change nothing, folders go out and come back, training learns.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from slow import generate, slow
from toys import Ragged, as_sample, engine, prompts, samples, tokenizer
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertLMHeadModel,
    BloomConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    PretrainedConfig,
)

from outdo.algorithms.grpo import Grpo
from outdo.algorithms.sft import Sft
from outdo.errors import UserError
from outdo.models import fetch, hf
from outdo.models.base import LanguageModel
from outdo.models.fallback import Fallback
from outdo.models.flops import causal_attended, forward_flops
from outdo.recipe import OptimizerConfig
from outdo.rollout import fallback_cache
from outdo.rollout.engine import Sampling
from outdo.training.batch import micro_batches
from outdo.training.optimizer import Optimizer
from outdo.training.step import Trainer
from outdo.types import Prompt

IDS: dict[str, Any] = {"vocab_size": 29, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
GEMMA: dict[str, Any] = {**IDS, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 4, "num_attention_heads": 4,
                         "num_key_value_heads": 2, "head_dim": 6, "max_position_embeddings": 64, "sliding_window": 5,
                         "layer_types": ["sliding_attention", "full_attention"] * 2}  # fmt: skip
CASES: dict[str, PretrainedConfig] = {
    "gpt2": GPT2Config(**IDS, n_embd=24, n_layer=3, n_head=4, n_positions=64, resid_pdrop=0.3, attn_pdrop=0.3),
    "gpt_neox": GPTNeoXConfig(**IDS, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
                              max_position_embeddings=64),
    "gemma3": Gemma3TextConfig(**GEMMA),
    "gemma2": Gemma2Config(**GEMMA, final_logit_softcapping=3.0),
    "bloom": BloomConfig(**IDS, hidden_size=24, n_layer=3, n_head=4),
}  # fmt: skip
REREADS = {"bloom"}  # ALiBi is built from a mask of columns, not from ours


def write(config: PretrainedConfig, folder: Path, seed: int = 3) -> Path:
    """A folder with random weights large enough that logits differ by a few nats."""
    generator = torch.Generator().manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_((1.0 if p.dim() == 1 else 0.0) + 0.3 * torch.randn(p.shape, generator=generator))
    model.save_pretrained(folder)
    tokenizer(29).save_pretrained(folder)
    return folder


@pytest.fixture(params=CASES, ids=list(CASES), scope="module")
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(CASES[request.param], tmp_path_factory.mktemp(request.param))


@pytest.fixture
def model(folder: Path) -> Fallback:
    out = hf.load(folder)
    assert isinstance(out, Fallback)
    return out


def logits(model: LanguageModel, tokens: torch.Tensor, segments: torch.Tensor | None = None) -> torch.Tensor:
    packed = model.pack(torch.float32)
    return model.logits(packed, model.hidden(packed, tokens, segments))


def ids(*shape: int) -> torch.Tensor:
    return torch.randint(3, 29, shape, generator=torch.Generator().manual_seed(1))


def trainer(model: LanguageModel, lr: float = 1e-3) -> Trainer:
    return Trainer(model, Optimizer(model, OptimizerConfig(lr=lr)), torch.float32, micro_tokens=64)


def test_logits_are_transformers_own_and_loading_says_what_it_is(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hf._say_slower.cache_clear()
    model = hf.load(folder)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "slower path" in said
    theirs = AutoModelForCausalLM.from_pretrained(folder)(ids(2, 40)).logits
    torch.testing.assert_close(logits(model, ids(2, 40)), theirs, rtol=1e-4, atol=1e-4)


def test_packed_segments_are_rows_of_their_own(model: Fallback) -> None:
    """Also where the row is longer than the model's context, as rounded lengths may be."""
    parts = [ids(1, n)[0] for n in (9, 17, 33)]
    row = torch.cat([*parts, torch.zeros(9, dtype=torch.int64)])[None]
    segments = torch.tensor([i for i, p in enumerate(parts) for _ in p] + [-1] * 9)[None]
    got = logits(model, row, segments)[0]
    start = 0
    for p in parts:
        torch.testing.assert_close(got[start : start + len(p)], logits(model, p[None])[0], rtol=1e-4, atol=1e-4)
        start += len(p)
    wanted = torch.tensor([3, 11, 40])
    packed = model.pack(torch.float32)
    some = model.logits(packed, model.hidden(packed, row, segments, wanted))
    torch.testing.assert_close(some, got[wanted], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("longest", [None, 6])
def test_the_engine_is_its_slow_twin(model: Fallback, longest: int | None) -> None:
    """Tokens, masks and log-probabilities, in turns with uneven observations too; whatever sits beside a row."""
    sampling = Sampling(turn_tokens=4 if longest else 9, max_tokens=40, stop_ids=(4, 11))
    asked = prompts([3, 7, 7, 1, 12])
    together, _, _ = generate(engine(model, slots=6), asked, 2, sampling, longest=longest)
    assert model.keeps_cache == (model.module.config.model_type not in REREADS)
    alone, _, _ = generate(engine(model, slots=2), asked, 2, sampling, longest=longest)
    for t, u in zip(together, alone, strict=True):
        assert t.token_ids.tolist() == u.token_ids.tolist()
    for t in together:
        i = next(i for i, p in enumerate(asked) if p.id == t.prompt_id)
        environment = Ragged([asked[i]], 1, longest) if longest else None
        tokens, mask, logprobs = slow(model, asked[i], t.sample, sampling, 5, 3, environment)  # type: ignore[arg-type]
        assert (t.token_ids.tolist(), t.mask.tolist()) == (tokens, mask)
        np.testing.assert_allclose(t.logprobs, logprobs, atol=2e-3)


def test_sampler_and_trainer_agree(model: Fallback) -> None:
    tried, _ = engine(model).generate(prompts([3, 7, 12]), 3, Sampling(1.0, 9, 40), 0)
    (batch,) = micro_batches([as_sample(t) for t in tried], 10**6)
    with torch.no_grad():
        got, _ = trainer(model).forward(batch)
    torch.testing.assert_close(got, batch.old_logprobs_N, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_a_few_steps_of_sft_and_rl_learn(model: Fallback) -> None:
    t, batch = trainer(model, 3e-3), samples([9, 4, 17, 12])
    batch = [type(s)(s.token_ids, s.mask, np.float32(s.mask), s.logprobs) for s in batch]
    losses = [t.step(batch, Sft().loss)[0]["loss"] for _ in range(8)]
    assert losses[-1] < 0.8 * losses[0]
    e, grpo, t = engine(model), Grpo(), trainer(model, 3e-3)
    shares = []
    for step in range(8):  # the judge likes even tokens
        e.load(step)
        tried, _ = e.generate(prompts([3, 5]), 16, Sampling(1.0, 6, 20), step)
        liked = [float((x.token_ids[x.mask] % 2 == 0).mean()) for x in tried]
        shares.append(np.mean(liked))
        credit = [a for i in (0, 16) for a in grpo.advantages(liked[i : i + 16]) or [0.0] * 16]
        t.step([as_sample(x, a or 0.0) for x, a in zip(tried, credit, strict=True)], grpo.loss)
    assert np.mean(shares[-3:]) > np.mean(shares[:3]) + 0.05


def test_out_and_in(model: Fallback, folder: Path, tmp_path: Path) -> None:
    trainer(model).step(samples([9, 4, 17]), Sft().loss)
    hf.save(model, tokenizer(29), tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(theirs(ids(2, 20)).logits, logits(model, ids(2, 20)), rtol=1e-4, atol=1e-4)
    assert theirs.config.to_diff_dict().keys() == AutoModelForCausalLM.from_pretrained(folder).config.to_diff_dict().keys()
    again = hf.load(folder)
    hf.load_weights(again, tmp_path)
    assert all(torch.equal(again.state_dict()[k], v) for k, v in model.state_dict().items())


def test_flops_are_two_per_weight_and_the_skeleton_knows_them(model: Fallback, folder: Path) -> None:
    c = model.config
    names = ("wte", "wpe", "embed", "lm_head", "word_embeddings.")
    body = [n for n, _ in model.named_parameters() if not any(part in n for part in names)]
    plain = sum(p.numel() for n, p in model.named_parameters() if n in body or "layernorm" in n)
    attention = 4 * c.num_hidden_layers * c.num_attention_heads * c.head_dim * causal_attended(10)
    assert forward_flops(c, 10, causal_attended(10), 3) == 2 * plain * 10 + attention + 2 * c.hidden_size * 29 * 3
    assert hf.skeleton(folder).config == c


@pytest.mark.parametrize("damage", ["cut", "empty", "gone", "other sizes"])
def test_damaged_folders_are_user_errors(damage: str, tmp_path: Path) -> None:
    write(CASES["gpt2"], tmp_path)
    file = tmp_path / "model.safetensors"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:5000])
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "gone":
        file.unlink()
    else:
        config = tmp_path / "config.json"
        config.write_text(config.read_text(encoding="utf-8").replace('"n_layer": 3', '"n_layer": 4'), encoding="utf-8")
    with pytest.raises(UserError, match="checkpoint"):
        hf.load(tmp_path)


def test_what_is_no_causal_language_model(tmp_path: Path) -> None:
    c = BertConfig(vocab_size=29, hidden_size=24, num_hidden_layers=2, num_attention_heads=4, intermediate_size=40)
    BertLMHeadModel(c).save_pretrained(tmp_path / "bert")
    with pytest.raises(UserError, match="yet to come"):
        hf.load(tmp_path / "bert")
    (tmp_path / "config.json").write_text('{"model_type": "nonesuch"}', encoding="utf-8")
    with pytest.raises(UserError, match=r"'nonesuch', which transformers .* does not know"):
        hf.load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "t5"}', encoding="utf-8")
    with pytest.raises(UserError, match="no causal language model"):
        hf.load(tmp_path)


def test_a_wrong_cache_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = hf.load(write(CASES["gpt2"], tmp_path))
    assert isinstance(model, Fallback)
    monkeypatch.setattr(fallback_cache.KeyValues, "_masks", lambda self, dtype: None)
    assert isinstance(fallback_cache.allocate(model, 4), fallback_cache.Rereading)


@pytest.mark.slow
def test_a_real_model_both_ways() -> None:
    """SmolLM2 through transformers and through the fast decoder: the same words, and the same distribution."""
    folder = fetch.fetch("smollm2", print)
    fast, other = hf.load(folder), Fallback(hf._foreign(folder))
    other.verify(str(folder))
    asked = [Prompt("q", np.array(hf.load_tokenizer(folder)("The capital of France is")["input_ids"], np.int64))]
    (a,), (b,) = (engine(m).generate(asked, 1, Sampling(0.0, 12, 40), 0)[0] for m in (fast, other))
    assert a.token_ids.tolist() == b.token_ids.tolist() and other.keeps_cache
    np.testing.assert_allclose(a.logprobs, b.logprobs, atol=2e-3)
    assert "Paris" in hf.load_tokenizer(folder).decode(a.token_ids)
