"""`outdo inspect`: what a model would be shown of a data set, and which of it would train, before anything trains."""

from __future__ import annotations

import contextlib
import itertools
import unicodedata
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from outdo.errors import UserError, check
from outdo.models import fetch, hf
from outdo.system.progress import say
from outdo.text.chat import NEVER_ENDS, known_ends, never_ends
from outdo.text.columns import Adapted, detected
from outdo.text.pairs import render_pair, sides
from outdo.text.render import Rendered, Renderer
from outdo.text.rows import Feed, Row, Rows, Stream
from outdo.text.shapes import Shape, shape_of
from outdo.text.usable import summary, unusable

MEASURED_ROWS = 10_000  # at most so many go into the table
SHOWN_TOKENS = 1_000  # of an example
SHOWN_BAD = 10  # rows that cannot be used, with their reasons
_TRAINED = "bold green"
_HIDDEN = {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"}  # Unicode categories that move the cursor, reorder or hide text


def open_tokenizer(model: str) -> tuple[PreTrainedTokenizerBase, int]:
    """Tokenizer and context of a checkpoint, named as in a recipe's `from`; no weights are read. Raises UserError."""
    folder = fetch.resolve(model, say, weights=False)
    tokenizer = hf.load_tokenizer(folder)
    context: int | None = getattr(hf.load_config(folder), "max_position_embeddings", None)
    return tokenizer, context or tokenizer.model_max_length


def show_examples(console: Console, name: str, rows: Rows, render: Renderer, n: int) -> None:
    """Print what the data is, and its first n rows that can be used. Raises UserError if none can."""
    bad = dict(unusable(rows, _look))
    head = [(i, row) for i, row in _head(rows, max(n, 1), bad)]
    check(bool(head), summary(list(bad.items()), len(bad)) if bad else "")
    first = head[0][1]
    shape = shape_of(first, "row 0")
    extra = "".join(f" + {c}" for c in ("tools", "chat_template_kwargs") if first.get(c))
    common = detected(rows.rows[0])[1] if isinstance(rows, Adapted) and isinstance(rows.rows[0], Mapping) else ""
    extra += f", detected from {common}" if common else ""
    size = "a stream of rows" if isinstance(rows, Stream) else f"{len(rows):,} rows"
    line = f"{name}: {size}, {shape}{extra}; columns {', '.join(map(str, first))}"
    ends = [str(render.tokenizer.convert_ids_to_tokens(i)) for i in sorted(known_ends(render.tokenizer))]
    line += f"\na reply ends with {' or '.join(ends) or 'nothing: the tokenizer has no end-of-text token'}"
    if never_ends(render.tokenizer) and shape is Shape.MESSAGES:
        line += f"\nwarning: {NEVER_ENDS}"
    for part in line.split("\n"):
        console.print(visible(part, console), markup=False, highlight=False, soft_wrap=True)
    for number, row in head[:n]:
        with contextlib.suppress(UserError):  # `measure` names it
            for name, text in texts(render, row, f"row {number}"):
                console.print(example(text, f"row {number}{name}", render.tokenizer, console), soft_wrap=True)


def texts(render: Renderer, row: Row, place: str) -> list[tuple[str, Rendered]]:
    """What a model is shown of a row: (", chosen" or ", rejected" of preferences, else "", text). Raises UserError."""
    if shape_of(row, place) in (Shape.PREFERENCE, Shape.IMPLICIT_PREFERENCE):
        return list(zip((", chosen", ", rejected"), render_pair(render, row, place), strict=True))
    return [("", text) for text in render(row, place)]


def measure(rows: Rows, render: Renderer, count: Callable[[str, int, int], None]) -> Measured:
    """All rows if they are few; else the first of a stream, and of others a random choice that is always the same.

    count(what, rows done, all of them). Raises UserError if no row can be used.
    """
    bad = dict(unusable(rows, _look))
    few = isinstance(rows, Stream) or len(rows) <= MEASURED_ROWS
    some = _head(rows, MEASURED_ROWS, bad) if few else Feed(rows, 0, skip=bad).take(0, MEASURED_ROWS)
    made: dict[str, list[Rendered]] = {}
    for number, (place, row) in enumerate(some):
        try:
            for name, text in texts(render, row, f"row {place}"):
                made.setdefault(name, []).append(text)
        except UserError as e:
            bad[place] = str(e)
        count("rendering rows", number + 1, len(some))
    measured = Measured(made, sorted(bad.items()), len(some) if isinstance(rows, Stream) else len(rows))
    check(bool(made), measured.said)
    return measured


@dataclass(frozen=True)
class Measured:
    """The rows as texts, and those that cannot be used."""

    texts: dict[str, list[Rendered]]  # "" -> the rows; of preferences ", chosen" and ", rejected" -> one text a row
    bad: list[tuple[int, str]]  # number and reason
    rows: int

    @property
    def said(self) -> str:
        """The first bad row and how many there are; empty if all can be used."""
        return summary(self.bad, self.rows) if self.bad else ""


def _look(row: Row, number: int) -> None:
    if shape_of(row, f"row {number}") in (Shape.PREFERENCE, Shape.IMPLICIT_PREFERENCE):
        sides(row, f"row {number}")


def _head(rows: Rows, n: int, bad: Container[int]) -> list[tuple[int, Row]]:
    """The first n rows that can be used, with their numbers."""
    numbered = enumerate(rows) if isinstance(rows, Stream) else ((i, rows[i]) for i in range(len(rows)) if i not in bad)
    return list(itertools.islice(numbered, n))


def example(rendered: Rendered, name: str, tokenizer: PreTrainedTokenizerBase, console: Console) -> Text:
    """A row as the model is shown it. What trains is in colour, or between marks where there are no colours."""
    total, cut = len(rendered.token_ids), rendered.cut_tokens
    more = f", {cut:,} more are cut" if cut else ""
    text = Text(f"\n{name}: {total:,} tokens, {rendered.trained_tokens:,} train{more}\n", style="")
    shown = rendered.mask[:SHOWN_TOKENS]
    edges = [0, *(np.flatnonzero(np.diff(shown)) + 1).tolist(), len(shown)]
    for a, b in itertools.pairwise(edges if total else ()):
        decoded = tokenizer.decode(rendered.token_ids[a:b].tolist(), clean_up_tokenization_spaces=False)
        before, after = _marks(console) if shown[a] else ("", "")
        text.append(before + visible(str(decoded), console) + after, style=_TRAINED if shown[a] else "")
    return text.append(f" … {total - SHOWN_TOKENS:,} more tokens" if total > SHOWN_TOKENS else "")


def _marks(console: Console) -> tuple[str, str]:
    if console.color_system is not None:
        return "", ""
    return ("⟦", "⟧") if console.encoding.lower().startswith("utf") else ("[[", "]]")


def visible(text: str, console: Console) -> str:
    """Untrusted text as it may go to a terminal: nothing acts on it, every character can be seen, marks stay unique."""
    out = []
    for c in text:
        hidden = unicodedata.category(c) in _HIDDEN or c in "⟦⟧"
        out.append("\\n\n" if c == "\n" else c.encode("unicode_escape").decode() if hidden else c)
    return "".join(out).encode(console.encoding, "backslashreplace").decode(console.encoding)


def lengths(measured: Measured) -> Table:
    """Tokens a row: all before any cut, those before the first that trains, those that train."""
    first = next(iter(measured.texts.values()))
    prompts = [int(r.mask.argmax()) if r.trained_tokens else len(r.token_ids) for r in first]
    table = Table(title=f"tokens a row, n = {len(first):,}", title_justify="left")
    for header in ("", "min", "median", "p95", "max"):
        table.add_column(header, justify="right" if header else "left")
    lines = [("prompt", prompts)]
    lines += [(name.removeprefix(", ") or "trained", [r.trained_tokens for r in some]) for name, some in measured.texts.items()]
    lines += [(f"whole row{name}", [len(r.token_ids) + r.cut_tokens for r in some]) for name, some in measured.texts.items()]
    for what, values in lines:
        table.add_row(what, *(f"{v:,.0f}" for v in np.percentile(values, [0, 50, 95, 100])))
    return table


def shares(measured: Measured, context: int) -> str:
    """Which rows lose what."""
    if len(measured.texts) > 1:
        pairs = list(zip(*measured.texts.values(), strict=True))
        lost = sum(any(r.cut_tokens or not r.trained_tokens for r in pair) for pair in pairs) / len(pairs)
        return f"answers longer than {context:,} tokens: {lost:.1%} of rows, left out of training"
    (rendered,) = measured.texts.values()
    n, cut = len(rendered), [r.cut_tokens for r in rendered if r.cut_tokens]
    idle = sum(not r.trained_tokens for r in rendered)
    return (f"truncated at {context:,} tokens: {len(cut) / n:.1%} of rows, {sum(cut):,} tokens lost\n"
            f"without any trained token: {idle / n:.1%} of rows, left out of training")


def show_unusable(console: Console, measured: Measured) -> None:
    """Print number and reason of the first rows that cannot be used, where there are several."""
    for _, reason in measured.bad[:SHOWN_BAD] if len(measured.bad) > 1 else ():
        console.print(visible(f"cannot be used: {reason}", console), markup=False, highlight=False, soft_wrap=True)
