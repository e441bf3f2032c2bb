"""Rows of data from wherever users have them: files, `datasets` objects and folders, hub ids, lists of dicts.

What fits in memory is a sequence. What does not is a `Stream`, read from its beginning as often as it is iterated.
"""

from __future__ import annotations

import csv
import importlib.util
import itertools
import json
import re
import sys
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, Self, TextIO

import numpy as np

from outdo.errors import UserError, check, nearest
from outdo.system import randomness
from outdo.text.columns import Adapted, adapt, check_targets
from outdo.types import IntArray

Row = Mapping[str, Any]
_HUB_ID = re.compile(r"(?P<id>[\w-][\w.-]*/[\w.-]+)(:(?P<config>[\w.-]+))?")
_TYPED_CELLS = ("messages", "tools", "completions", "labels", "label")  # columns of a CSV file that are never plain text


@dataclass(frozen=True)
class Stream:
    """Rows one after another, always in the same order; nobody knows how many there are."""

    read: Callable[[], Iterator[Row]]

    def __iter__(self) -> Iterator[Row]:
        return self.read()


Rows = Sequence[Row] | Stream


class RowOptions(Protocol):
    """What a stage says about its rows of data."""

    @property
    def data(self) -> str | None: ...
    @property
    def data_split(self) -> str: ...
    @property
    def stream(self) -> bool: ...
    @property
    def max_tokens(self) -> int | None: ...
    @property
    def heldout(self) -> float: ...
    @property
    def heldout_data(self) -> str | None: ...
    @property
    def train_on(self) -> str: ...
    @property
    def turns(self) -> str: ...
    @property
    def columns(self) -> dict[str, str]: ...
    @property
    def documents(self) -> str: ...
    def model_copy(self, *, update: Mapping[str, Any] | None = None) -> Self: ...


class Feed:
    """Rows in training order, epoch after epoch: the row at position i is a function of (rows, seed, i).

    Every epoch shuffles a sequence as a whole, a stream within windows of consecutive rows. Starting anywhere but where the last
    `take` ended costs reading a stream up to there, which is how an interrupted run finds its place again. Rows whose numbers are
    in `skip`, and rows of which `leave_out` is true, never come.
    """

    def __init__(self, rows: Rows, seed: int, window: int = 10_000, skip: Container[int] = (),
                 leave_out: Callable[[Row], bool] | None = None) -> None:
        self.rows, self.seed, self.window, self.skip, self.leave_out = rows, seed, window, skip, leave_out
        self._numbers = np.array([] if isinstance(rows, Stream) else [i for i, _ in self._wanted()], np.int64)
        self._epoch, self._order = -1, np.empty(0, np.int64)
        self._position, self._rest = 0, self._endless()

    def take(self, start: int, n: int) -> list[tuple[int, Row]]:
        """The rows at positions start .. start+n-1, each with its number in the data, from 0."""
        if not isinstance(self.rows, Stream):
            return [self._at(self.rows, i) for i in range(start, start + n)]
        if start != self._position:
            self._rest = itertools.islice(self._endless(), start, None)
        self._position = start + n
        return list(itertools.islice(self._rest, n))

    def _at(self, rows: Sequence[Row], position: int) -> tuple[int, Row]:
        epoch, k = divmod(position, len(self._numbers))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._numbers[self._shuffled(len(self._numbers), epoch, 0)]
        return int(self._order[k]), rows[int(self._order[k])]

    def _endless(self) -> Iterator[tuple[int, Row]]:
        for epoch in itertools.count():
            numbered = self._wanted()
            while window := list(itertools.islice(numbered, self.window)):
                yield from (window[j] for j in self._shuffled(len(window), epoch, window[0][0]))

    def __len__(self) -> int:
        """Rows of one pass; of sequences only."""
        return len(self._numbers)

    def _wanted(self) -> Iterator[tuple[int, Row]]:
        if self.leave_out is None and not isinstance(self.rows, Stream):
            return ((i, {}) for i in range(len(self.rows)) if i not in self.skip)
        out = self.leave_out or (lambda row: False)
        return ((i, row) for i, row in enumerate(self.rows) if i not in self.skip and not out(row))

    def _shuffled(self, n: int, epoch: int, first: int) -> IntArray:
        return randomness.permutation(n, randomness.key(self.seed, "epoch", epoch, first))


