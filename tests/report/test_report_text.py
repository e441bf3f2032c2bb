"""The page of a task of text: answers and no games, the same numbers as the run folder, nothing that a string can break.

Run: .venv/bin/python -m pytest tests/report/test_report_text.py   (about 3 s on one core)
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import report_text as made
from report_html import Element, embedded, parse, structure
from test_report_page import HOSTILE

from outdo.report import build
from outdo.report import format as show


def page_of(folder: Path) -> Element:
    return parse(build(folder).read_text(encoding="utf-8"))


def blanks(text: str) -> str:
    """Narrow ones collapsed, as in `Element.text`."""
    return " ".join(text.split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.make(tmp_path_factory.mktemp("runs") / "sums-1")


@pytest.fixture(scope="module")
def page(folder: Path) -> Element:
    return page_of(folder)


def test_it_speaks_of_answers(page: Element) -> None:
    page_text = " ".join(s.text for s in page.all("section") if s.attributes["id"] != "recipe")
    for word in ("game", "move", "board", "mate", "against none", "plays", "opponent"):
        assert not re.search(rf"\b{word}s?\b", page_text, re.I), word
    assert "Share right" in page_text and not page.all("section", id="games") and not page.all("section", id="judging")
    assert embedded(page)["games"] == [] and embedded(page)["charts"]["curves"]["ylabel"] == "share right"
    assert embedded(page)["charts"]["curves"]["lines"] == [], "the right answers are no teacher"


def test_the_cards_begin_with_the_checkpoint(page: Element) -> None:
    roles = [c.one("h3").text for c in page.one("section", id="scores").all("article", class_="card")]
    assert roles == ["Before training", "Imitation (SFT)", "More imitation", "Reinforcement (RL)"]


def test_the_players_table_has_one_split_and_pass_at_k(page: Element, folder: Path) -> None:
    table = page.one("table", id="players-table")
    heads = [h.text for h in table.one("thead").all("th")]
    assert heads[:6] == ["Player", "Decoding", "Share right", "95 % interval", "pass@4", "pass@16"] and "pass@1" not in heads
    players = [p for p in json.loads((folder / "summary.json").read_text(encoding="utf-8"))["players"] if p["split"] == "heldout"]
    rows = table.one("tbody").all("tr")
    assert len(rows) == len(players) == 9
    for row, p in zip(rows, players, strict=True):
        cells = [c.text for c in row.children if isinstance(c, Element)]
        assert cells[:3] == [p["name"], p["decode"], blanks(show.percent(p["value"]))]
        solved, ci95 = p["extra"].get("pass@16"), p["extra_ci95"].get("pass@16")
        assert cells[5] == (blanks(f"{show.percent(solved)} {show.percent_range(ci95)}") if solved else show.MISSING)


def test_further_splits_stand_beside_the_evaluations_own(page: Element, folder: Path) -> None:
    table, forgetting = page.one("section", id="beyond").all("table")
    assert [h.text for h in table.one("thead").all("th")][1:] == [
        "heldout, sampled", "harder, sampled", "heldout, greedy", "harder, greedy"]  # fmt: skip
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    of = {(p["name"], p["decode"], p["split"]): p for p in summary["players"]}
    for row in table.one("tbody").all("tr"):
        name = row.one("th").text
        shown = [(c.one("b").text, c.all("span", class_="ci-text")[0].text) for c in row.all("td")]
        want = [of[name, d, s] for d in ("sampled", "greedy") for s in ("heldout", "harder")]
        assert shown == [(blanks(show.percent(p["value"])), blanks(show.percent_range(p["ci95"]))) for p in want]
    first, *stages = forgetting.one("tbody").all("tr")
    assert [c.text for c in first.all("td")] == ["3.985", "3.885\u20134.085", show.MISSING, show.MISSING]
    assert first.one("th").text == made.START
    assert [c.text for c in stages[1].all("td")] == ["4.400", "4.300\u20134.500", "+0.415", "+0.405 to +0.425"]
    assert "3.98 to 4.40 nats a token at most, after sft_more." in page.one("section", id="beyond").text
    assert "3,810 tokens in 30 passages" in page.one("section", id="beyond").text


def test_some_right_and_some_wrong_answers(page: Element) -> None:
    shown = page.one("section", id="answers").all("details")
    assert [d.one("summary").text for d in shown] == ["sft, greedy", "sft_more, greedy", "rl, greedy"]
    rows = [[c.text for c in r.all("td")] for r in shown[0].one("tbody").all("tr")]
    assert [r[0] for r in rows] == ["1", "1", "1", "0", "0", "0"]
    assert rows[0] == ["1", "What is 7 + 7? word", "14 word cut at the token limit", "14 word", "word"]
    assert rows[3] == ["0", "What is 0 + 0? word", "1 word", "0 word", "word"]


@pytest.mark.parametrize("word", HOSTILE)
def test_no_string_changes_the_page(word: str, tmp_path: Path) -> None:
    hostile, harmless = (page_of(made.make(tmp_path / name, w)) for name, w in (("a", word), ("b", "x")))
    assert structure(hostile) == structure(harmless)
    said = [c for c in hostile.one("section", id="answers").all("td", class_="said")]
    assert re.sub(r"\s+", " ", word).strip() in said[0].text


def test_scores_that_are_no_shares_are_plain_numbers(tmp_path: Path) -> None:
    page = page_of(made.make(tmp_path / "r", most=3.0))
    text = page.one("section", id="scores").text
    assert "The bar under a number runs from 0 to 3" in text and "1.80" in text and "180" not in text
    assert embedded(page)["charts"]["curves"]["y"] == "plain"
    for bar in page.all("span", class_="dot"):
        left = re.search(r"left:([-\d.]+)%", bar.attributes["style"])
        assert left and 0 <= float(left[1]) <= 100
    good = [c.text for c in page.one("section", id="answers").all("b", class_="won")]
    assert good and set(good) == {"3"}


def test_a_run_without_a_summary_shows_what_there_is(tmp_path: Path) -> None:
    page = page_of(made.make(tmp_path / "r", finished=False))
    table, forgetting = page.one("section", id="beyond").all("table")
    assert len(table.one("tbody").all("tr")) == 3
    assert [r.all("td")[0].text for r in forgetting.one("tbody").all("tr")] == ["3.985", "4.100", "4.400", "4.150"]
    assert len(page.one("table", id="players-table").one("tbody").all("tr")) == 7, "the harder questions are no players"


@pytest.mark.parametrize("broken", [None, "x", 1e999, [1], {"value": "x"}])
def test_broken_numbers_are_dashes(folder: Path, tmp_path: Path, broken: object) -> None:
    target = made.make(tmp_path / "r")
    summary = json.loads((target / "summary.json").read_text(encoding="utf-8"))
    for p in summary["players"]:
        p |= {"value": broken, "ci95": broken, "extra_ci95": broken, "split": p["split"]}
    for r in summary["forgetting"]:
        r |= {"ci95": broken, "change": broken, "tokens": broken}
    (target / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    assert "nan" not in page_of(target).one("section", id="beyond").text.lower()
