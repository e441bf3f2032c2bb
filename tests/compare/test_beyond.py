"""Further splits and forgetting: what is measured, what readers make of it, and that nothing else changes.

    pytest tests/test_beyond.py -m "not slow"   (about 15 s on one core)
"""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import real
import torch
from processes import SCRATCH, forked, lines
from toys import SMALL, config, decoder

from outdo import recipe
from outdo.compare import table
from outdo.compare.summary import summarise
from outdo.errors import UserError
from outdo.evaluation import forgetting
from outdo.evaluation.stats import pass_at_k
from outdo.models import hf
from outdo.models.flops import causal_attended, forward_flops
from outdo.runs import plan
from outdo.runs.check import check_recipe
from outdo.runs.resolve import resolve
from outdo.tasks.chess import vocabulary

pytestmark = pytest.mark.slow  # whole runs

TEXT = Path(__file__).parents[1] / "text.toml"
STAGES = ("sft", "rl", "sft_more")


@pytest.fixture(scope="module")
def base() -> Path:
    """A checkpoint of random weights with a real tokenizer."""
    folder = SCRATCH / "base-of-text"
    model = decoder(config(vocab_size=len(real.tokenizer()), max_position_embeddings=128), std=0.02)
    hf.save(model, real.tokenizer(), folder)
    return folder


@pytest.fixture(scope="module")
def run(base: Path) -> Path:
    done = forked("run", TEXT, "--set", f"stage.sft.from={base}", "--out", SCRATCH / "text", cwd=SCRATCH)
    assert done.code == 0, done.err
    assert "nats a token on the corpus" in done.out and " harder " in done.out and "base-of-text (start): " in done.out
    return SCRATCH / "text"


# --- the corpus ------------------------------------------------------------------------------------------------------


def test_the_builtin_corpus_is_cut_into_equal_passages() -> None:
    corpus = forgetting.load("builtin", 4096, real.tokenizer(), 8192)
    assert corpus.passages_PT.shape == (30, 128)
    text = real.tokenizer().decode(corpus.passages_PT.flatten().tolist())
    assert text.startswith("Little though they seem to think of it") and "Gutenberg" not in text
    less = forgetting.load("builtin", 300, real.tokenizer(), 50)
    assert less.passages_PT.shape == (6, 50) and less.sha256 != corpus.sha256
    assert (less.passages_PT.flatten() == corpus.passages_PT.flatten()[:300]).all()


@pytest.mark.parametrize(("name", "content", "said"), [
    ("none.txt", None, "no such file; give a text file, or 'builtin'"),
    ("short.txt", b"A few words.", "two passages of 128 are the least"),
    ("latin.txt", "caf\u00e9 ".encode("latin-1") * 99, "is no UTF-8 text (invalid continuation byte at byte 3)"),
])  # fmt: skip
def test_what_is_no_corpus(name: str, content: bytes | None, said: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=r"evaluation\.corpus = ") as e:
        forgetting.load(str(tmp_path / name), 4096, real.tokenizer(), 8192)
    assert said in str(e.value)


def test_a_vocabulary_of_chess_moves_has_nothing_to_forget() -> None:
    with pytest.raises(UserError, match=r"100% of its words are unknown"):
        forgetting.load("builtin", 4096, vocabulary.build_tokenizer(), 8192)


def test_nats_are_those_of_plain_log_softmax() -> None:
    model = decoder()
    passages = np.random.default_rng(0).integers(0, SMALL.vocab_size, (7, 20))
    found, usage = forgetting.read(model, torch.float32, forgetting.Corpus("x", "", passages))
    with torch.no_grad():
        packed = model.pack(torch.float32)
        tokens = torch.from_numpy(passages)
        logprobs = torch.log_softmax(model.logits(packed, model.hidden(packed, tokens)), -1)[:, :-1]
    want = -logprobs.gather(2, tokens[:, 1:, None]).squeeze(2).mean(1)
    assert found["items"] == pytest.approx(want.tolist(), abs=2e-5)
    assert found["value"] == pytest.approx(float(want.mean()), abs=2e-5)
    assert found["ci95"][0] < found["value"] < found["ci95"][1] and (found["n"], found["tokens"]) == (7, 7 * 19)
    assert usage.flops == forward_flops(model.config, 140, 7 * causal_attended(20), 133) and usage.prefill_tokens == 140


# --- the run folder --------------------------------------------------------------------------------------------------


def test_when_it_is_measured(run: Path) -> None:
    at = {s: [(e["point"], e["last"]) for e in lines(run / "stages" / s / "forgetting.jsonl")] for s in STAGES}
    assert at == {"sft": [(0, False), (2, True)], "rl": [(2, True)], "sft_more": [(2, True)]}
    for stage in STAGES:
        rows = lines(run / "stages" / stage / "evaluations.jsonl")
        further = [(e["point"], e["decode"]) for e in rows if e["split"] == "harder"]
        both = [(p, d) for p in ((0, 2) if stage == "sft" else (2,)) for d in ("sampled", "greedy")]
        assert further == both and {e["split"] for e in rows} == {"heldout", "harder"}
        assert len([e for e in rows if e["split"] == "heldout"]) == 6
        booked = lines(run / "stages" / stage / "ledger.jsonl")
        read = [e for e in booked if e["what"] == "evaluate" and not e["decode_tokens"]]
        assert [e["prefill_tokens"] for e in read] == [4 * 128] * len(at[stage])


