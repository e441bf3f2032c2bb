"""`outdo inspect` as people use it: in a pipe, in a terminal, and on data that is wrong or hostile.

    pytest tests/test_inspecting.py
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pexpect
import pytest
from huggingface_hub.utils import filter_repo_objects
from processes import ENVIRONMENT, files_below, forked
from transformers import AutoTokenizer

from outdo.cli import rows as inspecting
from outdo.models import fetch

pytestmark = pytest.mark.slow  # whole commands

HOSTILE = "hi [bold]x[/] \x1b]0;title\x07\x1b[31m ⟦ \u202e \ud83d"


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    fetch.fetch("smollm2", print)
    rows = [[{"role": "user", "content": f"{HOSTILE if i == 0 else 'hi'} {'very ' * i}"},
             {"role": "assistant", "content": f"yes\n{i}"}] for i in range(21)]  # fmt: skip
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps({"messages": m, "id": 1}) + "\n" for m in rows), encoding="utf-8")
    return tmp_path / "chats.jsonl"


def cells(out: str, name: str) -> list[int]:
    (line,) = re.findall(rf"^│ {name} +│(.*)│$", out, re.MULTILINE)
    return [int(x.strip().replace(",", "")) for x in line.split("│")]


def tokens(file: Path) -> tuple[list[int], list[int]]:
    """Tokens of every row's question and of the whole row, by transformers."""
    tokenizer = AutoTokenizer.from_pretrained(fetch.fetch("smollm2", print))
    chats = [json.loads(line.replace(r"\ud83d", "?"))["messages"] for line in file.read_text(encoding="utf-8").splitlines()]
    prompts = [tokenizer.apply_chat_template(chat[:1], add_generation_prompt=True)["input_ids"] for chat in chats]
    return [len(p) for p in prompts], [len(tokenizer.apply_chat_template(chat)["input_ids"]) for chat in chats]


def quantiles(values: list[int]) -> list[int]:
    return [int(f"{v:.0f}") for v in np.percentile(values, [0, 50, 95, 100])]


def test_in_a_pipe(chats: Path) -> None:
    done = forked("inspect", chats.name, "--model", "smollm2", "--rows", 2, cwd=chats.parent)
    assert done.code == 0, done.err
    assert "chats.jsonl: 21 rows, language modelling (messages); columns messages, id\n" in done.out
    assert "\nrow 0: " in done.out and "\nrow 1: " in done.out and "\nrow 2: " not in done.out
    assert "<|im_start|>assistant\\n\n⟦yes\\n\n0<|im_end|>⟧\\n\n" in done.out
    assert not set(done.out) & {"\x1b", "\x07", "\u202e"}
    assert r"hi [bold]x[/] \x1b]0;title\x07\x1b[31m \u27e6 \u202e ?" in done.out
    prompts, whole = tokens(chats)
    assert cells(done.out, "prompt") == quantiles(prompts)
    assert cells(done.out, "whole row") == quantiles(whole)
    assert cells(done.out, "trained") == quantiles([w - p - 1 for p, w in zip(prompts, whole, strict=True)]), "but the last \\n"
    assert "truncated at 8,192 tokens: 0.0% of rows, 0 tokens lost" in done.out
    assert files_below(chats.parent) == ["chats.jsonl"]


def test_truncation(chats: Path) -> None:
    argv = ["inspect", chats, "--model", fetch.cache() / "models" / "smollm2", "--rows", 0, "--stream"]
    prompts, whole = tokens(chats)
    middle = sorted(prompts)[10]
    done = forked(*argv, "--max-tokens", middle, cwd=chats.parent).out
    assert "a stream of rows" in done
    assert cells(done, "whole row") == quantiles(whole), "what would be without the cut"
    cut, idle = [w - middle for w in whole if w > middle], [p for p in prompts if p >= middle]
    assert 0 < len(idle) < len(cut) < 21
    assert f"truncated at {middle} tokens: {len(cut) / 21:.1%} of rows, {sum(cut):,} tokens lost" in done
    assert f"without any trained token: {len(idle) / 21:.1%} of rows" in done


def test_everything(chats: Path) -> None:
    done = forked("inspect", chats, "--model", "smollm2", "--everything", "--rows", 0, cwd=chats.parent).out
    assert cells(done, "prompt") == [1, 1, 1, 1]
    assert cells(done, "trained") == [n - 1 for n in cells(done, "whole row")]


