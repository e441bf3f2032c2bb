"""sft and pretrain from rows of data: what they train on, what they count, and that an interruption changes nothing.

    pytest tests/stages/test_imitation_rows.py
"""

from __future__ import annotations

import functools
import json
import random
import signal
from pathlib import Path

import pytest
import torch
from folders import kept, redone, weights
from processes import SCRATCH, TINY, forked, lines
from transformers import AutoModelForCausalLM, AutoTokenizer

from outdo import recipe
from outdo.system import files, randomness
from outdo.tasks.chess import vocabulary
from outdo.text import heldout
from outdo.text.rows import Feed, load

CONTEXT = 26  # of the tiny recipe's model
ROWS, EPISODES, STEPS = 50, 8, 24


@functools.cache
def data() -> Path:
    """Moves without sense in the chess model's words: some rows are too long, some have no room for their answer."""
    rng, words = random.Random(0), vocabulary.words()[7:]
    rows: list[dict[str, str]] = []
    for i in range(ROWS):
        prompt, answer = (" ".join(rng.choices(words, k=k)) for k in (40 if i % 10 == 3 else 5, rng.randint(1, 40)))
        rows.append({"prompt": prompt, "completion": " " + answer})
    file = SCRATCH / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def argv(folder: Path, *options: str) -> list[object]:
    """The tiny recipe's imitation alone, on the data."""
    file = SCRATCH / "rows.toml"
    file.write_text(TINY.read_text(encoding="utf-8").partition("[stage.rl]")[0], encoding="utf-8")
    options = (f"stage.sft.data='{data()}'", "evaluation.prompts=4", *options)
    return ["run", file, *(part for option in options for part in ("--set", option)), "--out", folder]


@functools.cache
def undisturbed(*options: str) -> Path:
    folder = SCRATCH / f"rows-{len(options)}"
    done = forked(*argv(folder, *options), cwd=SCRATCH)
    assert done.code == 0, done.err
    return folder


def tokens(row: dict[str, str]) -> tuple[int, int, int]:
    """(tokens within the context, of these trained, cut): a word a token, <s> before and </s> behind."""
    prompt, answer = 1 + len(row["prompt"].split()), len(row["completion"].split()) + 1
    kept = min(prompt + answer, CONTEXT)
    return kept, max(0, kept - prompt), prompt + answer - kept


@pytest.mark.slow
def test_every_step_trains_on_its_rows_and_counts_the_rest() -> None:
    """Against the rows of the file themselves: numbers of metrics.jsonl and of the ledger."""
    folder = undisturbed() / "stages" / "sft"
    rows = [json.loads(line) for line in data().read_text(encoding="utf-8").splitlines()]
    base, held = randomness.key(0, "sft"), heldout.by_hash(rows, 0.05)
    seen = [i for i in range(ROWS) if i not in held]
    position = 0
    metrics, bills = lines(folder / "metrics.jsonl"), [e for e in lines(folder / "ledger.jsonl") if e["what"] == "train"]
    assert len(metrics) == len(bills) == STEPS
    for line, bill in zip(metrics, bills, strict=True):
        here = []
        for _ in range(EPISODES):
            epoch, k = divmod(position, len(seen))
            order = randomness.permutation(len(seen), randomness.key(base, "epoch", epoch, 0))
            here.append(tokens(rows[seen[order[k]]]))
            position += 1
        used = [t for t in here if t[1] > 0]
        assert line["episodes"] == len(used) and line["dropped"] == EPISODES - len(used)
        assert line["truncated"] == sum(t[2] > 0 for t in here)
        assert line["trained_tokens"] == sum(t[1] for t in used)
        assert bill["train_tokens"] == sum(t[0] for t in used)
        assert bill["discarded_tokens"] == sum(t[2] for t in here) + sum(t[0] for t in here if t[1] == 0)
        assert bill["episodes"] == EPISODES
    assert sum(line["dropped"] for line in metrics) > 0 < sum(line["truncated"] for line in metrics)
    assert metrics[-1]["nll"] < metrics[0]["nll"], "it learns"


@pytest.mark.slow
def test_the_loss_on_the_rows_that_never_train() -> None:
    """At the start and every evaluation point; the last is transformers' own loss of the checkpoint on these rows."""
    folder = undisturbed()
    rows = heldout.by_hash([json.loads(line) for line in data().read_text(encoding="utf-8").splitlines()], 0.05)
    able = [row for row in rows.values() if tokens(row)[1]]
    found = [e for e in lines(folder / "stages" / "sft" / "evaluations.jsonl") if e["decode"] == "loss"]
    assert [(e["point"], e["last"], e["n"]) for e in found] == [(p, p == 2, len(able)) for p in range(3)] and len(able) > 1
    (checkpoint,) = (folder / "stages" / "sft" / "checkpoints").iterdir()
    tokenizer, model = AutoTokenizer.from_pretrained(checkpoint), AutoModelForCausalLM.from_pretrained(checkpoint)
    for row, item in zip(able, found[-1]["items"], strict=True):
        words = ["<s>", *f"{row['prompt']}{row['completion']}".split(), "</s>"]
        ids = torch.tensor([tokenizer.convert_tokens_to_ids(words)[:CONTEXT]])
        labels = ids.clone()
        labels[:, : 1 + len(row["prompt"].split())] = -100
        assert float(model(input_ids=ids, labels=labels).loss.detach()) == pytest.approx(item, abs=1e-4)
    (stage,) = files.read_json(folder / "summary.json")["losses"]
    assert stage["stage"] == "sft" and stage["value"] == found[-1]["value"] and stage["tokens"] == sum(tokens(r)[1] for r in able)
    assert stage["change"]["value"] == pytest.approx(found[-1]["value"] - found[0]["value"]) and stage["change"]["value"] < 0
    assert "Held-out loss" in (folder / "report.html").read_text(encoding="utf-8")
    compared = forked("compare", folder, cwd=SCRATCH)
    assert compared.code == 0, compared.err
    assert "Loss on held-out rows" in compared.out and f" {stage['value']:.3f} " in compared.out


