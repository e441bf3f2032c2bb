"""The same rows from every source; streams that start anywhere; one line for whatever cannot be read.

    pytest tests/text/test_rows.py
"""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chats import EXAMPLES, NAMES

from outdo.errors import UserError
from outdo.text import rows as text_rows
from outdo.text.rows import Feed, Rows, Stream, first, load
from outdo.text.shapes import Shape, shape_of

datasets = pytest.importorskip("datasets")
List = list[dict[str, Any]]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def jsonl(rows: List, folder: Path, name: str = "rows.jsonl") -> Path:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows) + "\n", encoding="utf-8")
    return folder / name


def json_list(rows: List, folder: Path) -> Path:
    (folder / "rows.json").write_text(" \n" + json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8")
    return folder / "rows.json"


def json_lines(rows: List, folder: Path) -> Path:
    return jsonl(rows, folder, "rows.json")


def table(rows: List, folder: Path) -> Path:
    with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, list(rows[0]))
        writer.writeheader()
        writer.writerows({k: v if isinstance(v, str | bool) else json.dumps(v) for k, v in row.items()} for row in rows)
    return folder / "rows.csv"


def parquet(rows: List, folder: Path) -> Path:
    datasets.Dataset.from_list(rows).to_parquet(folder / "rows.parquet")
    return folder / "rows.parquet"


def saved(rows: List, folder: Path) -> Path:
    datasets.Dataset.from_list(rows).save_to_disk(folder / "saved")
    return folder / "saved"


def saved_splits(rows: List, folder: Path) -> Path:
    other = datasets.Dataset.from_list(rows[:1])
    datasets.DatasetDict(train=datasets.Dataset.from_list(rows), test=other).save_to_disk(folder / "splits")
    return folder / "splits"


def folder_of_files(rows: List, folder: Path) -> Path:
    (folder / "files").mkdir()
    jsonl(rows, folder / "files", "train.jsonl")
    return folder / "files"


SOURCES: dict[str, Callable[[List, Path], Any]] = {
    "list": lambda rows, _: rows,
    "jsonl": jsonl,
    "json": json_list,
    "json lines": json_lines,
    "csv": table,
    "parquet": parquet,
    "Dataset": lambda rows, _: datasets.Dataset.from_list(rows),
    "DatasetDict": lambda rows, _: datasets.DatasetDict(train=datasets.Dataset.from_list(rows)),
    "IterableDataset": lambda rows, _: datasets.Dataset.from_list(rows).to_iterable_dataset(),
    "saved": saved,
    "saved splits": saved_splits,
    "folder of files": folder_of_files,
}


def without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_none(v) for k, v in value.items() if v is not None}
    return [without_none(v) for v in value] if isinstance(value, list) else value


def listed(rows: Rows) -> List:
    return [dict(row) for row in rows] if isinstance(rows, Stream) else [dict(rows[i]) for i in range(len(rows))]


def messages_as_text(row: dict[str, Any]) -> bool:
    """Whether a CSV file would hold messages where text may be: it has no way to say which."""
    return any(isinstance(row.get(c), list) for c in ("prompt", "completion", "chosen", "rejected"))


@pytest.mark.parametrize(("shape", "row"), EXAMPLES, ids=NAMES)
@pytest.mark.parametrize("source", SOURCES)
def test_every_shape_from_every_source(source: str, shape: Shape, row: dict[str, Any], tmp_path: Path) -> None:
    if source == "csv" and messages_as_text(row):
        pytest.skip("cells are text")
    if "tools" in row and source not in ("list", "jsonl", "json", "json lines", "csv", "folder of files"):
        row = {**row, "tools": json.dumps(row["tools"])}  # Arrow has no type for an object without keys
    made = SOURCES[source]([row, {**row}], tmp_path)
    found = listed(load(made))
    assert without_none(found) == [without_none(row)] * 2
    assert [shape_of(r) for r in found] == [shape, shape]
    assert without_none(dict(first(made, 1)[0])) == without_none(row)


@pytest.mark.parametrize("source", ["jsonl", "json", "csv", "parquet", "saved", "folder of files"])
def test_streams_of_names(source: str, tmp_path: Path) -> None:
    rows = [{"text": f"number {i}"} for i in range(3000)]
    made = SOURCES[source](rows, tmp_path)
    stream = load(made, stream=True)
    assert source == "saved" or isinstance(stream, Stream)
    assert listed(stream) == rows == listed(stream)
    assert first(made, 2) == rows[:2]
    assert load(str(made))[2999] == rows[2999]  # type: ignore[index]


def test_splits(tmp_path: Path) -> None:
    made = saved_splits([{"text": "a"}, {"text": "b"}], tmp_path)
    assert len(load(made, "test")) == 1  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"the dataset has no split 'tset'; did you mean 'test'\?"):
        load(made, "tset")


# --- order -----------------------------------------------------------------------------------------------------------

HUNDRED = [{"text": str(i)} for i in range(100)]
STREAM = Stream(lambda: iter(HUNDRED))


