"""The decoder against transformers' LlamaForCausalLM, and checkpoints in and out.

Run: .venv/bin/python -m pytest tests/models/test_decoder.py   (about 10 s on one core)
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from toys import config, decoder, engine, prompts, tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from outdo.errors import UserError
from outdo.models import hf
from outdo.models.decoder import Decoder, DecoderConfig
from outdo.rollout.engine import Sampling

SIZES = {
    "tied, no sharing of keys": config(num_key_value_heads=4),
    "tied, 2 queries per key": config(num_key_value_heads=2, rope_theta=10000.0),
    "tied, 4 queries per key": config(num_key_value_heads=1, rope_theta=1e6, rms_norm_eps=1e-3),
    "untied": config(tie_word_embeddings=False, num_key_value_heads=2, rope_theta=100.0),
    "untied, odd sizes": config(tie_word_embeddings=False, vocab_size=31, hidden_size=30, intermediate_size=37,
                                num_hidden_layers=3, num_attention_heads=3, num_key_value_heads=1),
    "one layer, one head of two": config(hidden_size=2, num_attention_heads=1, num_key_value_heads=1,
                                         num_hidden_layers=1),
}  # fmt: skip


def llama(c: DecoderConfig, weights: dict[str, torch.Tensor] | None = None) -> LlamaForCausalLM:
    fields = asdict(c)
    theta = fields.pop("rope_theta")
    rope = {"rope_type": "default", "rope_theta": theta}
    out = LlamaForCausalLM(LlamaConfig(**fields, rope_parameters=rope, attn_implementation="eager")).eval()
    if weights is not None:
        missing, unexpected = out.load_state_dict(weights, strict=False)
        assert not unexpected and set(missing) <= {"lm_head.weight"}
        out.tie_weights()
    return out


def tokens(c: DecoderConfig, rows: int, length: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(0, c.vocab_size, (rows, length), generator=torch.Generator().manual_seed(seed))


def logits(model: Decoder, tokens_BT: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    packed = model.pack(dtype)
    return model.logits(packed, model.hidden(packed, tokens_BT))


@pytest.fixture(params=SIZES, ids=list(SIZES))
def c(request: pytest.FixtureRequest) -> DecoderConfig:
    return SIZES[request.param]


# --- numbers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 7, 64])
def test_logits_equal_transformers(c: DecoderConfig, length: int) -> None:
    ours = decoder(c)
    theirs = llama(c, ours.state_dict())
    ids = tokens(c, 3, length)
    with torch.no_grad():
        want, got = theirs(ids).logits, logits(ours, ids)
    assert want.std() > 0.1, "a comparison of constants"
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4 * float(want.abs().max()))


def test_loss_gradients_equal_transformers(c: DecoderConfig) -> None:
    ours = decoder(c)
    theirs = llama(c, ours.state_dict())
    ids = tokens(c, 3, 33)
    targets = ids[:, 1:].flatten()
    torch.nn.functional.cross_entropy(theirs(ids).logits[:, :-1].flatten(0, 1), targets).backward()
    torch.nn.functional.cross_entropy(logits(ours, ids)[:, :-1].flatten(0, 1), targets).backward()
    want = {name: p.grad for name, p in theirs.named_parameters()}
    got = {name: p.grad for name, p in ours.named_parameters()}
    assert want.keys() == got.keys()
    for name, gradient in got.items():
        assert gradient is not None and want[name].abs().max() > 1e-6
        torch.testing.assert_close(gradient, want[name], rtol=1e-3, atol=1e-4 * float(want[name].abs().max()), msg=name)


def test_greedy_tokens_equal_transformers(c: DecoderConfig) -> None:
    ours = decoder(c)
    theirs = llama(c, ours.state_dict())
    asked = prompts([5, 5, 9], c.vocab_size)
    got, _ = engine(ours).generate(asked, 1, Sampling(temperature=0.0, turn_tokens=20, max_tokens=40), seed=0)
    for prompt, trajectory in zip(asked, got, strict=True):
        ids = torch.from_numpy(prompt.token_ids)[None]
        for _ in range(20):
            with torch.no_grad():
                ids = torch.cat([ids, theirs(ids).logits[:, -1].argmax(-1, keepdim=True)], 1)
        assert trajectory.token_ids.tolist() == ids[0].tolist()


def test_bf16_logprobs_stay_near_float32() -> None:
    """Mean error of a token's log-probability: about 0.03 nats at logits of a few nats (performance.md: 0.034)."""
    model = decoder(config(hidden_size=64, intermediate_size=96), std=0.15)
    ids = tokens(model.config, 8, 64)
    with torch.no_grad():
        exact, rough = (torch.log_softmax(logits(model, ids, d), -1) for d in (torch.float32, torch.bfloat16))
    assert logits(model, ids, torch.bfloat16).dtype == torch.float32
    assert 0.0 < float((exact - rough).abs().mean()) < 0.06