def test_in_a_terminal(chats: Path) -> None:
    argv = ["-m", "outdo", "inspect", "chats.jsonl", "--model", "smollm2", "--rows", "1"]
    child = pexpect.spawn(sys.executable, argv, cwd=str(chats.parent), env={**ENVIRONMENT, "TERM": "xterm-256color"},
                          dimensions=(40, 120), encoding="utf-8", timeout=120)  # fmt: skip
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0, child.before
    assert isinstance(child.before, str)
    assert "\x1b[1;32myes\\n" in child.before, "what trains is in colour"
    assert r"\x1b]0;title\x07\x1b[31m" in child.before and "\x1b]0;" not in child.before and "\x1b[31m " not in child.before
    assert "⟦" not in child.before


def test_long_rows_are_shown_in_part(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([{"text": "word " * 3000}]), encoding="utf-8")
    done = forked("inspect", "a.json", "--model", "smollm2", cwd=tmp_path)
    assert re.search(r" … 2,00\d more tokens\n", done.out) and len(done.out) < 7000


@pytest.mark.parametrize(("argv", "said"), [
    (["nowhere.jsonl"], "data 'nowhere.jsonl' does not exist; give a file"),
    (["bad.csv"], "row 0 has the columns query, reply; wanted are those of one shape: "),
    (["columns.jsonl"], r"row 0 has the columns \x1b[31mtext; wanted are"),
    (["late.jsonl"], "row 4 has the columns prmpt; wanted are"),
    (["empty.jsonl"], "data 'empty.jsonl' has no rows"),
    (["ok.jsonl", "--model", "smolm2"], "'smolm2' does not exist; a checkpoint is a local folder, a .gguf file, a hub id"),
    (["ok.jsonl", "--model", "."], "checkpoint '.' has no config.json; give a folder in Hugging Face layout"),
    (["ok.jsonl", "--max-tokens", "1"], "Invalid value for '--max-tokens'"),
    (["calls.jsonl"], "row 0: the chat template cannot render a conversation of user, assistant ("),
])  # fmt: skip
def test_bad_input(argv: list[str], said: str, tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("query,reply\nq,a\n", encoding="utf-8")
    (tmp_path / "late.jsonl").write_text('{"prompt": "p"}\n' * 4 + '{"prmpt": "p"}\n', encoding="utf-8")
    (tmp_path / "columns.jsonl").write_text('{"\\u001b[31mtext": "a"}', encoding="utf-8")
    (tmp_path / "empty.jsonl").write_text("", encoding="utf-8")
    (tmp_path / "ok.jsonl").write_text('{"prompt": "p", "completion": " c"}\n', encoding="utf-8")
    call = [{"role": "user", "content": "Hi."}, {"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}]
    (tmp_path / "calls.jsonl").write_text(json.dumps({"messages": call}), encoding="utf-8")
    model = [] if "--model" in argv else ["--model", "smollm2"]
    done = forked("inspect", *argv, *model, cwd=tmp_path)
    assert done.code == 2
    assert done.err.startswith("outdo: error: " + said) and done.err.count("\n") == 1, done.err


def test_preferences_and_rows_that_cannot_be_used(tmp_path: Path) -> None:
    """Both answers are shown and measured; every bad row is named with its reason, after the good ones were shown."""
    rows: list[dict[str, Any]] = [{"prompt": f"{i}?", "chosen": "yes " * (i + 1), "rejected": "no"} for i in range(30)]
    rows[0]["rejected"], rows[17]["rejected"] = None, rows[17]["chosen"]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    done = forked("inspect", "p.jsonl", "--model", "smollm2", "--rows", 1, cwd=tmp_path)
    assert "row 1, chosen: " in done.out and "1?⟦no<|im_end|>⟧" in done.out and "row 2" not in done.out
    assert cells(done.out, "rejected") == [2, 2, 2, 2] and cells(done.out, "chosen")[3] > 30
    assert "cannot be used: row 0: column rejected holds None" in done.out
    assert "cannot be used: row 17: chosen and rejected are the same" in done.out
    assert done.code == 2 and "(2 of 30 rows cannot be used; the others: 17)" in done.err


def test_models_are_named_as_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is not here is fetched, of the hub without its weights."""
    folder = fetch.fetch("smollm2", print)
    asked: list[dict[str, Any]] = []
    monkeypatch.setenv("OUTDO_CACHE", str(tmp_path))
    monkeypatch.setattr(fetch, "fetch", lambda name, say: asked.append({"name": name}) or folder)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **options: asked.append(options) or folder)
    for model in ("smollm2", "some/model"):
        tokenizer, context = inspecting.open_tokenizer(model)
        assert (len(tokenizer), context) == (49152, 8192)
    fetched, options = asked
    kept = filter_repo_objects(["model-1.safetensors", "config.json", "tokenizer.json", "pytorch_model.bin"], **options)
    assert fetched == {"name": "smollm2"} and list(kept) == ["config.json", "tokenizer.json"]
