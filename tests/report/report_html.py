"""Just enough of an HTML parser to ask a page what it shows."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

VOID = {"meta", "input", "br", "link", "img", "hr", "source", "base", "embed", "area", "col", "wbr", "track"}


@dataclass
class Element:
    """A parsed element; `children` holds elements and strings in order."""

    tag: str
    attributes: dict[str, str]
    children: list[Element | str] = field(default_factory=list)

    def all(self, tag: str | None = None, **attributes: str) -> list[Element]:
        """Descendants with this tag and these attributes; `_` in a keyword stands for `-`, `class_` is one class."""
        out: list[Element] = []
        for c in self.children:
            if isinstance(c, Element):
                if (tag is None or c.tag == tag) and all(_has(c, k, v) for k, v in attributes.items()):
                    out.append(c)
                out += c.all(tag, **attributes)
        return out

    def one(self, tag: str | None = None, **attributes: str) -> Element:
        found = self.all(tag, **attributes)
        assert len(found) == 1, f"{len(found)} of <{tag} {attributes}>"
        return found[0]

    @property
    def text(self) -> str:
        """What a reader sees, blanks collapsed; scripts and styles left out."""
        parts = [c if isinstance(c, str) else "" if c.tag in ("script", "style") else c.text for c in self.children]
        return re.sub(r"\s+", " ", " ".join(parts)).strip()

    @property
    def raw(self) -> str:
        return "".join(c for c in self.children if isinstance(c, str))


def _has(e: Element, key: str, value: str) -> bool:
    if key == "class_":
        return value in e.attributes.get("class", "").split()
    return e.attributes.get(key.replace("_", "-")) == value


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.root = Element("root", {})
        self.open = [self.root]
        self.comments: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        e = Element(tag, {k: v or "" for k, v in attrs})
        self.open[-1].children.append(e)
        if tag not in VOID:
            self.open.append(e)

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)


def parse(html: str) -> Element:
    """The page as a tree. Fails where tags do not nest, or where there is a comment (ours has none)."""
    parser = _Parser()
    parser.feed(html)
    parser.close()
    assert len(parser.open) == 1, f"<{parser.open[-1].tag}> is never closed"
    assert not parser.comments
    return parser.root


def structure(page: Element) -> list[tuple[str, tuple[str, ...]]]:
    """Every element's tag and attribute names, in order: what no string from a file may change."""
    return [(e.tag, tuple(e.attributes)) for e in page.all()]


def embedded(page: Element) -> Any:
    """The page's data, read as strictly as a browser does."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(page.one("script", id="report-data").raw, parse_constant=refuse)
