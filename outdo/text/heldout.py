"""Rows that no stage trains on, to measure the loss on: a share of the data by their hash, or rows of their own."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping

from outdo.system import randomness
from outdo.text.rows import Row, RowOptions, Rows, first

MOST_ROWS = 256  # that are measured, at every evaluation; of large data no more are kept from training


def choose(config: RowOptions, rows: Rows, given: Rows | None = None) -> tuple[Mapping[int, Row], bool]:
    """Number -> row of what the loss is measured on, and whether these are rows of the data, which training then skips.

    given: rows from Python in place of `heldout_data`. Raises UserError if that cannot be read.
    """
    if config.heldout_data is None and given is None:
        return by_hash(rows, config.heldout), True
    own = source(config)
    found = (first(own.data, MOST_ROWS, own.data_split, own.stream, own.columns, own.documents) if given is None
             else first(given, MOST_ROWS))
    return dict(enumerate(found)), False


def by_hash(rows: Rows, share: float) -> dict[int, Row]:
    """Number -> row of those whose content falls into the share: always the same, and copies stay together. Never all rows."""
    numbered = enumerate(rows) if share else enumerate(())
    fall = ((i, row) for i, row in numbered if randomness.key("heldout", _content(row)) < share * 2**63)
    found = dict(itertools.islice(fall, MOST_ROWS))
    more = next((True for i, _ in enumerate(rows) if i not in found), False)
    return found if more else {}


def source(config: RowOptions) -> RowOptions:
    """The stage as if it imitated the rows that `heldout_data` names: a split of its data, or data elsewhere."""
    name = config.heldout_data
    if name is None:
        return config
    split = re.fullmatch(r"\w+", name) is not None
    return config.model_copy(update={"data_split": name} if split else {"data": name})


def _content(row: Row) -> str:
    return json.dumps(dict(row), sort_keys=True, default=str)
