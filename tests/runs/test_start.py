"""Stages that start from checkpoints: folders, GGUF files, names, ids; one tokenizer; runs that end in checkpoints again.

Run: .venv/bin/python -m pytest tests/test_start.py   (about 30 s on one core)
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import TINY, files_below, forked, lines, reference
from toys import config, decoder, tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config

from outdo import recipe
from outdo.errors import UserError
from outdo.models import adapt, fetch, hf
from outdo.plugins import make
from outdo.runs import start
from outdo.tasks.base import Task

pytestmark = pytest.mark.slow  # whole runs

LORA = "stage.rl.lora={rank=2, targets=['q_proj', 'down_proj']}"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A small model that knows the task's words."""
    (found,) = (reference() / "stages" / "sft" / "checkpoints").iterdir()
    return Path(shutil.copytree(found, tmp_path / "checkpoint"))


@pytest.fixture
def gpt2(checkpoint: Path, tmp_path: Path) -> Path:
    words = AutoTokenizer.from_pretrained(checkpoint)
    c = GPT2Config(vocab_size=len(words), n_embd=16, n_layer=2, n_head=2, n_positions=32, bos_token_id=words.bos_token_id)
    AutoModelForCausalLM.from_config(c).save_pretrained(tmp_path / "gpt2")
    words.save_pretrained(tmp_path / "gpt2")
    return tmp_path / "gpt2"


def final(run: Path, stage: str) -> Path:
    (found,) = (run / "stages" / stage / "checkpoints").iterdir()
    return found


def said(*argv: object, cwd: Path) -> str:
    """The one line of a run or measurement that is refused before it begins."""
    before = files_below(cwd)
    done = forked(*argv, cwd=cwd)
    assert done.code == 2 and files_below(cwd) == before, (done.code, done.err)
    (line,) = [x for x in done.err.splitlines() if x.startswith("outdo: error: ")]
    assert "Traceback" not in done.err
    return line.removeprefix("outdo: error: ")


# --- what a source may be ----------------------------------------------------------------------------------------------


def test_folders_names_and_what_is_neither(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hf.save(decoder(), tokenizer(29), tmp_path / "model")
    assert fetch.resolve(str(tmp_path / "model"), print) == tmp_path / "model"
    monkeypatch.setenv("OUTDO_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache" / "models" / "smollm2").mkdir(parents=True)
    (tmp_path / "cache" / "models" / "smollm2" / "config.json").write_text("{}", encoding="utf-8")
    assert fetch.resolve("smollm2", print) == tmp_path / "cache" / "models" / "smollm2"
    for source in ("nothing", "./no/where", str(tmp_path / "gone"), "gone.gguf"):
        with pytest.raises(UserError, match=r"does not exist; a checkpoint is a local folder, a \.gguf file, a hub id"):
            fetch.resolve(source, print)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="merge the two first: outdo models merge"):
        fetch.resolve(str(tmp_path / "adapter"), print)


def test_the_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    heard: list[str] = []
    with pytest.raises(UserError, match=r"^'nobody/nothing' is no folder here, and the hub did not give it \(.*give its folder$"):
        fetch.resolve("nobody/nothing", heard.append)
    assert heard == ["fetching nobody/nothing from the hub"]


