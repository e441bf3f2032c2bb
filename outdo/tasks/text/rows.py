"""Rows of a table from a file, a folder of files, or the hub."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from outdo.errors import UserError, check

_ENDINGS = (".jsonl", ".json", ".csv", ".parquet")


def load(source: str) -> Iterable[dict[str, Any]]:
    """Rows as dicts. Raises UserError for what cannot be read."""
    path = Path(source)
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix in _ENDINGS)
        check(bool(found), f"folder {source!r} holds no data; it needs files ending in {', '.join(_ENDINGS)}")
        return [row for file in found for row in _file(file)]
    if path.suffix in _ENDINGS:
        check(path.is_file(), f"data file {source!r} does not exist; give a path relative to the current folder")
        return list(_file(path))
    return _hub(source)


def _file(path: Path) -> Iterator[dict[str, Any]]:
    try:
        if path.suffix == ".parquet":
            yield from _library("pyarrow.parquet").read_table(path).to_pylist()
        elif path.suffix == ".csv":
            with path.open(newline="", encoding="utf-8") as f:
                yield from csv.DictReader(f)
        else:
            yield from _json(path)
    except (OSError, ValueError, csv.Error) as e:
        raise UserError(f"data file {str(path)!r} cannot be read ({type(e).__name__}: {e})") from None


def _json(path: Path) -> Iterator[dict[str, Any]]:
    """A list of objects, or one object a line."""
    text = path.read_text(encoding="utf-8")
    values = json.loads(text) if text.lstrip().startswith("[") else None
    for number, line in enumerate(text.splitlines() if values is None else values, 1):
        try:
            row = json.loads(line) if isinstance(line, str) and line.strip() else line
        except ValueError as e:
            raise UserError(f"data file {str(path)!r}, line {number} is no JSON ({e})") from None
        if row == "":
            continue
        check(isinstance(row, dict), f"data file {str(path)!r}, row {number} is no object with columns, but {type(row).__name__}")
        yield row


def _hub(name: str) -> Iterable[dict[str, Any]]:
    try:
        return list(_library("datasets").load_dataset(name, split="train"))
    except UserError:
        raise
    except Exception as e:
        why = f"{type(e).__name__}: {(str(e) or 'no message').splitlines()[0]}"
        raise UserError(f"{name!r} is no file, and the hub does not give it ({why})") from None


def _library(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f"reading this data takes {name.split('.')[0]}; install it: pip install 'outdo[llm]'") from None