# --- what a position may see ----------------------------------------------------------------------------------------


def test_causal(c: DecoderConfig) -> None:
    """Changing token t changes the logits at t and behind it, never before it."""
    model, ids = decoder(c), tokens(c, 2, 40)
    changed = ids.clone()
    changed[:, 17] = (changed[:, 17] + 1) % c.vocab_size
    with torch.no_grad():
        before, after = logits(model, ids), logits(model, changed)
    torch.testing.assert_close(after[:, :17], before[:, :17], rtol=0, atol=1e-6)
    assert (after[:, 17:] - before[:, 17:]).abs().amax(-1).min() > 1e-5


def test_right_padding_is_inert(c: DecoderConfig) -> None:
    model, ids = decoder(c), tokens(c, 2, 23)
    padded = torch.cat([ids, torch.full((2, 30), 3)], 1)
    with torch.no_grad():
        torch.testing.assert_close(logits(model, padded)[:, :23], logits(model, ids), rtol=1e-5, atol=1e-5)


def test_rows_do_not_see_each_other(c: DecoderConfig) -> None:
    model, ids = decoder(c), tokens(c, 5, 19)
    with torch.no_grad():
        together = logits(model, ids)
        for row in range(5):
            torch.testing.assert_close(logits(model, ids[row : row + 1])[0], together[row], rtol=1e-5, atol=1e-5)


def test_packed_sequences_do_not_see_each_other(c: DecoderConfig) -> None:
    """Several sequences in one row, beside padding: values and gradients of each are those of the sequence alone."""
    model, lengths = decoder(c), [[5, 20, 1, 14], [30], [2, 2, 30, 6]]
    ids = tokens(c, 3, 48)
    segments = torch.full((3, 48), -1)
    spans = []
    for row, parts in enumerate(lengths):
        at = 0
        for n in parts:
            segments[row, at : at + n] = len(spans)
            spans.append((row, at, at + n))
            at += n
    packed = model.pack(torch.float32)
    together = model.logits(packed, model.hidden(packed, ids, segments))
    for row, start, end in spans:
        alone = logits(model, ids[row : row + 1, start:end])[0]
        torch.testing.assert_close(together[row, start:end], alone, rtol=1e-4, atol=1e-4)
        weight = torch.linspace(-1, 1, alone.numel()).view_as(alone)
        got, want = (torch.autograd.grad((x * weight).sum(), list(model.parameters()), retain_graph=True)
                     for x in (together[row, start:end], alone))  # fmt: skip
        for g, w in zip(got, want, strict=True):
            torch.testing.assert_close(g, w, rtol=1e-3, atol=1e-4 * max(float(w.abs().max()), 1e-2))


def test_wanted_positions_equal_the_whole(c: DecoderConfig) -> None:
    """The last layer behind its attention only where asked: same values, same gradients, any order and repetition."""
    model = decoder(c)
    ids = torch.randint(0, c.vocab_size, (3, 11), generator=torch.Generator().manual_seed(3))
    wanted = torch.tensor([32, 0, 5, 5, 17])
    weights = torch.randn(5, c.hidden_size, generator=torch.Generator().manual_seed(4))
    packed = model.pack(torch.float32)
    whole, some = model.hidden(packed, ids).flatten(0, 1)[wanted], model.hidden(packed, ids, wanted_N=wanted)
    torch.testing.assert_close(some, whole, rtol=1e-5, atol=1e-6)
    parameters = list(model.parameters())[:-1]
    for g, w in zip(*(torch.autograd.grad((h * weights).sum(), parameters, retain_graph=True, allow_unused=True)
                      for h in (some, whole)), strict=True):  # fmt: skip
        assert (g is None) == (w is None)
        if g is not None:
            torch.testing.assert_close(g, w, rtol=1e-4, atol=1e-5)


def test_init_weights_follows_the_generator() -> None:
    a, b, other = Decoder(config()), Decoder(config()), Decoder(config())
    for model, seed in ((a, 1), (b, 1), (other, 2)):
        model.init_weights(torch.Generator().manual_seed(seed))
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a.model.embed_tokens.weight, other.model.embed_tokens.weight)
    layer = a.model.layers[0]
    assert float(layer.mlp.gate_proj.weight.detach().std()) == pytest.approx(0.02, rel=0.1)
    assert float(layer.mlp.down_proj.weight.detach().std()) == pytest.approx(0.02 * 4**-0.5, rel=0.1)
    assert torch.equal(a.model.norm.weight.detach(), torch.ones(24))


# --- checkpoints ----------------------------------------------------------------------------------------------------


