"""LoRA against peft's own, frozen parts, and both through training, saving and resuming.

Run: .venv/bin/python -m pytest tests/models/test_adapt.py   (about 10 s on one core)
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from processes import forked
from toys import SMALL, config, decoder, samples, tokenizer
from transformers import AutoModelForCausalLM, GPT2Config

from outdo.algorithms.sft import Sft
from outdo.errors import UserError
from outdo.models import adapt, hf
from outdo.models.base import LanguageModel
from outdo.recipe import OptimizerConfig
from outdo.training import checkpoint
from outdo.training.optimizer import Optimizer
from outdo.training.step import Trainer

# peft asks transformers in a way that transformers is about to give up.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
SUBSETS: dict[str, list[tuple[str, ...]]] = {"llama": [(), ("q_proj", "down_proj")], "gpt2": [(), ("c_attn",)]}
CASES = [(family, targets) for family, subsets in SUBSETS.items() for targets in subsets]
IDS = torch.randint(3, 29, (2, 20), generator=torch.Generator().manual_seed(1))


def base(family: str, folder: Path) -> Path:
    if family == "llama":
        hf.save(decoder(config(tie_word_embeddings=False)), tokenizer(SMALL.vocab_size), folder)
        return folder
    c = GPT2Config(vocab_size=29, n_embd=24, n_layer=2, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2)
    model, generator = AutoModelForCausalLM.from_config(c), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator) - p * (p.dim() == 2))  # norms stay near one
    model.save_pretrained(folder)
    tokenizer(29).save_pretrained(folder)
    return folder


def with_lora(folder: Path, targets: tuple[str, ...] = (), seed: int = 0) -> LanguageModel:
    model = hf.load(folder)
    adapt.attach(model, 3, 12.0, targets, torch.Generator().manual_seed(seed), "stage.sft.lora.targets")
    return model


def trainer(model: LanguageModel, kind: str = "adamw", dtype: torch.dtype = torch.float32) -> Trainer:
    return Trainer(model, Optimizer(model, OptimizerConfig(kind=kind, lr=1e-2)), dtype)  # type: ignore[arg-type]


def train(t: Trainer, steps: int) -> None:
    for step in range(t.steps, t.steps + steps):
        t.step(samples([9, 4, 17], seed=step), Sft().loss)


def logits(model: LanguageModel) -> torch.Tensor:
    packed = model.pack(torch.float32)
    return model.logits(packed, model.hidden(packed, IDS)).detach()


@pytest.mark.parametrize(("family", "targets"), CASES, ids=[f"{f} {' '.join(t) or 'everything'}" for f, t in CASES])
def test_an_adapter_is_what_peft_says_it_is(family: str, targets: tuple[str, ...], tmp_path: Path) -> None:
    """Trained here, opened by peft and by transformers; merged by hand of the program."""
    from peft import AutoPeftModelForCausalLM, PeftModel

    folder = base(family, tmp_path / "base")
    before, model = logits(hf.load(folder)), with_lora(folder, targets)
    assert torch.equal(logits(model), before), "it begins as the model that it adapts"
    train(trainer(model), 3)
    after = logits(model)
    assert float((after - before).abs().max()) > 0.1
    frozen = {n: p for n, p in hf.load(folder).named_parameters()}
    for n, p in model.named_parameters():
        assert p.requires_grad == ("lora_" in n) and ("lora_" in n or torch.equal(p, frozen[n]))
    if targets:
        assert {n.rpartition(".")[2] for n in adapt.adapted(model)} == set(targets)
    hf.save(model, tokenizer(29), tmp_path / "out")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert not isinstance(plain, PeftModel) and not [n for n, _ in plain.named_parameters() if "lora" in n]
    theirs = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out" / adapt.FOLDER)
    for opened in (plain, theirs):
        torch.testing.assert_close(opened(IDS).logits, after, rtol=1e-4, atol=1e-4)
    adapt.merge(tmp_path / "out", tmp_path / "merged")
    torch.testing.assert_close(logits(hf.load(tmp_path / "merged")), after, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits(hf.load(tmp_path / "out")), after, rtol=1e-4, atol=1e-4)


def test_the_gradient_is_pefts(tmp_path: Path) -> None:
    from peft import AutoPeftModelForCausalLM

    model = with_lora(base("llama", tmp_path / "base"))
    train(trainer(model), 1)  # away from B = 0, where A has no gradient
    model.zero_grad()
    hf.save(model, tokenizer(29), tmp_path / "out")
    theirs = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out" / adapt.FOLDER, is_trainable=True)
    packed = model.pack(torch.float32)
    model.logits(packed, model.hidden(packed, IDS)).logsumexp(-1).sum().backward()
    theirs(IDS).logits.logsumexp(-1).sum().backward()
    gradients = {n.replace(".default", ""): p.grad for n, p in theirs.named_parameters()}
    assert gradients.keys() >= {f"base_model.model.{n}.lora_A.weight" for n in adapt.adapted(model)}
    for n, module in adapt.adapted(model).items():
        for part in ("lora_A", "lora_B"):
            want, got = gradients[f"base_model.model.{n}.{part}.weight"], module.get_parameter(part).grad
            assert want is not None and got is not None and float(want.abs().max()) > 0
            torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3 * float(want.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_training_an_adapter_continues_to_the_bit(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    folder = base("llama", tmp_path / "base")
    through = trainer(with_lora(folder), kind, dtype)
    train(through, 3)
    hf.save(through.model, tokenizer(29), tmp_path / "at3")
    checkpoint.save(through, checkpoint.Progress(3, 0), tmp_path / "at3")
    train(through, 3)
    resumed = trainer(with_lora(folder, seed=9), kind, dtype)
    hf.load_weights(resumed.model, tmp_path / "at3")
    checkpoint.load(resumed, tmp_path / "at3")
    train(resumed, 3)
    assert all(torch.equal(a, b) for a, b in zip(resumed.model.parameters(), through.model.parameters(), strict=True))
    state = torch.load(tmp_path / "at3" / checkpoint.FILE, weights_only=True)["optimizer"]
    held = sum(v.numel() for part in state for s in part["state"].values() for v in s.values() if v.dim())
    assert held <= 2 * sum(p.numel() for n, p in through.model.named_parameters() if "lora_" in n), "only the adapter's state"


def test_frozen_parts_stay_and_the_rest_trains() -> None:
    model = decoder()
    adapt.freeze(model, ["embed_tokens", "layers.0."], "stage.sft.freeze")
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    train(trainer(model), 2)
    for n, p in model.named_parameters():
        assert torch.equal(p, before[n]) == ("embed_tokens" in n or "layers.0." in n), n


def test_muon_alone_and_adamw_alone() -> None:
    for pattern, kind in (("norm", "muon"), ("proj", "adamw")):
        model = decoder()
        adapt.freeze(model, [pattern, "embed_tokens"], "stage.sft.freeze")
        t = trainer(model, kind)
        train(t, 1)
        assert len(t.optimizer.state_dict()) == 1


@pytest.mark.parametrize(("patterns", "said"), [
    (["embed_token", "layrs"], "'layrs' is in no parameter's name; they are like model.embed_tokens.weight"),
    (["embed", "layers", "norm"], "leaves nothing that trains"),
])  # fmt: skip
def test_freezing_nothing_or_everything(patterns: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        adapt.freeze(decoder(), patterns, "stage.sft.freeze")


def test_targets_that_are_not_there() -> None:
    said = r"names c_attn, lm_head; .* are down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"
    with pytest.raises(UserError, match=said):
        adapt.attach(decoder(), 2, 2.0, ["c_attn", "q_proj", "lm_head"], torch.Generator(), "stage.sft.lora.targets")


def test_an_adapter_of_another_shape_or_half_of_one(tmp_path: Path) -> None:
    folder = base("llama", tmp_path / "base")
    hf.save(with_lora(folder, ("q_proj",)), tokenizer(29), tmp_path / "out")
    with pytest.raises(UserError, match="does not fit the stage's lora"):
        hf.load_weights(with_lora(folder), tmp_path / "out")
    file = tmp_path / "out" / adapt.FOLDER / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"adapter_model.safetensors' cannot be read"):
        hf.load_weights(with_lora(folder, ("q_proj",)), tmp_path / "out")


@pytest.mark.slow
def test_merging_by_command(tmp_path: Path) -> None:
    folder = base("llama", tmp_path / "base")
    model = with_lora(folder)
    train(trainer(model), 1)
    hf.save(model, tokenizer(29), tmp_path / "out")
    done = forked("models", "merge", tmp_path / "out" / "adapter", tmp_path / "plain", cwd=tmp_path)
    assert done.code == 0 and done.out.strip() == str(tmp_path / "plain") and "Warning" not in done.err, done.err
    torch.testing.assert_close(logits(hf.load(tmp_path / "plain")), logits(model), rtol=1e-4, atol=1e-4)
    hf.load_tokenizer(tmp_path / "plain")
    again = forked("models", "merge", "out", "plain", cwd=tmp_path)
    assert again.code == 2 and again.err == "outdo: error: 'plain' exists; give a folder that does not\n"
    settings = tmp_path / "out" / "adapter" / "adapter_config.json"
    known = json.loads(settings.read_text(encoding="utf-8"))
    settings.write_text(json.dumps({**known, "base_model_name_or_path": str(tmp_path / "gone")}), encoding="utf-8")
    with pytest.raises(UserError, match="cannot be merged"):
        adapt.merge(tmp_path / "out", tmp_path / "again")
