"""`outdo inspect`: what a model would be shown of a data set, and which of it would train, before anything trains."""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from outdo.models import fetch, hf
from outdo.system.progress import say
from outdo.text.chat import NEVER_ENDS, known_ends, never_ends
from outdo.text.columns import Adapted, detected
from outdo.text.render import Rendered, Renderer
from outdo.text.rows import Feed, Row, Rows, Stream
from outdo.text.shapes import Shape, shape_of

MEASURED_ROWS = 10_000  # at most so many go into the table
SHOWN_TOKENS = 1_000  # of an example
_TRAINED = "bold green"
_HIDDEN = {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"}  # Unicode categories that move the cursor, reorder or hide text


def open_tokenizer(model: str) -> tuple[PreTrainedTokenizerBase, int]:
    """Tokenizer and context of a checkpoint, named as in a recipe's `from`; no weights are read. Raises UserError."""
    folder = fetch.resolve(model, say, weights=False)
    tokenizer = hf.load_tokenizer(folder)
    context: int | None = getattr(hf.load_config(folder), "max_position_embeddings", None)
    return tokenizer, context or tokenizer.model_max_length


def show_examples(console: Console, name: str, rows: Rows, render: Renderer, n: int) -> None:
    """Print what the data is, and the first n rows. Raises UserError."""
    (_, first), *_ = _head(rows, 1)
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
    for number, row in _head(rows, n):
        for text in render(row, f"row {number}"):
            console.print(example(text, number, render.tokenizer, console), soft_wrap=True)


def measure(rows: Rows, render: Renderer, count: Callable[[str, int, int], None]) -> list[Rendered]:
    """All rows if they are few; else the first of a stream, and of others a random choice that is always the same.

    count(what, rows done, all of them). Raises UserError.
    """
    few = isinstance(rows, Stream) or len(rows) <= MEASURED_ROWS
    some = _head(rows, MEASURED_ROWS) if few else Feed(rows, 0).take(0, MEASURED_ROWS)
    rendered = []
    for number, (place, row) in enumerate(some):
        rendered += render(row, f"row {place}")
        count("rendering rows", number + 1, len(some))
    return rendered


def _head(rows: Rows, n: int) -> list[tuple[int, Row]]:
    return list(enumerate(itertools.islice(rows, n) if isinstance(rows, Stream) else (rows[i] for i in range(min(n, len(rows))))))


def example(rendered: Rendered, number: int, tokenizer: PreTrainedTokenizerBase, console: Console) -> Text:
    """A row as the model is shown it. What trains is in colour, or between marks where there are no colours."""
    total, cut = len(rendered.token_ids), rendered.cut_tokens
    more = f", {cut:,} more are cut" if cut else ""
    text = Text(f"\nrow {number}: {total:,} tokens, {rendered.trained_tokens:,} train{more}\n", style="")
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


def lengths(rendered: Sequence[Rendered]) -> Table:
    """Tokens a row: all before any cut, those before the first that trains, those that train."""
    whole = [len(r.token_ids) + r.cut_tokens for r in rendered]
    prompts = [int(r.mask.argmax()) if r.trained_tokens else len(r.token_ids) for r in rendered]
    table = Table(title=f"tokens a row, n = {len(rendered):,}", title_justify="left")
    for header in ("", "min", "median", "p95", "max"):
        table.add_column(header, justify="right" if header else "left")
    for what, values in (("prompt", prompts), ("trained", [r.trained_tokens for r in rendered]), ("whole row", whole)):
        table.add_row(what, *(f"{v:,.0f}" for v in np.percentile(values, [0, 50, 95, 100])))
    return table


def shares(rendered: Sequence[Rendered], context: int) -> str:
    """Which rows lose what."""
    n, cut = len(rendered), [r.cut_tokens for r in rendered if r.cut_tokens]
    idle = sum(not r.trained_tokens for r in rendered)
    return (f"truncated at {context:,} tokens: {len(cut) / n:.1%} of rows, {sum(cut):,} tokens lost\n"
            f"without any trained token: {idle / n:.1%} of rows, left out of training")