def load(source: Any, split: str = "train", stream: bool = False, columns: Mapping[str, str] | None = None,
         documents: str = "paragraphs") -> Rows:
    """Rows of a file, a folder, a hub id, a `datasets` object, a pandas DataFrame or a list of dicts, in TRL's shapes.

    source: path (.jsonl, .json, .csv, .parquet, .txt, a folder saved by `datasets` or full of data files), "org/name" or
    "org/name:config" of the hub, Dataset, DatasetDict, IterableDataset, DataFrame, list of dicts. split: which one, where there
    are several. stream: read files and hub data as they come instead of into memory. columns: our names = the data's (see
    `outdo.text.columns`). documents: of a .txt file, its "paragraphs" (between empty lines) or the whole "file" as one row.
    Raises UserError, also if there are no rows.
    """
    name = str(source) if isinstance(source, str | Path) else type(source).__name__
    rows = _named(name, split, stream, documents) if isinstance(source, str | Path) else _object(source, split)
    empty = next(iter(rows), None) is None if isinstance(rows, Stream) else len(rows) == 0
    check(not empty, f"data {name!r} has no rows; give data with at least one")
    names = dict(columns or {})
    check_targets(names)
    if isinstance(rows, Stream):
        return Stream(lambda: (adapt(row, names, f"row {i}") for i, row in enumerate(rows)))
    return Adapted(rows, names)


