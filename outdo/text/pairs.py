"""Rows of preferences -> two renderings each: the chosen answer and the rejected one after the same prompt."""

from __future__ import annotations

import itertools
from typing import Any

from outdo.errors import check
from outdo.text.render import Rendered, Renderer
from outdo.text.rows import Row
from outdo.text.shapes import Shape, same_answers, shape_of

WANTED = "a row of preferences has chosen and rejected (and prompt, unless both begin with it)"


def sides(row: Row, place: str) -> tuple[Any, Any, Any]:
    """(prompt, chosen, rejected), each text or messages. Raises UserError, also for sides that are the same."""
    shape = shape_of(row, place)
    check(shape in (Shape.PREFERENCE, Shape.IMPLICIT_PREFERENCE), f"{place} has the columns {', '.join(map(str, row))}; {WANTED}")
    chosen, rejected = row["chosen"], row["rejected"]
    check(not same_answers(row), f"{place}: chosen and rejected are the same, so nothing is preferred; leave the row out, or set "
          "identical = 'drop' in the stage")
    if shape is Shape.PREFERENCE:
        return row["prompt"], chosen, rejected
    common = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False)))
    if isinstance(chosen, str):  # the answer begins with a word, not in the middle of one
        common = chosen.rfind(" ", 0, common + 1) if " " in chosen[: common + 1] else 0
    return chosen[:common], chosen[common:], rejected[common:]


def render_pair(renderer: Renderer, row: Row, place: str = "the row") -> tuple[Rendered, Rendered]:
    """Chosen and rejected; of a conversation of several turns the last answer trains. Raises UserError."""
    prompt, *answers = sides(row, place)
    further = {k: row[k] for k in ("tools", "chat_template_kwargs") if k in row}
    chosen, rejected = (renderer({**further, "prompt": prompt, "completion": a}, place)[-1] for a in answers)
    return chosen, rejected


def answers(renderer: Renderer, row: Row, place: str = "the row") -> list[Rendered]:
    """A row's two answers, or the one answer of a row that is labelled good or bad. Raises UserError."""
    if shape_of(row, place) is Shape.UNPAIRED_PREFERENCE:
        return renderer({**row, "label": True}, place)[-1:]
    return list(render_pair(renderer, row, place))
