"""Data as people have it: the usual shapes of instruction and chat data, columns of one's own, text files, data frames, splits.

Run: .venv/bin/python -m pytest tests/text/test_columns.py   (about 5 s on one core)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import real
from talk import bound

from outdo.errors import UserError
from outdo.text import rows
from outdo.text.columns import adapt
from outdo.text.overlap import Withheld
from outdo.text.shapes import Shape, shape_of

ASKED = [{"role": "user", "content": "2+2?"}]
SAID = [{"role": "assistant", "content": "4"}]


@pytest.mark.parametrize(("row", "want", "shape"), [
    ({"question": "2+2?", "answer": "4"}, {"prompt": ASKED, "completion": SAID}, Shape.PROMPT_COMPLETION),
    ({"instruction": "2+2?", "input": "", "output": "4"}, {"prompt": ASKED, "completion": SAID}, Shape.PROMPT_COMPLETION),
    ({"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]}, {"messages": ASKED + SAID},
     Shape.MESSAGES),
    ({"conversations": ASKED + SAID}, {"messages": ASKED + SAID}, Shape.MESSAGES),
    ({"question": "2+2?", "chosen": "4", "rejected": "5"},
     {"prompt": ASKED, "chosen": SAID, "rejected": [{"role": "assistant", "content": "5"}]}, Shape.PREFERENCE),
    ({"prompt": "2+2?", "completion": "4", "question": "q", "answer": "a"}, {"prompt": "2+2?"}, Shape.PROMPT_COMPLETION),
])  # fmt: skip
def test_common_shapes(row: dict[str, Any], want: dict[str, Any], shape: Shape) -> None:
    found = adapt(row, {})
    assert shape_of(found) is shape and {k: found[k] for k in want} == want


def test_instructions_with_an_input_are_one_message() -> None:
    found = adapt({"instruction": "Add.", "input": "2, 2", "output": "4"}, {})
    assert found["prompt"] == [{"role": "user", "content": "Add.\n\n2, 2"}]


def test_columns_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("id,question,label\n1,Where is my parcel?,delivery\n", encoding="utf-8")
    (row,) = rows.load(file, columns={"prompt": "question", "completion": "label"})
    assert row == {"prompt": "Where is my parcel?", "completion": "delivery", "id": "1"}
    for columns, said in (({"prompt": "qestion"}, "row 0 has no column 'qestion'; did you mean 'question'"),
                          ({"prompts": "question"}, "columns: 'prompts' is no column that outdo reads; did you mean 'prompt'")):
        with pytest.raises(UserError, match=said):
            list(rows.load(file, columns=columns))


def test_a_named_column_keeps_its_own_name() -> None:
    """Reward functions know it by that, unless the name means something to outdo."""
    row = adapt({"ticket": "Where?", "department": "post", "text": "x"}, {"question": "ticket", "answer": "department"})
    assert row["department"] == row["answer"] == "post" and row["ticket"] == "Where?"
    assert "text" not in adapt({"text": "Where?", "department": "post"}, {"question": "text", "answer": "department"})


def test_text_files(tmp_path: Path) -> None:
    file = tmp_path / "book.txt"
    file.write_text("One.\nStill one.\n\n\nTwo.\n", encoding="utf-8")
    assert [r["text"] for r in rows.load(file)] == ["One.\nStill one.", "Two."]
    assert [r["text"] for r in rows.load(file, documents="file")] == ["One.\nStill one.\n\n\nTwo.\n"]


def test_a_data_frame() -> None:
    class Frame:
        """As much of a pandas DataFrame as is asked for: it is none of our dependencies."""

        iloc = None

        def to_dict(self, orient: str) -> list[dict[str, Any]]:
            assert orient == "records"
            return [{"prompt": "a", "completion": "b"}]

    assert list(rows.load(Frame())) == [{"prompt": "a", "completion": "b"}]


def questions(n: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"prompt": f"What is {i} plus {i}?", "answer": str(2 * i), "by": f"author {i % 3}"} for i in range(start, start + n)]


def write(path: Path, found: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in found), encoding="utf-8")
    return path


def prompts(task: Any, split: str) -> set[str]:
    return {p.row["prompt"] for p in task.prompts(split, task.size(split), 0)}


def test_a_test_file_is_what_is_measured_on(tmp_path: Path) -> None:
    """Named, or found beside the training file; what stands in it does not train."""
    tokenizer = real.tokenizer()
    train, test = write(tmp_path / "train.jsonl", questions(40)), write(tmp_path / "test.jsonl", questions(10, start=35))
    for source in (train, tmp_path):
        options: dict[str, Any] = {"data": str(source), **({"eval_data": str(test)} if source == train else {})}
        task = bound(tokenizer, None, heldout=0.15, given=False, **options)
        assert prompts(task, "heldout") == {r["prompt"] for r in questions(10, start=35)}
        assert prompts(task, "train") == {r["prompt"] for r in questions(35)}


def test_a_column_keeps_its_rows_together() -> None:
    task = bound(real.tokenizer(), questions(60), heldout=0.4, split_by="by")
    sides = {split: {p.row["by"] for p in task.prompts(split, task.size(split), 0)} for split in ("train", "heldout")
             if task.size(split)}  # fmt: skip
    assert sum(map(len, sides.values())) == 3 == len(set.union(*sides.values()))
    with pytest.raises(UserError, match="no such column; did you mean 'by'"):
        bound(real.tokenizer(), questions(20), split_by="bye").prompts("train", 1, 0)


def test_every_row_is_measured_or_trains() -> None:
    task = bound(real.tokenizer(), questions(40), heldout=0.15)
    assert task.size("train") + task.size("heldout") == 40
    few = bound(real.tokenizer(), questions(5), heldout=0.15)
    assert (few.size("train"), few.size("heldout")) == (5, 0)
    few.prompts("train", 5, 0)
    assert "all of them train and nothing is held out" in few.describe()


@pytest.mark.parametrize(("row", "held"), [
    ({"prompt": "what  is 3 PLUS 3?", "completion": "6"}, True),
    ({"prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 3 plus 3?"}],
      "completion": SAID}, True),
    ({"messages": [*ASKED, *SAID, {"role": "user", "content": "What is 3 plus 3?"}, *SAID]}, True),
    ({"text": "A quiz. What is 3 plus 3? It is 6."}, True),
    ({"question": "What is 3 plus 3?"}, True),
    ({"prompt": "What is 4 plus 3?", "completion": "7"}, False),
    ({"text": "What is 3 plus 30?"}, False),
    ({"text": "Hi there, all of you."}, False),
])  # fmt: skip
def test_rows_with_prompts_that_are_measured_on(row: dict[str, Any], held: bool) -> None:
    assert Withheld(["What is 3 plus 3?", "Hi"]).holds(row) is held