def test_a_stage_begins_as_its_start_ended(run: Path) -> None:
    """The same weights on the same questions are not tried twice, and nothing is booked for them."""
    begin = {"step": 0, "point": 0, "flops": 0.0, "last": False}
    ends = [e for e in lines(run / "stages" / "sft" / "evaluations.jsonl") if e["last"] and e["split"] == "heldout"]
    for stage in ("rl", "sft_more"):
        rows = lines(run / "stages" / stage / "evaluations.jsonl")
        assert [e for e in rows if not e["point"]] == [{**e, **begin} for e in ends] and len(ends) == 2
        booked = [e for e in lines(run / "stages" / stage / "ledger.jsonl") if e["what"] == "evaluate" and e["decode_tokens"]]
        assert len(booked) == len(rows) - 2


def test_the_plan_counts_what_more_is_measured(base: Path, run: Path) -> None:
    def planned(**changes: Any) -> dict[str, float]:
        stages = plan.make(check_recipe(resolve(recipe.load(TEXT, {"stage.sft.from": str(base), **changes})))).stages
        return {s.name: s.evaluation_flops for s in stages}

    everything = planned()
    without_corpus = planned(**{"evaluation.corpus": ""})
    least = planned(**{"evaluation.corpus": "", "evaluation.also": []})
    for stage in STAGES:
        read = [e for e in lines(run / "stages" / stage / "ledger.jsonl") if e["what"] == "evaluate" and not e["decode_tokens"]]
        cost = sum(e["prefill_flops"] + e["decode_flops"] for e in read)
        assert everything[stage] - without_corpus[stage] == pytest.approx(cost, rel=1e-6)
        rows = [e for e in lines(run / "stages" / stage / "evaluations.jsonl") if e["decode"] == "greedy"]
        tried = [e for e in rows if e["point"] or stage == "sft"]  # others begin with what their start ended with
        further = [e for e in tried if e["split"] == "harder"]
        assert without_corpus[stage] / least[stage] == pytest.approx(len(tried) / (len(tried) - len(further)))


def test_measuring_more_changes_nothing_else(base: Path, run: Path, tmp_path: Path) -> None:
    less = ["--set", "evaluation.also=[]", "--set", "evaluation.corpus="]
    done = forked("run", TEXT, "--set", f"stage.sft.from={base}", "--out", "r", *less, cwd=tmp_path)
    assert done.code == 0, done.err
    for stage in STAGES:
        fewer, more = (f / "stages" / stage for f in (tmp_path / "r", run))
        assert not (fewer / "forgetting.jsonl").exists()
        assert (fewer / "metrics.jsonl").read_bytes() == (more / "metrics.jsonl").read_bytes()
        rows = [e for e in lines(more / "evaluations.jsonl") if e["split"] == "heldout"]
        assert lines(fewer / "evaluations.jsonl") == rows


def test_an_interrupted_run_measures_the_same(base: Path, run: Path, tmp_path: Path) -> None:
    files = [f"stages/{s}/{name}.jsonl" for s in STAGES for name in ("evaluations", "forgetting")]
    killed = forked("run", TEXT, "--set", f"stage.sft.from={base}", "--out", "r", cwd=tmp_path, kill=("sft_more/forgetting", 1))
    assert killed.code == -signal.SIGKILL
    killed = forked("run", "--resume", "r", cwd=tmp_path, kill=("sft_more/evaluations", 6))
    assert killed.code == -signal.SIGKILL
    assert forked("run", "--resume", "r", cwd=tmp_path).code == 0
    for name in files:
        assert (tmp_path / "r" / name).read_bytes() == (run / name).read_bytes(), name


@pytest.mark.parametrize(("change", "said"), [
    ({"evaluation.also": ["harderer"]}, "did you mean 'harder'?"),
    ({"evaluation.also": ["heldout"]}, "'heldout' is measured already"),
    ({"evaluation.corpus": "nowhere.txt"}, "evaluation.corpus = 'nowhere.txt': no such file"),
])  # fmt: skip
def test_what_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as e:
        check_recipe(resolve(recipe.load(TEXT, change)))
    assert said in str(e.value)


def test_a_corpus_of_ones_own_is_found_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.txt").write_text("One two three four five. " * 200, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert recipe.load(TEXT, {"evaluation.corpus": "mine.txt"}).evaluation.corpus == str(tmp_path / "mine.txt")


# --- readers ---------------------------------------------------------------------------------------------------------