@pytest.mark.slow
def test_pretraining_takes_every_token(tmp_path: Path) -> None:
    pretrain = {"kind": "pretrain", "steps": 1, "episodes": 200, "data": str(data()), "max_tokens": 20, "heldout": 0.0}
    text = TINY.read_text(encoding="utf-8").partition("[stage.sft]")[0] + "".join(
        [f"[stage.pretrain]\n{''.join(f'{k} = {json.dumps(v)}' + chr(10) for k, v in pretrain.items())}"])  # fmt: skip
    (tmp_path / "r.toml").write_text(text, encoding="utf-8")
    done = forked("run", "r.toml", "--out", "run", cwd=tmp_path)
    assert done.code == 0, done.err
    (line,) = lines(tmp_path / "run" / "stages" / "pretrain" / "metrics.jsonl")
    rows = [json.loads(line) for line in data().read_text(encoding="utf-8").splitlines()]
    longest = [min(20, 2 + len((row["prompt"] + row["completion"]).split())) for row in rows]
    assert line["trained_tokens"] == sum(n - 1 for n in longest) and line["dropped"] == 0
    assert recipe.load(tmp_path / "run" / "recipe.toml").stage["pretrain"].model_dump()["data"] == str(data())


@pytest.mark.slow
def test_the_plan_predicts_the_bill() -> None:
    done = forked("run", "--resume", undisturbed(), "--dry-run", cwd=SCRATCH)
    assert done.code == 0, done.err
    done = forked(*argv(SCRATCH / "planned"), "--dry-run", cwd=SCRATCH)
    assert f"8 rows of {data()} per step, about" in done.out
    planned = float(done.out.partition("sft  24 steps, about ")[2].split()[0])
    booked = lines(undisturbed() / "stages" / "sft" / "metrics.jsonl")[-1]["flops"]
    assert planned == pytest.approx(booked, rel=0.25)


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("stage.sft.stream=true",)], ids=["in memory", "streamed"])
def test_killed_at_random_file_operations(options: tuple[str, ...], tmp_path: Path) -> None:
    folder, rng = tmp_path / "run", random.Random(f"rows {options}")
    points = [rng.randint(1, 60) for _ in range(2)]
    command = argv(folder, *options)
    for n in points:
        assert forked(*command, cwd=tmp_path, kill=("stages/sft", n)).code == -signal.SIGKILL, points
        command = ["run", "--resume", folder]
    assert forked(*command, cwd=tmp_path).code == 0
    mine, theirs = folder / "stages" / "sft", undisturbed(*options) / "stages" / "sft"
    for name in ("metrics.jsonl", "evaluations.jsonl", "rollouts.jsonl"):
        assert (mine / name).read_text(encoding="utf-8") == (theirs / name).read_text(encoding="utf-8"), name
    assert weights(folder, "sft") == weights(undisturbed(*options), "sft")
    assert kept(folder, "sft", "train") == kept(undisturbed(*options), "sft", "train")
    assert redone(folder, "sft") > 0


def test_a_stream_is_shuffled_like_the_sequence_when_one_window_holds_it() -> None:
    sequence, stream = (Feed(load(data(), stream=stream), 7).take(0, 3 * ROWS) for stream in (False, True))
    assert sequence == stream


@pytest.mark.parametrize(("options", "said"), [
    (("stage.sft.data='nowhere.jsonl'",), "data 'nowhere.jsonl' does not exist"),
    (("stage.sft.random_moves=0.1",), "stage.sft.random_moves = 0.1 goes with a player; rows of data are imitated as they are"),
    (("stage.sft.keep='won'",), "stage.sft.keep = 'won' goes with a player's episodes; rows of data are neither won nor lost"),
    (("stage.sft.heldout=1.0",), "stage.sft.heldout = 1.0: input should be less than 1"),
    (("stage.sft.heldout_data='gone.jsonl'",), "data 'gone.jsonl' does not exist"),
    (("stage.sft.max_tokens=5",), "DATA: none of the first 50 rows (prompt-completion: prompt, completion) has a token to train "
     "on within 5 tokens; give answers to imitate, or raise max_tokens or the context"),
    (("stage.sft.data='bad.jsonl'",), "HERE/bad.jsonl, row 1 has the columns question; wanted are those of one shape: "),
    (("stage.sft.data='chat.jsonl'",), "HERE/chat.jsonl, row 0: the tokenizer has no chat template"),
])  # fmt: skip
def test_bad_input(options: tuple[str, ...], said: str, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{"question": "q"}\n', encoding="utf-8")
    (tmp_path / "chat.jsonl").write_text('{"messages": [{"role": "assistant", "content": "a"}]}\n', encoding="utf-8")
    done = forked(*argv(tmp_path / "run", *options), cwd=tmp_path)
    assert done.code == 2 and done.err.count("\n") == 1
    assert done.err.startswith("outdo: error: " + said.replace("DATA", str(data())).replace("HERE", str(tmp_path)))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_bad_row_later_on_ends_the_run_with_its_number(tmp_path: Path) -> None:
    rows = data().read_text(encoding="utf-8").splitlines()
    (tmp_path / "rows.jsonl").write_text("\n".join([*(rows * 2)[:80], '{"question": "Kc3"}']), encoding="utf-8")
    done = forked(*argv(tmp_path / "run", "stage.sft.data='rows.jsonl'"), cwd=tmp_path)
    assert done.code == 2
    assert "rows.jsonl, row 80" in done.err and "Traceback" not in done.err
