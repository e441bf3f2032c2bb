"""Checkpoints whose files say more, less or something else than their config: as transformers reads them, or one line.

Run: .venv/bin/python -m pytest tests/models/test_odd_checkpoints.py   (about 6 s on one core)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from toys import decoder, tokenizer
from transformers import AutoModelForCausalLM

from outdo.errors import UserError
from outdo.models import hf
from outdo.models.decoder import Decoder

IDS = torch.tensor([[1, 5, 9, 3, 7]])


def saved(folder: Path, **changes: Any) -> Path:
    hf.save(decoder(), tokenizer(29), folder)
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **changes}), encoding="utf-8")
    return folder


def rewrite(folder: Path, **changed: torch.Tensor) -> None:
    save_file({**load_file(folder / "model.safetensors"), **changed}, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("changes", [
    {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, {"hidden_act": "gelu"},
])  # fmt: skip
def test_what_the_fast_decoder_does_not_know_runs_through_transformers(changes: dict[str, Any], tmp_path: Path) -> None:
    model = hf.load(saved(tmp_path, **changes))
    assert not isinstance(model, Decoder) and not isinstance(hf.skeleton(tmp_path), Decoder)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    with torch.no_grad():
        want = theirs(IDS).logits
        got = model.module(IDS).logits  # type: ignore[attr-defined]
    assert torch.equal(want, got)


def test_a_head_of_its_own_where_the_config_ties_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = saved(tmp_path / "a")
    assert json.loads((folder / "config.json").read_text(encoding="utf-8"))["tie_word_embeddings"] is True
    embedding = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    rewrite(folder, **{"lm_head.weight": embedding + 0.5})
    model = hf.load(folder)
    assert isinstance(model, Decoder) and not model.config.tie_word_embeddings
    assert "ties the head to the embeddings and the file holds a head of its own" in capsys.readouterr().err
    hf.save(model, tokenizer(29), tmp_path / "b")
    about = json.loads((tmp_path / "b" / "config.json").read_text(encoding="utf-8"))
    assert about["tie_word_embeddings"] is False
    assert torch.equal(load_file(tmp_path / "b" / "model.safetensors")["lm_head.weight"], embedding + 0.5)
    rewrite(folder, **{"lm_head.weight": embedding.clone()})  # the same head, written twice
    again = hf.load(folder)
    assert isinstance(again, Decoder) and again.config.tie_word_embeddings


def test_weights_that_the_architecture_does_not_have(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    rewrite(folder, **{"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)})
    hf.load(folder)  # computed anyway
    rewrite(folder, **{"model.layers.0.self_attn.q_norm.weight": torch.ones(8)})
    with pytest.raises(UserError, match=r"holds model.layers.0.self_attn.q_norm.weight, which the model_type of its config.json"):
        hf.load(folder)


def test_weights_that_are_not_finite(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    rewrite(folder, **{"model.norm.weight": torch.full((decoder().config.hidden_size,), float("nan"))})
    with pytest.raises(UserError, match=r"parameter model\.norm\.weight holds numbers that are not finite"):
        hf.load(folder)
