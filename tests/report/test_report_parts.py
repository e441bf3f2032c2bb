"""The pieces behind the page: formats, colours, bins, verdict evidence, what counts as gamed.

Run: .venv/bin/python -m pytest tests/report   (about 5 s on one core)
"""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
import report_folder as made

import outdo.report
from outdo.recipe import parse
from outdo.report import curves, data, games, page, sections
from outdo.report import format as show

MAY_IMPORT = {"outdo.errors", "outdo.recipe", "outdo.types", "outdo.plugins", "outdo.system", "outdo.system.files",
              "outdo.system.environment",
              "outdo.system.progress"}  # fmt: skip


def test_siblings_are_never_imported() -> None:
    found = set()
    for file in Path(outdo.report.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {n.name for n in node.names}
            elif isinstance(node, ast.ImportFrom):
                found |= {node.module or ""} if node.module != "outdo" else {f"outdo.{n.name}" for n in node.names}
    ours = {m for m in found if m.split(".")[0] == "outdo" and not m.startswith("outdo.report")}
    assert ours and ours <= MAY_IMPORT


@pytest.mark.parametrize(("form", "value", "want"), [
    (show.percent, 0.8125, "81.2 %"), (show.percent, 0, "0.0 %"),
    (show.percent, None, show.MISSING), (show.percent, True, show.MISSING),
    (show.percent_range, [3.5e-18, 0.0566], "0.0..5.7 %"), (show.percent_range, [-1e-18, 1.0], "0.0..100.0 %"),
    (show.percent_range, [0.1, float("nan")], show.MISSING), (show.percent_range, [0.1], show.MISSING),
    (show.plain, 0.5576923, "0.558"), (show.plain, 1234567, "1,234,567"), (show.plain, -3.5625, "-3.56"),
    (show.plain, 1.5e13, "1.50 x 10¹³"), (show.plain, 2e-5, "2.00 x 10⁻⁵"),
    (show.plain, 1.0, "1"), (show.plain, 23.456, "23.5"),
    (show.power, 5.128e11, "5.13 x 10¹¹"), (show.power, 0.0, "0"), (show.power, 9.999e11, "1.00 x 10¹²"),
    (show.seconds, 9.11, "9.1 s"), (show.seconds, 75.3, "1 min 15 s"), (show.seconds, 7265, "2 h 01 min"),
    (show.seconds, 3599.9, "1 h 00 min"), (show.count, 140032, "140,032"), (show.size, 1383866368, "1.38 GB"),
    (show.size, 12, "12 B"), (show.size, 5e12, "5 TB"),
])  # fmt: skip
def test_formats(form: object, value: object, want: str) -> None:
    assert callable(form)
    text = form(value).replace("\u202f", " ")
    assert text == want or text.replace("\u2013", "..").replace("\u00d7", "x") == want


def test_clean_leaves_strict_json() -> None:
    dirty = {1: [float("nan"), (float("inf"), 0.123456789)], "s": "x", "b": True, "n": None}
    assert show.clean(dirty) == {"1": [None, [None, 0.123457]], "s": "x", "b": True, "n": None}


def test_embedded_json_has_nothing_that_html_reads() -> None:
    text = page.embed({"<!--<script ": ["</script x>", "&lt;", "\u2028", float("nan")]})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"<!--<script ": ["</script x>", "&lt;", "\u2028", None]}


def test_stages_have_colours_of_their_own_and_keep_them() -> None:
    rl = {"kind": "rl", "from": "sft", "steps": 1}
    stages = {"pretrain": {"kind": "pretrain", "steps": 1}, "sft": {"kind": "sft", "from": "pretrain", "steps": 1},
              "raft": {"kind": "rejection", "from": "sft", "steps": 1}, **{f"rl{i}": rl for i in range(7)}}
    colours = data.stage_colours(parse({"name": "x", "task": {"name": "t"}, "stage": stages}))
    assert (colours["pretrain"], colours["sft"], colours["rl0"], colours["raft"]) == (0, 1, 2, 3)
    assert len(set(colours.values())) == len(stages) and max(colours.values()) < data.COLOURS
    more = data.stage_colours(parse({"name": "x", "task": {"name": "t"}, "stage": {**stages, "z1": rl, "z2": rl}}))
    assert all(0 <= c < data.COLOURS for c in more.values()) and {k: more[k] for k in colours} == colours


def test_trunk_is_what_all_arms_share() -> None:
    def trunk(**sources: str | None) -> list[str]:
        stages = {n: {"kind": "rl", "steps": 1, **({"from": s} if s else {})} for n, s in sources.items()}
        return curves.trunk(parse({"name": "x", "task": {"name": "t"}, "stage": stages}))

    assert trunk(a=None, b="a", c="b", d="b") == ["a", "b"]
    assert trunk(a=None, b="a", c="b", d="a") == ["a"]
    assert trunk(a=None, b="a") == ["a"] and trunk(a=None) == [] and trunk(a=None, b=None) == []


def test_long_lines_become_means_of_neighbours(tmp_path: Path) -> None:
    run = data.read(made.make(tmp_path / "r"))
    run.stages["rl"].metrics[:] = [{"flops": float(i), "entropy": float(i % 2)} for i in range(1600)]
    spec = next(c for c in curves.training(run, ("rl",), curves.ROLLOUT_METRICS) if c["title"] == "Entropy")
    points = next(s for s in spec["series"] if s["name"] == "rl")["points"]
    assert len(points) == 80 and {p["y"] for p in points} == {0.5} and points[-1]["x"]["flops"] == 1599.0