def test_an_adapter_names_a_base_that_others_can_find(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(fetch, "resolve", lambda source, say: asked.append(source) or checkpoint)
    task = make("tasks", recipe.Plugin(name="chess_endgame", material="KQK"), Task)  # type: ignore[type-abstract]
    assert start.model_of(tree(a="owner/name"), "a", task, Path("run")).source == "owner/name"
    assert start.model_of(tree(a=str(checkpoint)), "a", task, Path("run")).source == str(checkpoint)
    assert asked == ["owner/name", str(checkpoint)]


def test_gguf_files_are_converted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real file, written by the gguf package; it computes what the model does that it was written from."""
    monkeypatch.setenv("OUTDO_CACHE", str(tmp_path / "cache"))
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(50))
    with pytest.raises(UserError, match=r"broken\.gguf cannot be converted"):
        fetch.resolve(str(broken), lambda _: None)
    assert not [f for f in (tmp_path / "cache").rglob("*") if f.is_file()]
    model = decoder(config(num_key_value_heads=4, tie_word_embeddings=False))
    file = write_gguf(model, tmp_path / "tiny.gguf")
    heard: list[str] = []
    folder = fetch.resolve(str(file), heard.append)
    assert fetch.resolve(str(file), heard.append) == folder and heard == ["converting tiny.gguf"]
    again, ids = hf.load(folder), torch.arange(3, 20)[None]
    for m in (model, again):
        m.result = m.logits(m.pack(torch.float32), m.hidden(m.pack(torch.float32), ids)).detach()  # type: ignore[assignment]
    torch.testing.assert_close(again.result, model.result, rtol=1e-4, atol=1e-4)


def write_gguf(model: torch.nn.Module, file: Path) -> Path:
    """The decoder's weights in llama.cpp's names and its order of rotary pairs, with a toy vocabulary."""
    from gguf import GGUFWriter

    c, w = model.config, GGUFWriter(file, "llama")  # type: ignore[arg-type]
    for name in ("context_length", "embedding_length", "feed_forward_length", "block_count", "head_count", "head_count_kv"):
        value = {"context_length": 64, "embedding_length": 24, "feed_forward_length": 40, "block_count": 2}.get(name, 4)
        getattr(w, f"add_{name}")(value)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_rope_freq_base(500.0)
    w.add_vocab_size(29)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("smollm")
    w.add_token_list(["<pad>", "<s>", "</s>", *(chr(97 + i) for i in range(25)), "ab"])
    w.add_token_types([3, 3, 3, *[1] * 26])
    w.add_token_merges(["a b"])
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    names = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
             "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
             "input_layernorm": "attn_norm",
             "post_attention_layernorm": "ffn_norm", "model.embed_tokens": "token_embd", "model.norm": "output_norm",
             "lm_head": "output", "model.layers.": "blk."}  # fmt: skip
    for key, tensor in model.state_dict().items():
        if "q_proj" in key or "k_proj" in key:
            tensor = tensor.view(4, 2, 3, 24).transpose(1, 2).reshape(24, 24)
        for ours, theirs in names.items():
            key = key.replace(ours, theirs)
        w.add_tensor(key, np.ascontiguousarray(tensor.numpy()))
    assert c is not None
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return file


# --- recipes ---------------------------------------------------------------------------------------------------------


def tree(**sources: str | None) -> recipe.Recipe:
    stages = {n: {"kind": "sft", "steps": 1} | ({"from": s} if s else {}) for n, s in sources.items()}
    return recipe.parse({"name": "t", "task": {"name": "chess_endgame"}, "stage": stages, "arm_flops": 1e6})


def test_a_tree_on_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    r = tree(b="a", a="model", c="owner/name", d=None)
    assert r.order() == ["a", "b", "c", "d"] and r.path("b") == ["a", "b"] and r.arms() == ["b", "c", "d"]
    assert [r.parent(n) for n in "abcd"] == [None, "a", None, None]
    whole = str(tmp_path / "model")
    assert [r.checkpoint(n) for n in "abcd"] == [whole, whole, "owner/name", None], "found again from elsewhere"
    assert recipe.parse(r.model_dump(mode="json", by_alias=True, exclude_none=True)) == r
    with pytest.raises(UserError, match=r"stage\.b\.from = 'aa': no such stage; did you mean 'a'\?; a checkpoint is a local"):
        tree(a=None, b="aa")
    with pytest.raises(UserError, match=r"no such stage; there is a, b; .*\.gguf file, a hub id .* or one of smollm2"):
        tree(a=None, b="mistral")
    with pytest.raises(UserError, match=r"stage\.a\.lora: random weights have nothing to adapt"):
        recipe.parse({"name": "t", "task": {"name": "x"}, "stage": {"a": {"kind": "sft", "steps": 1, "lora": {}}}})


def test_one_tokenizer_for_all(checkpoint: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    hf.save(decoder(), tokenizer(29), other)
    task = make("tasks", recipe.Plugin(name="chess_endgame", material="KQK"), Task)  # type: ignore[type-abstract]
    assert len(start.tokenizer_of(task, [])) == len(start.tokenizer_of(task, [checkpoint])) == len(task.tokenizer())
    with pytest.raises(UserError, match="have different tokenizers; all stages of a recipe share one"):
        start.tokenizer_of(task, [checkpoint, other])
    with pytest.raises(UserError, match=r"knows 29 tokens and task chess_endgame has .* made for another task"):
        start.tokenizer_of(task, [other])


@pytest.mark.parametrize(("damage", "line"), [
    (lambda f: (f / "tokenizer.json").unlink(), "has no tokenizer that can be read"),
    (lambda f: (f / "config.json").write_text('{"model_type": "nonesuch"}', encoding="utf-8"), "'nonesuch', which transformers"),
    (lambda f: (f / "config.json").write_text("[]", encoding="utf-8"), "is no table of settings"),
    (lambda f: (f / "config.json").write_text((f / "config.json").read_text(encoding="utf-8").replace(": 26,", ": 20,"),
        encoding="utf-8"), "at most 20 tokens"),
])  # fmt: skip
def test_bad_checkpoints_are_refused_at_once(damage: Callable[[Path], object], line: str, checkpoint: Path,
                                             tmp_path: Path) -> None:  # fmt: skip
    damage(checkpoint)
    assert line in said("run", TINY, "--set", f"stage.sft.from={checkpoint}", "--out", "run", cwd=tmp_path)


@pytest.mark.parametrize(("change", "line"), [
    ("stage.sft.freeze=['layrs']", "stage.sft.freeze: 'layrs' is in no parameter's name"),
    ("stage.sft.freeze=['.']", "stage.sft.freeze leaves nothing that trains"),
    ("stage.rl.lora.targets=['c_attn']", "stage.rl.lora.targets names c_attn; the matrices of this model are down_proj"),
    ("stage.rl.lora.rang=3", "unknown key stage.rl.lora.rang; did you mean 'rank'?"),
    ("stage.sft.lora.rank=3", "stage.sft.lora: random weights have nothing to adapt"),
])  # fmt: skip
def test_what_trains_is_checked_before_anything_begins(change: str, line: str, tmp_path: Path) -> None:
    assert line in said("run", TINY, "--set", change, "--out", "run", cwd=tmp_path)


def test_out_of_memory_says_what_to_lower(tmp_path: Path) -> None:
    done = forked("run", TINY, "--set", "model.ffn=1000000000000", "--out", "run", cwd=tmp_path)
    assert done.code == 2 and "outdo: error: out of memory; lower slots" in done.err and "Traceback" not in done.err, done.err


# --- whole runs ------------------------------------------------------------------------------------------------------


def test_a_run_from_a_checkpoint_with_an_adapter(checkpoint: Path, tmp_path: Path) -> None:
    """Killed in the adapter's stage it goes on to the bit, from another folder; the next stage starts from the merged weights."""
    change = ["--set", "stage.sft.from=checkpoint", "--set", "stage.sft.freeze=['embed_tokens']", "--set", LORA,
              "--set", "stage.last={kind='sft', from='rl', steps=2}"]  # fmt: skip
    done = forked("run", TINY, *change, "--out", "run", cwd=tmp_path)
    assert done.code == 0, done.err
    before, after = (hf.load(f).state_dict() for f in (checkpoint, final(tmp_path / "run", "sft")))
    assert {k for k in after if torch.equal(before[k], after[k])} == {"model.embed_tokens.weight"}
    rl = final(tmp_path / "run", "rl")
    assert json.loads((rl / adapt.FOLDER / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"] == str(
        final(tmp_path / "run", "sft").resolve())  # fmt: skip
    changed = {k.split(".")[-2] for k, v in hf.load(rl).state_dict().items() if not torch.equal(v, after[k])}
    assert changed == {"q_proj", "down_proj"}
    assert not (final(tmp_path / "run", "last") / adapt.FOLDER).exists()
    killed = forked("run", TINY, *change, "--out", "again", cwd=tmp_path, kill=("again/stages/rl/metrics.jsonl", 9))
    assert killed.code == -9
    (tmp_path / "elsewhere").mkdir()
    assert forked("run", "--resume", tmp_path / "again", cwd=tmp_path / "elsewhere").code == 0
    for stage in ("sft", "rl", "last"):
        for file in (final(tmp_path / "run", stage) / "model.safetensors", tmp_path / "run" / "stages" / stage / "metrics.jsonl"):
            other = tmp_path / "again" / file.relative_to(tmp_path / "run")
            assert file.read_bytes() == other.read_bytes(), other


def test_a_run_through_transformers(gpt2: Path, tmp_path: Path) -> None:
    """sft, rl with the critic and an adapter, from a family that is not ours; measured again, and opened by transformers."""
    change = ["--set", "stage.sft.from=gpt2", "--set", "stage.sft.steps=3", "--set", "stage.rl.flops=3e6", "--set",
              "stage.rl.algorithm.name=gae", "--set", "stage.rl.lora={rank=2, targets=['c_attn']}"]  # fmt: skip
    done = forked("run", TINY, *change, "--out", "run", cwd=tmp_path)
    assert done.code == 0, done.err
    assert done.err.count("gpt2 models run through transformers, which is the slower path") == 1
    assert "starts from" in done.out and "parameters train" in done.out
    model = AutoModelForCausalLM.from_pretrained(final(tmp_path / "run", "rl"))
    start_weights, matrix = AutoModelForCausalLM.from_pretrained(gpt2).state_dict(), "transformer.h.0.attn.c_attn.weight"
    assert model.config.model_type == "gpt2" and not torch.equal(model.state_dict()[matrix], start_weights[matrix])
    measured = forked("eval", "run:rl", "--decode", "greedy", "--opponent", "random", "--json", "m.json", cwd=tmp_path)
    assert measured.code == 0, measured.err
    (mine,) = [e for e in lines(tmp_path / "run" / "stages" / "rl" / "evaluations.jsonl")
               if e["last"] and e["decode"] == "greedy" and e["opponent"] == "random"]  # fmt: skip
    assert json.loads((tmp_path / "m.json").read_text(encoding="utf-8"))[0]["items"] == mine["items"]
    outside = forked("eval", gpt2, "--recipe", TINY, "--prompts", 4, "--opponent", "random", cwd=tmp_path)
    assert outside.code == 0, outside.err
