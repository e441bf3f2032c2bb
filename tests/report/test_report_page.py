"""The page against its run folder: the same numbers, nothing from outside, nothing that a string can break.

Run: .venv/bin/python -m pytest tests/report   (about 5 s on one core)
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import report_folder as made
from report_html import Element, embedded, parse, structure

import outdo.report
from outdo.errors import UserError
from outdo.report import build
from outdo.report import format as show

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<!--<script ",
    "--><img src=x onerror=alert(1)>",
    "\"><svg onload=alert(1)>",
    "' onmouseover='alert(1)",
    "</textarea></title></style><b>",
    "{{ 7 * 7 }}{% raw %}",
    "&lt;b&gt; &amp; \u2028\u2029 \\u003c",
    "javascript:alert(1)",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.make(tmp_path_factory.mktemp("runs") / "small-1")


@pytest.fixture(scope="module")
def page(folder: Path) -> Element:
    return parse(build(folder).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def shape(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, tuple[str, ...]]]:
    """Elements of a page whose every string is harmless."""
    return structure(page_of(made.make(tmp_path_factory.mktemp("runs") / "x", "x", opponent="x")))


def page_of(folder: Path) -> Element:
    return parse(build(folder).read_text(encoding="utf-8"))


# --- self-contained -------------------------------------------------------------------------------------------------


def test_nothing_is_asked_of_the_network(page: Element) -> None:
    for e in page.all():
        assert not {"src", "srcset", "action", "data", "poster", "background"} & set(e.attributes), e
        href = e.attributes.get("href", "#")
        assert href.startswith("#"), href
        assert e.tag not in ("link", "iframe", "object", "embed", "base", "img")
    for style in page.all("style"):
        assert not re.search(r"url\(|@import", style.raw)
    reaching_out = r"fetch\(|XMLHttpRequest|import\(|WebSocket|sendBeacon|innerHTML|document\.write|eval\("
    for script in page.all("script"):
        assert not re.search(reaching_out, script.raw)
    policy = [e.attributes["content"] for e in page.all("meta") if "http-equiv" in e.attributes]
    assert len(policy) == 1 and policy[0].startswith("default-src 'none';") and "http" not in policy[0]


def test_building_changes_nothing_but_the_page(tmp_path: Path) -> None:
    folder = made.make(tmp_path / "r")
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    target = build(folder)
    after = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert target == folder / "report.html" and after.pop(target)
    assert after == before


def test_building_twice_gives_the_same_page(folder: Path) -> None:
    assert build(folder).read_text(encoding="utf-8") == build(folder).read_text(encoding="utf-8")


def test_training_is_never_imported() -> None:
    loaded = "import sys, outdo.report; print([m for m in sys.modules if m.split('.')[0] in ('torch', 'transformers')])"
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.skipif(shutil.which("node") is None, reason="node checks the syntax of the scripts")
@pytest.mark.parametrize("name", ["page.js", "charts.js", "board.js"])
def test_scripts_are_valid(name: str) -> None:
    subprocess.run(["node", "--check", str(Path(outdo.report.__file__).parent / name)], check=True, capture_output=True)


# --- the numbers ----------------------------------------------------------------------------------------------------


def test_players_table_holds_summary_json(folder: Path, page: Element) -> None:
    players = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["players"]
    table = page.one("table", id="players-table")
    titles = [th.text for th in table.all("thead")[0].all("th")]
    rows = table.all("tbody")[0].all("tr")
    assert len(rows) == len(players) > 10
    for row, p in zip(rows, players, strict=True):
        cells = dict(zip(titles, [c for c in row.children if isinstance(c, Element)], strict=True))
        assert cells["Player"].text == p["name"] and cells["Decoding"].text == p["decode"]
        assert row.attributes["data-opponent"] == p["extra"]["opponent"] == cells["Opponent"].text
        won, (low, high) = cells["Games won"], p["ci95"]
        assert float(won.attributes["data-value"]) == p["value"]
        assert won.text == f"{100 * p['value']:.1f} %"
        assert cells["95 % interval"].text == f"{100 * low:.1f}\u2013{100 * high:.1f} %"
        for title in ("Illegal", "Excess moves", "Teacher agreement"):
            assert float(cells[title].attributes["data-value"]) == p["extra"][title.lower().replace(" ", "_")]
        judging = p["extra"].get("judging")
        assert cells["Recognises wins"].attributes["data-value"] == (str(judging["value"]) if judging else "")
        assert cells["n"].text == str(made.N) and cells["Seeds"].text == "3"


def test_headline_is_the_first_opponents_score(page: Element) -> None:
    shown = {(b.attributes["data-player"], b.attributes["data-decode"]): float(b.attributes["data-value"])
             for b in page.all("div", class_="big")}
    want = {("teacher", "greedy"): 0.75}
    for name in ("sft", "sft_more", "rl"):
        want |= {(name, "sampled"): made.SCORES[name][1], (name, "greedy"): made.SCORES[name][1] + 0.05}
    assert shown == want


def test_bill_holds_summary_json(folder: Path, page: Element) -> None:
    ledger = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["ledger"]
    rows = page.one("section", id="bill").one("tbody").all("tr")
    fields = ("prefill_tokens", "decode_tokens", "train_tokens", "discarded_tokens", "judge_calls")
    assert [r.one("th").text for r in rows] == list(ledger)
    for row, entry in zip(rows, ledger.values(), strict=True):
        values = [float(td.attributes["data-value"]) for td in row.all("td")]
        total = sum(entry["flops"].values())
        assert values[:6] == [*(entry[f] for f in fields), total]
        assert values[6:10] == [entry[f] for f in ("wall_s", "overhead_wall_s", "redone_wall_s", "peak_rss_bytes")]
        assert values[10] == pytest.approx(entry["flops"]["update"] / entry["update_core_s"] / 2e9), "of the peak"
    bars = page.one("section", id="bill").all("span", class_="kind-decode")
    assert [b.attributes["style"] for b in bars if b.attributes.get("title")] == ["width:20.000%"] * 2  # 8e8 of 4e9


def test_curves_run_on_where_their_source_ended(folder: Path, page: Element) -> None:
    spec = embedded(page)["charts"]["curves"]
    lines = {(s["name"], s["group"]): s for s in spec["series"]}
    assert len(lines) == 2 * len(made.STAGES)
    rl = lines["rl", "sampled"]["points"]
    assert [p["y"] for p in rl] == list(made.SCORES["rl"]) and [p["n"] for p in rl] == [made.N] * 2
    # pretrain and sft: two steps of 2e9 FLOPs and 3 s each, what was done again left out; then rl's own two steps
    assert rl[0]["x"] == {"flops": 8e9, "seconds": 12.0, "calls": 0.0}
    assert rl[1]["x"] == {"flops": 12e9, "seconds": 18.0, "calls": 16.0}
    assert (rl[1]["lo"], rl[1]["hi"]) == pytest.approx((0.835, 0.915))
    assert spec["branch_name"] == "sft" and spec["branch"] == {"flops": 8e9, "seconds": 12.0, "calls": 0.0}
    assert [n for n in made.STAGES if lines[n, "greedy"]["trunk"]] == ["pretrain", "sft"]
    assert spec["lines"] == [{"label": "the teacher", "y": 0.75, "lo": 0.71, "hi": 0.79}]
    assert {s["name"] for s in spec["series"] if s["hidden"]} == {"rl_check"}


def test_every_chart_has_its_data_and_a_caption(page: Element) -> None:
    boxes = [e for e in page.all() if "data-chart" in e.attributes]
    assert {b.attributes["data-chart"] for b in boxes} == set(embedded(page)["charts"]) and len(boxes) > 8
    for figure in page.all("figure"):
        assert len(figure.one("figcaption").text) > 10
    points = page.one("section", id="curves").one("details").one("tbody").all("tr")
    assert len(points) == sum(len(s["points"]) for s in embedded(page)["charts"]["curves"]["series"])


def test_verdicts_come_first_with_claims_before_rules_before_price(page: Element) -> None:
    sections = [s.attributes["id"] for s in page.all("section")]
    assert sections[:4] == ["verdict", "scores", "players", "curves"]
    verdict = page.one("section", id="verdict")
    text = verdict.text
    order = ["claim word", "known rule", "dense rule", "a multiple"]
    assert [text.index(x) for x in order] == sorted(text.index(x) for x in order)
    badges = [b.attributes["class"] for b in verdict.all("span", class_="badge")][-4:]
    assert sorted(badges) == sorted(["badge inconclusive", "badge not-measurable-here", "badge contradicted", "badge supported"])
    assert "0.250 [0.200, 0.300], n = 400, 1 training seed" in text


def test_provenance(page: Element) -> None:
    for section in ("scores", "players", "curves", "gaming", "training", "bill", "judging", "games"):
        text = page.one("section", id=section).one("p", class_="provenance").text
        assert "training seed 3" in text and "outdo run word" in text


# --- a gamed reward, and games --------------------------------------------------------------------------------------


def test_reward_up_gold_down(page: Element) -> None:
    section = page.one("section", id="gaming")
    assert "Reward up, gold down" in section.text and "0.250 → 0.750" in section.text
    drawn = embedded(page)["charts"]["reward-0"]["series"]
    series = {(s["name"], s["group"]): [p["y"] for p in s["points"]] for s in drawn}
    assert series["reward", "sampled"] == [0.25, 0.75] and series["gold", "sampled"] == [0.5, 0.0625]
    styles = [s.attributes["style"] for s in section.all("span", class_="end-illegal")]
    assert styles == ["width:25.000%", "width:46.875%"]  # half of what is not won


def test_games_are_one_won_and_one_lost_each(page: Element) -> None:
    data = embedded(page)["games"]
    shown = [(g["stage"], g["decode"], g["outcome"]) for g in data]
    want = [(s, d, o) for s in made.STAGES for d in ("greedy", "sampled") for o in ("won", "lost")]
    assert shown[:-1] == want and shown[-1][0] == "rl_check"  # the last one is the gamed reward's example
    assert data[0]["steps"][1]["san"] == "Ra8#" and data[1]["steps"][1]["illegal"] is True
    opening = page.one("div", id="viewer").attributes["data-viewer"]
    assert shown[int(opening)] == ("rl", "greedy", "won")
    assert "a training game" not in json.dumps(data)


# --- hostile, unfinished, incomplete --------------------------------------------------------------------------------


@pytest.mark.parametrize("word", HOSTILE)
def test_no_string_changes_the_page(tmp_path: Path, page: Element, shape: list[object], word: str) -> None:
    folder = made.make(tmp_path / "r", word, opponent=word)
    hostile = page_of(folder)
    assert structure(hostile) == shape
    assert [s.raw for s in hostile.all("script")[1:]] == [s.raw for s in page.all("script")[1:]]  # ours, to the byte
    assert [s.raw for s in hostile.all("style")] == [s.raw for s in page.all("style")]
    claim = next(h.text for h in hostile.one("section", id="verdict").all("h4"))
    assert claim == re.sub(r"\s+", " ", f"claim {word}").strip()
    games = embedded(hostile)["games"]
    assert games[0]["prompt"] == word and games[0]["text"] == f"<s> {word} pretrain"
    assert games[1]["steps"][1]["uci"] == word
    for e in hostile.all():
        classes = e.attributes.get("class", "") + e.attributes.get("style", "") + e.attributes.get("id", "")
        assert word not in classes


def test_unfinished_run(tmp_path: Path) -> None:
    folder = made.make(tmp_path / "r", finished=False)
    with (folder / "stages" / "rl" / "metrics.jsonl").open("a", encoding="utf-8") as f:
        f.write('{"step": 1, "flo')  # cut short by a crash
    page = page_of(folder)
    status = page.one("div", role="status").text
    assert "not finished" in status and "rl: 50 % of its budget spent" in status and "rl_check: not started" in status
    assert "sft_more: finished" in status and "outdo run --resume" in status
    assert "No verdicts have been computed for this run yet" in page.text
    rows = page.one("table", id="players-table").one("tbody").all("tr")
    shown = {(r.one("th").attributes["data-value"], r.attributes["data-decode"]): r for r in rows
             if r.attributes["data-opponent"] == "perfect"}
    assert len(shown) == 8  # four stages, two decodings, no reference players yet
    assert "so far" in shown["rl", "sampled"].text and "so far" not in shown["sft", "sampled"].text
    assert shown["rl", "sampled"].all("td")[2].attributes["data-value"] == "0.5"
    assert "Not measured yet" not in page.one("section", id="scores").text  # rl has its first evaluation
    assert page.one("section", id="bill").text.count("(so far)") == 1


def test_finished_run_does_not_say_otherwise(page: Element) -> None:
    assert "not finished" not in page.text and "so far" not in page.text and "5 of 5 finished" in page.text


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    folder = made.make(tmp_path / "r")
    for path in ("stages", "summary.json", "players.jsonl", "environment.json"):
        target = folder / path
        shutil.rmtree(target) if target.is_dir() else target.unlink()
    page = page_of(folder)
    assert "0 of 5 finished" in page.text and "unknown command" in page.text
    assert embedded(page)["games"] == [] and embedded(page)["charts"]["curves"]["series"] == []


def test_a_task_without_replay_shows_text(tmp_path: Path) -> None:
    folder = made.make(tmp_path / "r")
    for name in made.STAGES:
        file = folder / "stages" / name / "rollouts.jsonl"
        kept = made.read_lines(file)
        made.lines(file, [{k: v for k, v in e.items() if k != "replay"} for e in kept])
    games = embedded(page_of(folder))["games"]
    assert len(games) > 10 and all(g["steps"] == [] and g["text"].startswith("<s> word") for g in games)


def test_replay_of_another_task_becomes_text(tmp_path: Path) -> None:
    folder = made.make(tmp_path / "r")
    file = folder / "stages" / "rl" / "rollouts.jsonl"
    made.lines(file, [{**e, "replay": [{"asked": "2+2", "said": "4"}]} for e in made.read_lines(file)])
    games = [g for g in embedded(page_of(folder))["games"] if g["stage"] == "rl"]
    assert games and all(g["steps"] == [{"text": "asked: 2+2\nsaid: 4"}] for g in games)


@pytest.mark.parametrize("broken", [None, float("nan"), float("inf"), "12", [1], True, 10**400])
def test_what_is_no_number_is_a_dash(tmp_path: Path, broken: object) -> None:
    folder = made.make(tmp_path / "r")
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    for p in summary["players"]:
        p |= {"value": broken, "ci95": [broken, 1.0], "n": broken}
        p["extra"] |= {k: broken for k in p["extra"] if k != "opponent"}
    for entry in summary["ledger"].values():
        entry |= {"wall_s": broken, "judge_calls": broken, "flops": broken}
    summary["verdicts"][0]["evidence"]["difference"] |= {"value": broken, "ci95": [broken, broken], "n": broken}
    made.write(folder / "summary.json", summary)
    for name in ("metrics", "evaluations", "ledger"):
        file = folder / "stages" / "rl" / f"{name}.jsonl"
        spoilt = dict.fromkeys(("value", "flops", "reward", "update_flops", "extra"), broken)
        made.lines(file, [{**e, **spoilt} for e in made.read_lines(file)])
    page = page_of(folder)
    embedded(page)  # strict JSON
    for row in page.one("table", id="players-table").one("tbody").all("tr"):
        won = row.all("td")[2]
        assert won.text == show.MISSING and won.attributes["data-value"] == ""
    assert not re.search(r"\b(nan|NaN|None|inf|Infinity|True)\b", page.one("main").text)
    for e in page.one("main").all():
        assert not re.search(r"nan|None|inf", e.attributes.get("style", "") + e.attributes.get("data-value", ""))


def test_no_run_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no recipe\.toml"):
        build(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_damaged_summary_says_which_file(tmp_path: Path) -> None:
    folder = made.make(tmp_path / "r")
    (folder / "summary.json").write_text('{"players": [', encoding="utf-8")
    with pytest.raises(UserError, match=r"summary\.json is damaged"):
        build(folder)
