"""Text tasks with a real tokenizer and a real chat model: prompts, splits, replies, finishes.

Run: .venv/bin/python -m pytest tests/tasks/test_text_tasks.py   (about 15 s on one core)
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import real
from transformers import PreTrainedTokenizerBase

from outdo.errors import UserError
from outdo.evaluation.measure import measure
from outdo.judges.function import FunctionJudge
from outdo.judges.reasoning_gym import ReasoningGymJudge
from outdo.rollout.episodes import rollout
from outdo.tasks.dataset import Dataset
from outdo.tasks.reasoning_gym import ReasoningGym
from outdo.text import chat
from outdo.types import Finish, Usage

ROWS = [{"prompt": f"What is {i} + {i}?", "answer": str(2 * i)} for i in range(200)]
SPLITS = ("train", "validation", "heldout")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return real.tokenizer()


def bound(tokenizer: PreTrainedTokenizerBase, rows: Any = ROWS, **options: Any) -> Dataset:
    task = Dataset.of(rows, **options)
    task.bind(tokenizer)
    return task


# --- prompts --------------------------------------------------------------------------------------------------------


def test_without_a_tokenizer() -> None:
    for task in (Dataset.of(ROWS), ReasoningGym()):
        with pytest.raises(UserError, match=f"task {task.name} needs a model's tokenizer: give the first stage from = "):
            task.tokenizer()
        with pytest.raises(UserError, match="needs a model's tokenizer"):
            task.prompts("train", 1, 0)


@pytest.mark.parametrize(
    ("row", "system", "want"),
    [
        ({"prompt": "Once upon"}, None, "Once upon"),
        ({"prompt": [{"role": "user", "content": "Hi"}]}, "Be brief.", [("system", "Be brief."), ("user", "Hi")]),
        ({"prompt": "Hi"}, "Be brief.", [("system", "Be brief."), ("user", "Hi")]),
        ({"question": "Why?"}, None, [("user", "Why?")]),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, None, [("user", "a")]),
    ],
)
def test_column_shapes(tokenizer: PreTrainedTokenizerBase, row: dict[str, Any], system: str | None, want: Any) -> None:
    task = bound(tokenizer, [row], system=system, validation=0.0, heldout=0.0)
    (prompt,) = task.prompts("train", 1, 0)
    shown = prompt.row["prompt"]
    text = tokenizer.decode(prompt.token_ids)
    if isinstance(want, str):
        assert shown == text == want
    else:
        assert [(m["role"], m["content"]) for m in shown] == want
        assert text == tokenizer.apply_chat_template(shown, tokenize=False, add_generation_prompt=True)


def test_splits_share_no_prompt_and_stay_when_data_grows(tokenizer: PreTrainedTokenizerBase) -> None:
    def texts(task: Dataset, split: str, n: int) -> list[str]:
        return [str(p.row["prompt"]) for p in task.prompts(split, n, 3)]

    task = bound(tokenizer, [*ROWS, *ROWS], validation=0.1)
    seen = {s: set(texts(task, s, n)) for s, n in zip(SPLITS, (600, 10, 20), strict=True)}
    assert all(not seen[a] & seen[b] for a in SPLITS for b in SPLITS if a < b)
    assert 120 < len(seen["train"]) < 180 and len(seen["heldout"]) > 5
    fewer = bound(tokenizer, ROWS[:100], validation=0.1)
    assert set(texts(fewer, "train", 300)) <= seen["train"]


def test_the_stream(tokenizer: PreTrainedTokenizerBase) -> None:
    """Same seed, same order, however it is cut; every row once a round; ids differ; other columns are kept, as JSON."""
    task, again = bound(tokenizer), bound(tokenizer)
    n = len(task._pool("train"))
    want = [p.row for p in task.prompts("train", 2 * n, 1)]
    assert [p.row for k in range(4) for p in again.prompts("train", n // 2, 1, k * (n // 2))] == want[: 4 * (n // 2)]
    assert len({r["prompt"] for r in want[:n]}) == n == len({r["prompt"] for r in want[n:]}) and want[:n] != want[n:]
    assert [p.row for p in task.prompts("train", n, 2)] != want[:n]
    assert len({p.id for p in task.prompts("train", 2 * n, 1)}) == 2 * n
    odd = bound(tokenizer, [{"prompt": "x", "n": np.int64(3), "list": np.arange(2), "path": Path("a")}], heldout=0, validation=0)
    assert odd.prompts("train", 1, 0)[0].row == {"prompt": "x", "n": 3, "list": [0, 1], "path": "a"}


def test_long_prompts_are_dropped_and_counted(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = [*ROWS, *({"prompt": f"{i} " * 60} for i in range(40))]
    task = bound(tokenizer, rows, max_prompt_tokens=30, heldout=0.0)
    assert max(len(p.token_ids) for p in task.prompts("train", 300, 0)) <= 30
    dropped, total = task._dropped["train"]
    assert 30 < dropped <= 40 and f"{total - dropped} prompts ({dropped} longer than 30 tokens dropped)" in task.describe()
    with pytest.raises(UserError, match=r"max_prompt_tokens = 3 leaves out \d+ of the \d+ prompts.*raise task.max_prompt_tokens"):
        bound(tokenizer, max_prompt_tokens=3).prompts("train", 1, 0)
    gym = ReasoningGym(ReasoningGym.Config(max_prompt_tokens=58))
    gym.bind(tokenizer)
    assert max(len(p.token_ids) for p in gym.prompts("train", 30, 0)) <= 58 and "longer than 58 tokens dropped" in gym.describe()


def test_files(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    datasets = pytest.importorskip("datasets")
    lines, table, listed = tmp_path / "a.jsonl", tmp_path / "a.csv", tmp_path / "a.json"
    lines.write_text("".join(json.dumps(r) + "\n\n" for r in ROWS), encoding="utf-8")
    listed.write_text(json.dumps(ROWS), encoding="utf-8")
    table.write_text("prompt,answer\n" + "".join(f"{r['prompt']},{r['answer']}\n" for r in ROWS), encoding="utf-8")
    made = datasets.Dataset.from_list(ROWS)
    made.to_parquet(tmp_path / "a.parquet")
    want = [p.row for p in bound(tokenizer).prompts("train", 9, 0)]
    for source in (lines, table, listed, tmp_path / "a.parquet"):
        assert [p.row for p in bound(tokenizer, None, data=str(source)).prompts("train", 9, 0)] == want, source
    assert [p.row for p in bound(tokenizer, made).prompts("train", 9, 0)] == want


@pytest.mark.parametrize(
    ("rows", "options", "split", "n", "message"),
    [
        ([], {}, "train", 1, "data 'list' has no rows"),
        ([{"text": "x"}], {}, "train", 1, "row 0 of the dataset has no prompt; it needs a column prompt .* and has text"),
        (None, {}, "train", 1, "task dataset has no data; set task.data"),
        (None, {"data": "nowhere.jsonl"}, "train", 1, "data 'nowhere.jsonl' does not exist"),
        (ROWS, {}, "trian", 1, "split 'trian': task dataset has no such split; did you mean 'train'"),
        (ROWS, {}, "heldout", 1000, r"split 'heldout' has \d+ prompts.*set evaluation.prompts = \d+ or less"),
        (ROWS[:2], {}, "heldout", 1, "has none of the 2 rows; fewer than 10 rows all train"),
        ([{**r, "prompt": "Same?"} for r in ROWS], {}, "heldout", 1, "all rows have the same prompt"),
        ([{"prompt": [{"role": "user"}]}], {"heldout": 0.0}, "train", 1, "the chat template cannot render a conversation of"),
    ],
)
def test_bad_data(tokenizer: PreTrainedTokenizerBase, rows: Any, options: dict[str, Any], split: str, n: int,
                  message: str) -> None:
    with pytest.raises(UserError, match=message):
        bound(tokenizer, rows, **{"validation": 0.0, **options}).prompts(split, n, 0)


def test_damaged_files(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    for name, text, message in (("a.jsonl", '{"prompt": "x"}\n{"pro', "line 2 is not JSON"), ("b.jsonl", "3\n", "is not a JSON"),
                                ("c.parquet", "no", "cannot be read")):  # fmt: skip
        (tmp_path / name).write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=message):
            bound(tokenizer, None, data=str(tmp_path / name)).prompts("train", 1, 0)


def test_a_tokenizer_without_a_template(tokenizer: PreTrainedTokenizerBase) -> None:
    bare = copy.deepcopy(tokenizer)
    bare.chat_template = None
    assert chat.stop_ids(bare) == (bare.eos_token_id,)
    bound(bare).prompts("train", 1, 0)  # plain strings need none
    with pytest.raises(UserError, match="the prompt: the tokenizer has no chat template"):
        bound(bare, [{"question": "Why?"}], heldout=0, validation=0).prompts("train", 1, 0)
    bare.eos_token = None
    with pytest.raises(UserError, match="no end-of-text token"):
        bound(bare)


def test_end_of_turn_is_not_always_end_of_text(tokenizer: PreTrainedTokenizerBase) -> None:
    other = copy.deepcopy(tokenizer)
    other.eos_token = "<|endoftext|>"
    assert chat.turn_end(other) == 2 and set(chat.stop_ids(other)) == {2, other.eos_token_id} and other.eos_token_id != 2


# --- replies --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_real_model_answers(tokenizer: PreTrainedTokenizerBase) -> None:
    """The completion is the text of exactly what was sampled; STOP and LENGTH say how it ended; gold is the headline."""
    rows = [{"prompt": [{"role": "user", "content": f"Say {w}."}], "word": w} for w in ("yes", "no", "hello", "A", "why")]
    task = bound(tokenizer, rows, max_new_tokens=10, heldout=0, validation=0)

    def says(completions: list[Any], word: list[str], **kwargs: Any) -> list[float]:
        return [float(w in c[0]["content"]) for c, w in zip(completions, word, strict=True)]

    judge = FunctionJudge.of([says])
    trajectories, usage = rollout(real.engine(), task, task.prompts("train", 5, 0), group_size=3)
    for t in trajectories:
        sampled = t.token_ids[t.mask].tolist()
        assert t.info["completion"] == [{"role": "assistant", "content": tokenizer.decode(sampled, skip_special_tokens=True)}]
        assert t.finish == (Finish.STOP if sampled[-1] == 2 else Finish.LENGTH) and 2 not in sampled[:-1]
        assert (len(sampled) == 10) if t.finish == Finish.LENGTH else len(sampled) <= 10
        assert json.loads(json.dumps(dict(t.info))) == dict(t.info) and t.info["word"] in t.info["prompt"][0]["content"]
    assert {t.finish for t in trajectories} == {Finish.STOP, Finish.LENGTH} and usage.episodes == 15
    m = measure(task, lambda prompts: (trajectories, Usage()), task.prompts("train", 5, 0), {"gold": judge.score})
    assert m.answers.tolist() == [s.value for s in judge.score(trajectories)] and m.n == 5
    assert set(m.extra) == {"finished", "tokens", "gold", "pass@1", "majority@3"}
    assert m.extra["gold"] == pytest.approx(m.value) and m.extra["pass@1"] == pytest.approx(m.value)
    assert m.extra["finished"] == np.mean([t.finish == Finish.STOP for t in trajectories])


def test_nonsense_is_read(tokenizer: PreTrainedTokenizerBase) -> None:
    """Silence and ids that no tokenizer has are replies like others."""
    task = bound(tokenizer)
    episodes = task.episodes(task.prompts("train", 2, 0), np.arange(2))
    observations, done = episodes.step(np.arange(2), np.array([[len(tokenizer) + 5, -1], [-1, -1]]))
    assert observations.shape == (2, 0) and done.all() and [episodes.info(i)["completion"] for i in range(2)] == ["", ""]


def test_gold_player_demonstrates(tokenizer: PreTrainedTokenizerBase) -> None:
    task = ReasoningGym(ReasoningGym.Config(max_new_tokens=20))
    task.bind(tokenizer)
    prompts = task.prompts("train", 8, 0)
    games = task.play("gold", prompts, np.arange(8))
    assert [s.value for s in ReasoningGymJudge().score(games)] == [1.0] * 8
    for prompt, t in zip(prompts, games, strict=True):
        assert t.finish == Finish.STOP and t.token_ids[t.mask][-1] == 2
        assert tokenizer.decode(t.token_ids[t.mask]) == f"<answer>{prompt.row['answer']}</answer><|im_end|>"
    with pytest.raises(UserError, match="no such player"):
        task.play("teacher", prompts, np.arange(8))
    with pytest.raises(UserError, match="no moves to draw from"):
        task.play("gold", prompts, np.arange(8), None, 0.1)