def test_bill_of_an_unfinished_run_is_the_ledgers(tmp_path: Path) -> None:
    run = data.read(made.make(tmp_path / "r", finished=False))
    more = {"cpu_s": 5.0, "update_s": 4.0, "judge_tokens": 0.0, "judge_cost": 0.0}
    assert run.ledger["sft"] == {**made.bill(False), **more} and not run.finished
    assert run.ledger["rl"]["wall_s"] == 3.0 and run.ledger["rl"]["flops"]["decode"] == 4e8  # one step so far
    assert run.stages["rl"].spent == 0.5 and run.stages["rl_check"].spent == 0.0 and run.stages["sft"].spent == 1.0


def test_evidence_of_any_shape() -> None:
    lines = dict(sections.evidence({
        "difference": {"value": 0.25, "ci95": [0.2, 0.3], "n": 400, "seeds": [0, 1]},
        "ratio": {"flops": 2.5, "ci95": [1, 4]}, "names": ["a", 2], "none": None, "bad": float("nan"), "text": "free"}))
    assert lines == {"difference": "0.250 [0.200, 0.300], n = 400, 2 training seeds", "ratio · flops": "2.50",
                     "ratio · ci95": "[1, 4]", "names": "a, 2", "none": show.MISSING, "bad": show.MISSING,
                     "text": "free"}
    assert sections.evidence(None) == [] and sections.evidence({}) == []


@pytest.mark.parametrize(("reward", "gold", "title", "gamed"), [
    ((0.5, 0.7), (-0.8, -0.6), "Reward up, gold down", True), ((0.5, 0.7), (0.08, 0.33), "Reward up, gold up", False),
    ((-0.1, 0.2), (-0.1, 0.1), "Reward not distinguishable, gold not distinguishable", False),
    ((-0.7, -0.5), (-0.8, -0.6), "Reward down, gold down", False),
    ((6.0, 8.0), (-0.8, -0.6), "Reward up, gold down", True),  # scores of any size
    (None, (-0.8, -0.6), "Reward 0.200 → 0.700, gold down", False),
    (None, None, "Reward 0.200 → 0.700, gold 0.100 → 0.303", False),
])  # fmt: skip
def test_what_counts_as_gamed(tmp_path: Path, reward: tuple[float, float] | None, gold: tuple[float, float] | None, title: str,
                              gamed: bool) -> None:  # fmt: skip
    """The intervals of the paired differences, as the verdict on the same page has them: the two never contradict each other."""
    folder = made.make(tmp_path / "r")
    paired = {k: {"value": sum(ci) / 2, "ci95": list(ci), "n": 21} for k, ci in (("reward", reward), ("gold", gold)) if ci}
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    summary["verdicts"] = [{"id": "proxy_rl_check", "verdict": "contradicted", "evidence": paired}]
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    file = folder / "stages" / "rl_check" / "evaluations.jsonl"
    rows = made.read_lines(file)
    for e in rows:
        e["extra"] |= {"reward": (0.2, 0.7)[e["point"]], "gold": (0.1, 0.303)[e["point"]]}
    made.lines(file, rows)
    run = data.read(folder)
    found = sections.gaming(run, run.stages["rl_check"])
    assert (found["title"], found["gamed"]) == (title, gamed)
    assert not gold or found["gold"]["said"] == f"{sum(gold) / 2:+.3f} [{gold[0]:+.3f}, {gold[1]:+.3f}], n = 21, paired"


def test_headline_leaves_gamed_stages_out(tmp_path: Path) -> None:
    cards = sections.headline(data.read(made.make(tmp_path / "r")))
    assert [(c["role"], c["name"]) for c in cards] == [
        ("The teacher", "teacher"), ("Imitation (SFT)", "sft"), ("More imitation", "sft_more"),
        ("Reinforcement (RL)", "rl")]


def test_telling_game_is_the_one_the_judges_disagree_about(tmp_path: Path) -> None:
    folder = made.make(tmp_path / "r")
    file = folder / "stages" / "rl_check" / "rollouts.jsonl"
    rows = made.read_lines(file)
    for e, (score, gold) in zip(rows, [(0.9, 1.0), (0.4, 0.0), (0.9, 0.0), (None, 0.0), (1.0, 0.0)], strict=True):
        e["score"]["value"], e["gold"]["value"] = score, gold
    made.lines(file, rows)
    found = games.telling(data.read(folder).stages["rl_check"])
    assert found is not None and (found["score"], found["gold"], found["decode"]) == (0.9, 0.0, "greedy")  # not "train"


def test_games_without_a_gold_score_are_neither_won_nor_lost(tmp_path: Path) -> None:
    folder = made.make(tmp_path / "r")
    file = folder / "stages" / "rl" / "rollouts.jsonl"
    unsaid = {"value": None, "reason": "the judge could not say"}
    made.lines(file, [{**e, "gold": unsaid} for e in made.read_lines(file)])
    assert "rl" not in {g["stage"] for g in games.interesting(data.read(folder))}


def test_opening_game() -> None:
    def shown(*games_: str) -> list[dict[str, str]]:
        return [dict(zip(("stage", "outcome"), g.split(), strict=True)) for g in games_]

    assert games.opening(shown("sft won", "rl lost", "rl won", "rl won"), "rl") == 2
    assert games.opening(shown("sft won", "rl lost"), "rl") == 1
    assert games.opening(shown("pretrain lost", "sft lost", "sft won"), "rl") == 2
    assert games.opening([], "rl") == 0