def test_summary(base: Path, run: Path) -> None:
    s, start = json.loads((run / "summary.json").read_text(encoding="utf-8")), "base-of-text (start)"
    by = [(p["name"], p["stage"], p["split"], p["decode"]) for p in s["players"]]
    each = [(split, d) for split in ("heldout", "harder") for d in ("sampled", "greedy")]
    assert by == [*((n, n, *e) for n in STAGES for e in each), *((start, None, *e) for e in each),
                  ("gold", None, "heldout", "greedy")]  # fmt: skip
    first = lines(run / "stages" / "sft" / "evaluations.jsonl")[0]
    player = next(p for p in s["players"] if p["name"] == start)
    assert player["extra_ci95"] == first["extra_ci95"] and {"pass@4", "best@4", "majority@4"} < set(first["extra_ci95"])
    read = {r["name"]: r for r in s["forgetting"]}
    assert list(read) == [start, *STAGES] and read[start]["change"] is None and read[start]["stage"] is None
    corpus = forgetting.load("builtin", 600, real.tokenizer(), 128)
    assert read[start]["value"] == pytest.approx(forgetting.read(hf.load(base), torch.float32, corpus)[0]["value"])
    for name in STAGES:
        change = read[name]["change"]
        assert change["value"] == pytest.approx(read[name]["value"] - read[start]["value"])
        assert change["ci95"][0] <= change["value"] <= change["ci95"][1]


def edited(run: Path, target: Path, name: str, change: Callable[[str, dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """Verdicts by id of a copy of the run in which every row of a file is changed."""
    shutil.copytree(run, target)
    for stage in STAGES:
        file = target / "stages" / stage / name
        file.write_text("".join(json.dumps(change(stage, row)) + "\n" for row in lines(file)), encoding="utf-8")
    return {v["id"]: v for v in summarise(target)["verdicts"]}


def test_verdicts(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("outdo.compare.claims.forgets_less.SAME_BUDGET", 1e9)  # two steps of each cost different FLOPs
    def right(stage: str, row: dict[str, Any]) -> dict[str, Any]:
        return {**row, "items": [1.0] * 6, "value": 1.0} if stage == "rl" and row["split"] == "harder" else row

    better = edited(run, tmp_path / "a", "evaluations.jsonl", right)
    assert better["beyond_harder"]["verdict"] == "supported" and "+100.0 points" in better["beyond_harder"]["text"]
    assert better["rl_vs_imitation_greedy"]["verdict"] == "not distinguishable", "the questions of its own are another matter"

    def worse(stage: str, row: dict[str, Any]) -> dict[str, Any]:
        return {**row, "items": [x + 0.1 * (stage == "sft_more") + 1e-3 * i for i, x in enumerate(row["items"])]}

    v = edited(run, tmp_path / "c", "forgetting.jsonl", worse)["forgets_less"]
    assert v["verdict"] == "supported" and "4 passages" in v["text"]
    other = edited(run, tmp_path / "b", "forgetting.jsonl", lambda stage, row: {**row, "sha256": stage})
    assert "forgets_less" not in other, "two texts are never compared"


def test_verdicts_speak_of_answers(run: Path) -> None:
    found = summarise(run)["verdicts"]
    assert found
    for v in found:
        said = v["text"]
        assert not [w for w in ("game", " wins ", "against none", "held-out starts", "teacher") if w in said], said


def test_unscored_answers_are_left_out_of_verdicts(run: Path, tmp_path: Path) -> None:
    def unscored(stage: str, row: dict[str, Any]) -> dict[str, Any]:
        return {**row, "items": [None, *row["items"][1:]]}

    v = edited(run, tmp_path / "a", "evaluations.jsonl", unscored)["rl_vs_imitation_sampled"]
    assert v["evidence"]["difference"]["n"] == 5 and "n = 5 held-out questions" in v["text"]
    silent = edited(run, tmp_path / "b", "evaluations.jsonl", lambda stage, row: {**row, "items": [None] * 6, "value": None})
    json.dumps(silent, allow_nan=False)
    assert "rl_vs_imitation_sampled" not in silent


def test_the_table_of_several_runs(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "r")
    resolved_recipe = tmp_path / "r" / "recipe.toml"
    resolved_recipe.write_text(resolved_recipe.read_text(encoding="utf-8").replace("seed = 0\n", "seed = 1\n", 1),
        encoding="utf-8")
    said = table.markdown(table.gather([run, tmp_path / "r"]))
    assert "Seeds 0, 1;" in said and "0.0 % [0.0, 39.0] (0.0 % / 0.0 %)" in said
    for head in ("**heldout** (share right, 6 questions, 4 samples of each)", "**harder** (share right", "**Forgetting** (nats",
                 "| player | greedy | pass@1, sampled | pass@4 |", "| base-of-text (start) |"):  # fmt: skip
        assert head in said, head


def test_pass_at_k_from_means() -> None:
    scores = (np.random.default_rng(0).random((5, 16)) < 0.2).astype(float)
    means = np.round(scores.mean(1), 4)  # as evaluations.jsonl has them
    assert table._pass_at(means[None], 16, 4)[0] == pytest.approx(pass_at_k(scores, 4))
    assert np.isnan(table._pass_at(np.array([[np.nan]]), 4, 4)).all()