def test_saved_folder_opens_in_transformers(c: DecoderConfig, tmp_path: Path) -> None:
    model = decoder(c)
    hf.save(model, tokenizer(c.vocab_size), tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert isinstance(theirs, LlamaForCausalLM) and theirs.dtype == torch.float32
    ids = tokens(c, 2, 30)
    with torch.no_grad():
        want = theirs(ids).logits
        torch.testing.assert_close(logits(model, ids), want, rtol=1e-4, atol=1e-4 * float(want.abs().max()))
    words = AutoTokenizer.from_pretrained(tmp_path)
    assert words.decode([1, 4, 2]) == "<s> w4 </s>" and words("w5 w9").input_ids == [5, 9]
    assert (theirs.config.bos_token_id, theirs.config.eos_token_id, theirs.config.pad_token_id) == (1, 2, 0)


def test_round_trip_is_exact(c: DecoderConfig, tmp_path: Path) -> None:
    model = decoder(c)
    hf.save(model, tokenizer(c.vocab_size), tmp_path)
    again = hf.load(tmp_path)
    assert again.config == c and again.origin.model_type == "llama"
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(again.state_dict()[k], v) for k, v in model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loads_what_transformers_saved(c: DecoderConfig, dtype: torch.dtype, tmp_path: Path) -> None:
    llama(c, decoder(c, seed=4).state_dict()).to(dtype).save_pretrained(tmp_path)
    theirs = LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    ours = hf.load(tmp_path)
    assert ours.config == c and {p.dtype for p in ours.parameters()} == {torch.float32}
    ids = tokens(c, 2, 30)
    with torch.no_grad():
        want = theirs(ids).logits
        torch.testing.assert_close(logits(ours, ids), want, rtol=1e-4, atol=1e-4 * float(want.abs().max()))


def test_config_fields_left_out_have_their_published_defaults(tmp_path: Path) -> None:
    """Llama 1 folders name neither num_key_value_heads nor tie_word_embeddings; older ones keep rope_theta outside."""
    c = config(tie_word_embeddings=False, num_key_value_heads=4, rope_theta=777.0)
    hf.save(decoder(c), tokenizer(c.vocab_size), tmp_path)
    edit(tmp_path, num_key_value_heads=None, tie_word_embeddings=None, rope_parameters=None, rope_theta=777.0)
    assert hf.load(tmp_path).config == c


def edit(folder: Path, **changes: Any) -> None:
    """Change keys of config.json; None removes them."""
    file = folder / "config.json"
    data = {**json.loads(file.read_text(encoding="utf-8")), **changes}
    file.write_text(json.dumps({k: v for k, v in data.items() if v is not None}), encoding="utf-8")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_type": "gpt2"}, "does not fit"),
        ({"hidden_size": 48, "head_dim": None}, "does not fit"),
        ({"num_hidden_layers": 3}, "does not fit"),
        ({"vocab_size": 30}, "does not fit"),
        ({"num_key_value_heads": 4}, "does not fit"),
        ({"tie_word_embeddings": False}, "lm_head"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0}}, "llama3"),
        ({"hidden_size": None}, "hidden_size"),
        ({"attention_bias": True}, "bias missing"),
        ({"mlp_bias": True}, "bias missing"),
        ({"head_dim": 12}, "does not fit"),
    ],
)
def test_misfitting_config_is_a_user_error(changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    hf.save(decoder(), tokenizer(29), tmp_path)
    hf.load(tmp_path)
    edit(tmp_path, **changes)
    with pytest.raises(UserError, match=reason):
        hf.load(tmp_path)


@pytest.mark.parametrize("damage", ["no config", "config cut", "no weights", "weights cut", "one missing", "misshapen"])
def test_damaged_checkpoint_is_a_user_error_and_leaves_the_model(damage: str, tmp_path: Path) -> None:
    hf.save(decoder(), tokenizer(29), tmp_path)
    model = decoder(seed=9)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    settings, weights = tmp_path / "config.json", tmp_path / "model.safetensors"
    tensors = load_file(weights)
    if damage == "no config":
        settings.unlink()
    elif damage == "config cut":
        settings.write_text(settings.read_text(encoding="utf-8")[:40], encoding="utf-8")
    elif damage == "no weights":
        weights.unlink()
    elif damage == "weights cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "one missing":
        save_file({k: v for k, v in tensors.items() if k != "model.norm.weight"}, weights)
    else:
        save_file({**tensors, "model.norm.weight": torch.ones(5)}, weights)
    with pytest.raises(UserError, match="config" if "config" in damage else "weight|safetensors"):
        hf.load(tmp_path)
    if "config" not in damage:
        with pytest.raises(UserError):
            hf.load_weights(model, tmp_path)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