@pytest.mark.parametrize("rows", [HUNDRED, STREAM], ids=["sequence", "stream"])
def test_a_row_is_a_function_of_data_seed_and_position(rows: Rows) -> None:
    everything = Feed(rows, 5, window=32).take(0, 350)
    for start, n in ((0, 1), (17, 20), (90, 30), (99, 1), (100, 100), (340, 10)):
        assert Feed(rows, 5, window=32).take(start, n) == everything[start : start + n]
    feed = Feed(rows, 5, window=32)
    pieces = [feed.take(start, 7) for start in range(0, 350, 7)]
    assert list(itertools.chain(*pieces)) == everything
    assert feed.take(3, 4) == everything[3:7], "and back"
    assert Feed(rows, 6, window=32).take(0, 350) != everything


@pytest.mark.parametrize("rows", [HUNDRED, STREAM], ids=["sequence", "stream"])
def test_every_epoch_has_every_row_in_another_order(rows: Rows) -> None:
    taken = Feed(rows, 5, window=32).take(0, 300)
    epochs = [taken[i : i + 100] for i in (0, 100, 200)]
    for epoch in epochs:
        assert sorted(i for i, _ in epoch) == list(range(100))
        assert all(row == HUNDRED[i] for i, row in epoch)
    assert len({tuple(i for i, _ in epoch) for epoch in epochs}) == 3


def test_a_stream_holds_one_window_at_a_time() -> None:
    read = 0

    def endless() -> Iterator[dict[str, Any]]:
        nonlocal read
        for i in itertools.count():
            read += 1
            yield {"text": str(i)}

    numbers = [i for i, _ in Feed(Stream(endless), 0, window=50).take(0, 120)]
    assert read == 150
    assert sorted(numbers[:50]) == list(range(50)) and numbers[:50] != list(range(50))


# --- what cannot be read ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "content", "said"), [
    ("rows.jsonl", b"", "data '{path}' has no rows; give data with at least one"),
    ("rows.json", b"[]", "data '{path}' has no rows"),
    ("rows.csv", b"text\n", "data '{path}' has no rows"),
    ("rows.xls", b"hello", "data '{path}' has an unknown ending; known are .jsonl, .ndjson, .json, .csv, .parquet, .txt"),
    ("rows.jsonl", b'{"text": "a"}\n{"text": "b"\n', "data file '{path}' cannot be read (line 2 is not JSON: "),
    ("rows.jsonl", b'{"text": "a"}\n[1]\n', "data file '{path}' cannot be read (line 2 is not a JSON object)"),
    ("rows.jsonl", b'{"text": "\xff"}\n', "data file '{path}' cannot be read ('utf-8' codec can't decode"),
    ("rows.jsonl", b"[" * 100_000 + b"\n", "data file '{path}' cannot be read (line 1 is not JSON: "),
    ("rows.json", b'[{"text": "a"}, 3]', "data file '{path}' cannot be read (its list holds something other than objects)"),
    ("rows.json", b'[{"text": "a"},', "data file '{path}' cannot be read ("),
    ("rows.csv", b'prompt,completion\na,b\nc\n', "data file '{path}' cannot be read (line 3 has not as many cells as"),
    ("rows.csv", b"prompt,labels\na,perhaps\n", "data file '{path}' cannot be read (line 2: column labels is not JSON: "),
    ("rows.csv", b'text\n"never closed\n', "data file '{path}' cannot be read ("),
    ("rows.parquet", b"PAR1 but not really", "data file '{path}' cannot be read ("),
])  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_files_that_cannot_be_read(name: str, content: bytes, said: str, stream: bool, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError) as e:
        listed(load(path, stream=stream))
    assert str(e.value).startswith(said.format(path=path))


def test_a_very_long_cell(tmp_path: Path) -> None:
    path = table([{"text": "x" * 500_000}], tmp_path)
    assert len(listed(load(path))[0]["text"]) == 500_000


@pytest.mark.parametrize("name", ["nowhere.jsonl", "nowhere", "data/nowhere.parquet", "./no/where", "/nowhere/at/all"])
def test_missing_files(name: str) -> None:
    with pytest.raises(UserError, match=r"does not exist; give a file \(\.jsonl, .*\), a folder or a hub id"):
        load(name)


def test_hub_ids_without_a_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"dataset 'some-org/some-data:main', split 'test', cannot be loaded \("):
        load("some-org/some-data:main", "test")


def test_a_folder_without_data(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be loaded \("):
        load(tmp_path)


def test_a_damaged_saved_folder(tmp_path: Path) -> None:
    folder = saved([{"text": "a"}], tmp_path)
    (folder / "state.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="cannot be read"):
        load(folder)


def test_objects_that_can_be_read_only_once() -> None:
    with pytest.raises(UserError, match="data of type generator cannot be read again and again"):
        load(row for row in HUNDRED)
    with pytest.raises(UserError, match="data of type int cannot be read"):
        load(5)
    with pytest.raises(UserError, match="data 'list' has no rows"):
        load([])


def test_without_the_optional_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON Lines, JSON, CSV and lists need none."""
    file = parquet(HUNDRED, tmp_path)
    monkeypatch.setattr(text_rows.importlib.util, "find_spec", lambda name: None)
    for source, package in ((file, "pyarrow"), (tmp_path, "datasets"), ("org/name", "datasets")):
        with pytest.raises(UserError, match=rf"takes the package {package}: pip install 'outdo\[llm\]'"):
            load(source)
    assert listed(load(jsonl(HUNDRED, tmp_path))) == HUNDRED