def splits(source: Any) -> list[str]:
    """Names of the splits of a folder of data files or of a DatasetDict; empty if it has none or nobody can say."""
    if isinstance(source, Mapping):
        return [str(s) for s in source]
    path = Path(source) if isinstance(source, str | Path) else None
    if path is None or not path.is_dir():
        return []
    if (path / "dataset_dict.json").is_file():
        return [str(s) for s in json.loads((path / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]]
    stems = {file.stem.split("-")[0] for file in path.iterdir() if file.suffix.lower() in _READERS}
    return [s for s in ("train", "validation", "test") if s in stems]


def first(source: Any, n: int, split: str = "train", stream: bool = False, columns: Mapping[str, str] | None = None,
          documents: str = "paragraphs") -> list[Row]:
    """The first n rows, or as many as there are, without reading a whole file. Raises UserError like `load`."""
    is_file = isinstance(source, str | Path) and Path(source).is_file()
    rows = load(source, split, stream or is_file, columns, documents)
    return list(itertools.islice(rows, n)) if isinstance(rows, Stream) else [rows[i] for i in range(min(n, len(rows)))]


def _object(source: Any, split: str) -> Rows:
    if isinstance(source, Mapping):  # a DatasetDict
        check(split in source, f"the dataset has no split {split!r}{nearest(split, [str(s) for s in source])}")
        source = source[split]
    if hasattr(source, "iloc") and callable(getattr(source, "to_dict", None)):  # a pandas DataFrame
        return [{str(k): v for k, v in row.items()} for row in source.to_dict("records")]
    if hasattr(source, "__len__") and hasattr(source, "__getitem__"):
        rows: Sequence[Row] = source
        return rows
    repeatable = isinstance(source, Iterable) and not isinstance(source, Iterator)
    check(repeatable, f"data of type {type(source).__name__} cannot be read again and again; give a path, a hub id, a Dataset, "
                      "an IterableDataset or a list of dicts")
    return Stream(lambda: iter(source))


def _named(name: str, split: str, stream: bool, documents: str) -> Rows:
    path, hub = Path(name), _HUB_ID.fullmatch(name)
    if path.is_file():
        check(path.suffix.lower() in _READERS, f"data {name!r} has an unknown ending; known are {', '.join(_READERS)}")
        read = partial(_guarded, path, documents)
        return Stream(read) if stream else list(read())
    if path.is_dir():
        return _folder(path, split, stream)
    if ":" in name and Path(name.rpartition(":")[0]).exists():  # data:split
        return _named(*name.rpartition(":")[::2], stream, documents)
    if hub is None or path.suffix.lower() in _READERS:
        raise UserError(f"data {name!r} does not exist; give a file ({', '.join(_READERS)}), a folder or a hub id (org/name)")
    return _datasets(name, hub["id"], hub["config"], split, stream)


def _folder(path: Path, split: str, stream: bool) -> Rows:
    """What `Dataset.save_to_disk` wrote, or a folder of data files."""
    if not any((path / mark).is_file() for mark in ("state.json", "dataset_dict.json")):
        return _datasets(str(path), str(path), None, split, stream)
    _need("datasets", f"reading the folder {str(path)!r}")
    import datasets

    try:
        return _object(datasets.load_from_disk(str(path)), split)
    except (OSError, ValueError) as e:
        raise UserError(f"dataset folder {str(path)!r} cannot be read ({e}); save it again") from None


def _datasets(name: str, place: str, config: str | None, split: str, stream: bool) -> Rows:
    _need("datasets", f"loading {name!r}, which is no file,")
    import datasets

    try:
        return _object(datasets.load_dataset(place, config, split=split, streaming=stream), split)
    except Exception as e:  # the library's own, its network's and its file formats' errors
        raise UserError(f"dataset {name!r}, split {split!r}, cannot be loaded ({type(e).__name__}: {e}); check its name and "
                        "split and, if it is on the hub, the network") from None


def _need(package: str, what: str) -> None:
    check(importlib.util.find_spec(package) is not None, f"{what} takes the package {package}: pip install 'outdo[llm]'")


# --- files -----------------------------------------------------------------------------------------------------------


def _guarded(path: Path, documents: str) -> Iterator[Row]:
    """The file's rows; whatever is wrong in it becomes a UserError that names it."""
    try:
        if path.suffix.lower() == ".txt" and documents == "file":
            yield {"text": path.read_text(encoding="utf-8-sig")}
        else:
            yield from _READERS[path.suffix.lower()](path)
    except (ValueError, RecursionError, csv.Error) as e:  # bad JSON, bad UTF-8 and pyarrow's errors are ValueErrors
        raise UserError(f"data file {str(path)!r} cannot be read ({e}); mend or convert it") from None


def _jsonl(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as f:
        yield from _lines(f)


def _lines(f: TextIO) -> Iterator[Row]:
    for number, line in enumerate(f, 1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as e:
                raise ValueError(f"line {number} is not JSON: {e}") from None
            if not isinstance(row, dict):
                raise ValueError(f"line {number} is not a JSON object")
            yield row


def _json(path: Path) -> Iterator[Row]:
    """One list of objects, or, as many write it, one object a line."""
    with path.open(encoding="utf-8-sig") as f:
        start = f.read(1)
        while start.isspace():
            start = f.read(1)
        f.seek(0)
        if start != "[":
            yield from _lines(f)
            return
        rows = json.load(f)
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("its list holds something other than objects")
    yield from rows


def _csv(path: Path) -> Iterator[Row]:
    """A header and text cells; columns that cannot be text are JSON."""
    csv.field_size_limit(sys.maxsize)
    with path.open(encoding="utf-8-sig", newline="") as f:
        reader = csv.DictReader(f, strict=True)
        for row in reader:
            if None in row or None in row.values():
                raise ValueError(f"line {reader.line_num} has not as many cells as the header")
            yield {k: _cell(k, v, reader.line_num) if k in _TYPED_CELLS else v for k, v in row.items()}


def _cell(column: str, text: str, line: int) -> Any:
    try:
        return json.loads(text.lower() if column.startswith("label") else text)  # tables write True, JSON true
    except ValueError as e:
        if column == "label":
            return text  # a column of the user's own that happens to be called so: a class, not a preference
        raise ValueError(f"line {line}: column {column} is not JSON: {e}; in a table such a column holds JSON: rename it if it "
                         "is something else") from None


def _txt(path: Path) -> Iterator[Row]:
    """One row a paragraph: what stands between empty lines."""
    with path.open(encoding="utf-8-sig") as f:
        paragraph: list[str] = []
        for line in itertools.chain(f, [""]):
            if line.strip():
                paragraph.append(line)
            elif paragraph:
                yield {"text": "".join(paragraph).rstrip("\n")}
                paragraph = []


def _parquet(path: Path) -> Iterator[Row]:
    _need("pyarrow", f"reading {str(path)!r}")
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=1024):
            yield from batch.to_pylist()


_READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _jsonl, ".ndjson": _jsonl, ".json": _json, ".csv": _csv, ".parquet": _parquet, ".txt": _txt,
}  # fmt: skip
