"""Which shape a row has, and what is said of rows that have none.

    pytest tests/text/test_shapes.py
"""

from __future__ import annotations

from typing import Any

import pytest
from chats import EXAMPLES, GOOD, NAMES, USER

from outdo.errors import UserError
from outdo.text.shapes import Shape, shape_of


@pytest.mark.parametrize(("shape", "row"), EXAMPLES, ids=NAMES)
def test_every_shape_with_other_columns_beside_it(shape: Shape, row: dict[str, Any]) -> None:
    assert shape_of(row) is shape
    assert shape_of({"id": 7, "score": 0.5, **row}) is shape


def test_the_richer_shape_wins() -> None:
    assert shape_of({"prompt": "p", "messages": [USER, GOOD]}) is Shape.MESSAGES
    assert shape_of({"text": "t", "prompt": "p", "completion": "c"}) is Shape.PROMPT_COMPLETION


def test_every_shape_has_an_example() -> None:
    assert {shape for shape, _ in EXAMPLES} == set(Shape)


@pytest.mark.parametrize(("row", "said"), [
    ({"question": "q", "answer": "a"}, "row 3 has the columns question, answer; wanted are those of one shape: "
     "prompt+completions+labels; prompt+chosen+rejected; chosen+rejected; prompt+completion+label; prompt+completion; "
     "messages; text; prompt"),
    ({}, "row 3 has the columns (none); wanted are"),
    ({"completion": "c"}, "row 3 has the columns completion; wanted are"),
    ("a text", "row 3 is a str; a dict of columns is wanted"),
    ({"text": None}, "row 3: column text holds None; wanted is text"),
    ({"text": ["a"]}, "row 3: column text holds ['a']; wanted is text"),
    ({"messages": []}, "row 3: column messages holds []; wanted is a list of messages with role and content"),
    ({"messages": "hi"}, "row 3: column messages holds 'hi'; wanted"),
    ({"messages": [{"from": "human", "value": "x" * 99}]}, "row 3: column messages holds [{'from': 'human', 'value': 'xxxx"),
    ({"prompt": 5}, "row 3: column prompt holds 5; wanted is text or a list of messages with role and content"),
    ({"prompt": "p", "completion": [GOOD]}, "row 3: some of prompt, completion are text and some are messages; make all"),
    ({"prompt": "p", "completion": "c", "label": "yes"}, "row 3: column label holds 'yes'; wanted is true or false"),
    ({"prompt": "p", "completions": ["a", "b"], "labels": [True]}, "row 3: column labels holds [True]; wanted is a list with"),
    ({"prompt": "p", "completions": "a", "labels": [True]}, "row 3: column completions holds 'a'; wanted is a list of texts"),
])  # fmt: skip
def test_rows_of_no_shape(row: Any, said: str) -> None:
    with pytest.raises(UserError) as e:
        shape_of(row, "row 3")
    assert str(e.value).startswith(said)
    assert "\n" not in str(e.value)
