"""Which rows never train: decided by what they say, wherever they stand and come from.

    pytest tests/text/test_heldout.py
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from outdo.errors import UserError
from outdo.stages.sft import Sft
from outdo.text import heldout
from outdo.text.rows import Feed, Stream, load

ROWS: list[dict[str, Any]] = [{"prompt": f"p{i}", "completion": [{"role": "assistant", "content": "c"}]} for i in range(2000)]


def sft(**options: Any) -> Sft.Config:
    return Sft.Config(kind="sft", steps=1, **{"data": "rows from Python", **options})


def texts(rows: Any) -> set[str]:
    return {json.dumps(row) for row in rows}


def test_a_share_by_content(tmp_path: Path) -> None:
    held = heldout.by_hash(ROWS, 0.05)
    assert 70 < len(held) < 130 and all(ROWS[i] == row for i, row in held.items())
    shuffled = random.Random(0).sample(ROWS, len(ROWS))
    assert texts(heldout.by_hash(shuffled, 0.05).values()) == texts(held.values()), "whatever the order"
    assert texts(held.values()) < texts(heldout.by_hash(ROWS, 0.1).values()), "a larger share holds the smaller one"
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    for stream in (False, True):
        assert heldout.by_hash(load(tmp_path / "rows.jsonl", stream=stream), 0.05) == held
    twice = heldout.by_hash([*ROWS, *ROWS], 0.05)
    assert set(twice) == {j for i in held for j in (i, i + 2000)}, "copies stay together"


def test_limits() -> None:
    assert heldout.by_hash(ROWS, 0.0) == {} and len(heldout.by_hash(ROWS, 0.5)) == heldout.MOST_ROWS
    (number, *_) = heldout.by_hash(ROWS, 0.01)
    assert heldout.by_hash([ROWS[number]] * 3, 0.01) == {}, "something is left to train on"
    read = 0

    def reading() -> Any:
        nonlocal read
        for row in ROWS * 1000:
            read += 1
            yield row

    heldout.by_hash(Stream(reading), 0.5)
    assert read < 1000, "of a long stream only the beginning is read"


@pytest.mark.parametrize("stream", [False, True])
def test_they_never_train(stream: bool) -> None:
    rows = Stream(lambda: iter(ROWS[:300])) if stream else ROWS[:300]
    held = heldout.by_hash(rows, 0.1)
    taken = Feed(rows, 3, skip=held).take(0, 2 * (300 - len(held)))
    assert len(held) > 10 and all(ROWS[i] == row for i, row in taken)
    assert sorted(i for i, _ in taken) == sorted(2 * [i for i in range(300) if i not in held]), "the others once an epoch"


def test_rows_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "other.jsonl").write_text("\n".join(map(json.dumps, ROWS[:5])), encoding="utf-8")
    found = heldout.choose(sft(heldout_data=str(tmp_path / "other.jsonl")), ROWS)
    assert found == (dict(enumerate(ROWS[:5])), False)
    assert heldout.choose(sft(heldout_data="from Python"), ROWS, ROWS[7:9]) == ({0: ROWS[7], 1: ROWS[8]}, False)
    assert heldout.choose(sft(), ROWS) == (heldout.by_hash(ROWS, 0.05), True)
    named = heldout.source(sft(data="org/data", heldout_data="validation"))
    assert (named.data, named.data_split) == ("org/data", "validation"), "a split"
    with pytest.raises(UserError, match=r"data 'gone\.jsonl' does not exist"):
        heldout.choose(sft(heldout_data="gone.jsonl"), ROWS)


def test_a_split_of_the_data(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    splits = {"train": datasets.Dataset.from_list(ROWS[:10]), "test": datasets.Dataset.from_list(ROWS[10:13])}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "splits")
    config = sft(data=str(tmp_path / "splits"), heldout_data="test")
    held, theirs = heldout.choose(config, load(tmp_path / "splits"))
    assert [row["prompt"] for row in held.values()] == ["p10", "p11", "p12"] and not theirs
    with pytest.raises(UserError, match="no split 'tset'; did you mean 'test'"):
        heldout.choose(sft(data=str(tmp_path / "splits"), heldout_data="tset"), ROWS)
