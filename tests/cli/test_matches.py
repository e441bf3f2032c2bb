"""Matches that are played: reference players and checkpoints of a chess endgame, a model of text, the command.

Run: .venv/bin/python -m pytest tests/cli/test_matches.py   (about 15 s on one core)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import forked, reference
from toys import decoder, tokenizer

from outdo.errors import UserError
from outdo.evaluation.match import Sprt
from outdo.models import hf
from outdo.runs import match
from outdo.runs.match import Plan
from outdo.types import Finish, Trajectory

KQK = {"task.material": "KQK", "task.max_moves": 10, "task.min_plies": 5, "threads": 1}


def result(a: str, b: str, plan: Plan, task: str | None = "chess_endgame",
           overrides: dict[str, Any] | None = None) -> dict[str, Any]:  # fmt: skip
    config, one, other = match.sides(a, b, None, task, KQK if overrides is None else overrides)
    *_, last = match.play(config, one, other, plan, lambda what, done, of: None)
    return last


@pytest.mark.parametrize("player", ["teacher", "perfect", "random"])
def test_a_player_against_itself_scores_one_half(player: str) -> None:
    r = result(player, player, Plan(pairs=60, opponent="perfect_varied"))
    assert r["counts"] == [0, 0, 60, 0, 0] and r["score"] == 0.5 and r["elo"] == 0.0
    assert r["difference"] == 0.0 and r["verdict"] == "not distinguishable"
    a, b = r["items"]
    assert a == b and len(set(a)) == (2 if player == "teacher" else 1)


def test_a_checkpoint_against_itself_scores_one_half() -> None:
    """Sampled: both sides draw the same random numbers. With two seeds they draw different ones."""
    rl = f"{reference()}:rl"
    same = result(rl, str(reference()), Plan(pairs=40), None, {})
    assert same["counts"] == [0, 0, 40, 0, 0] and same["items"][0] == same["items"][1]
    assert same["task"] == "chess_endgame" and same["a"] == rl


def test_sampling_seeds_are_independent() -> None:
    """Against itself with another seed a random mover has other games, and no advantage."""
    runs = [result("random", "random", Plan(pairs=300, opponent="random", seeds=seeds)) for seeds in ((0, 0), (0, 1), (1, 0))]
    (a, same), (b, other), (c, back) = (np.array(r["items"]) for r in runs)
    assert (a == same).all() and (a == b).all(), "A does not depend on B's seed"
    assert (other == c).all() and (back == a).all() and (other != a).any()
    assert runs[1]["counts"] == runs[2]["counts"][::-1]
    low, high = runs[1]["score_ci95"]
    assert low < 0.5 < high and abs(np.corrcoef(b, other)[0, 1]) < 3 / np.sqrt(300)


def test_who_is_stronger() -> None:
    r = result("perfect", "random", Plan(pairs=50))
    assert r["verdict"] == "A is stronger" and r["score"] > 0.7 and r["a_mean"] == 1.0
    back = result("random", "perfect", Plan(pairs=50))
    assert back["counts"] == r["counts"][::-1] and back["difference"] == -r["difference"]


def test_every_start_once_and_the_same_for_both() -> None:
    """Few starts: the match ends with them, however many pairs are asked for."""
    tiny = {"task.material": "KPK", "task.min_plies": 27, "task.max_moves": 15, "threads": 1}
    config, a, b = match.sides("perfect", "teacher", None, "chess_endgame", tiny)
    batches = list(match._starts(a.task, b.task, "heldout", 10_000, Plan(batch=64)))
    fens = [p.row["fen"] for mine, _ in batches for p in mine]
    assert fens == [p.row["fen"] for _, theirs in batches for p in theirs]
    assert 0 < len(fens) == len(set(fens)) <= len(a.task.pool("heldout")) < 10_000  # type: ignore[attr-defined]
    seeds = [next(iter(match._starts(a.task, a.task, "heldout", 8, Plan(seed=s))))[0] for s in (0, 1)]
    assert [p.row["fen"] for p in seeds[0]] != [p.row["fen"] for p in seeds[1]]
    assert config.evaluation.split == "heldout"


def test_the_test_stops_early() -> None:
    config, a, b = match.sides("perfect", "random", None, "chess_endgame", KQK)
    seen = list(match.play(config, a, b, Plan(pairs=400, batch=20, sprt=Sprt(0, 50)), lambda *_: None))
    *before, last = [r["sprt"] for r in seen]
    assert last["decision"] == "H1" and last["llr"] >= last["bounds"][1] and not any(s["decision"] for s in before)
    assert seen[-1]["pairs"] == 20 * len(seen) < 400
    alike = result("teacher", "teacher", Plan(pairs=400, batch=50, sprt=Sprt(0, 50)))
    assert alike["sprt"]["decision"] == "H0" and alike["pairs"] < 400


def test_draws_are_halves_and_broken_games_have_no_points() -> None:
    _, a, _ = match.sides("perfect", "random", None, "chess_endgame", KQK)
    none = np.zeros(1, np.int64)

    def game(outcome: str, finish: Finish = Finish.DONE) -> Trajectory:
        return Trajectory("x", 0, none, none.astype(bool), none.astype(np.float32), -1, finish, {"result": outcome})

    points = a.task.points([game(r) for r in ("mate", "stalemate", "material", "repetition", "move_limit", "illegal")])
    assert points is not None and points.tolist() == [1, 0.5, 0.5, 0.5, 0.5, 0]
    broken = a.task.points([game("mate", Finish.ERROR), game("unfinished")])
    assert broken is not None and np.isnan(broken).all()


# --- text ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models of text, a recipe with graded answers and 24 prompts."""
    folder = tmp_path_factory.mktemp("text")
    for seed in (0, 1):
        hf.save(decoder(seed=seed), tokenizer(29), folder / f"m{seed}")
    rows = "".join(json.dumps({"prompt": f"w{3 + i} w{4 + i}"}) + "\n" for i in range(24))
    (folder / "rows.jsonl").write_text(rows, encoding="utf-8")
    grade = "def grade(completions, **kwargs):\n    return [c.count('w7') / 4 - c.count('w9') for c in completions]\n"
    (folder / "grade.py").write_text(grade, encoding="utf-8")
    (folder / "r.toml").write_text(f"""name = "graded"
threads = 1
dtype = "fp32"
task = {{ name = "dataset", data = "{folder}/rows.jsonl", heldout = 0.99, max_prompt_tokens = 8, max_new_tokens = 6 }}
gold = {{ name = "function", functions = ["{folder}/grade.py:grade"] }}
judge = {{ name = "function", functions = ["{folder}/grade.py:grade"] }}
[stage.sft]
kind = "sft"
from = "{folder}/m0"
steps = 1
""", encoding="utf-8")  # fmt: skip
    return folder


def test_text_is_compared_by_gold(text: Path) -> None:
    def played(a: str, b: str, **plan: Any) -> dict[str, Any]:
        config, one, other = match.sides(a, b, text / "r.toml", None, {})
        *_, last = match.play(config, one, other, Plan(**plan), lambda *_: None)
        return last

    m0, m1 = str(text / "m0"), str(text / "m1")
    same = played(m0, m0, seeds=(3, 3))
    assert same["counts"][2] == same["pairs"] and same["score"] == 0.5
    r = played(m0, m1, seeds=(3, 4))
    a, b = np.array(r["items"])
    assert r["metric"] == "gold" and r["pairs"] == len(a) <= 24 and r["difference"] == pytest.approx(float((a - b).mean()))
    assert r["counts"] == [int((a < b).sum()), 0, int((a == b).sum()), 0, int((a > b).sum())]
    assert len(np.unique(a)) > 2 and 0 < r["counts"][2] < len(a), "graded answers, some alike"


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command(tmp_path: Path) -> None:
    argv = ["match", f"{reference()}:rl", "teacher", "--pairs", 30, "--batch", 10, "--elo1", 500, "--json", "m.json"]
    done = forked(*argv, cwd=tmp_path)
    assert done.code == 0, done.err
    r = json.loads((tmp_path / "m.json").read_text(encoding="utf-8"))
    assert r["pairs"] <= 30 and f"n = {r['pairs']} pairs, seed 0" in done.out and "B is stronger" in done.out
    assert "batch 1: 10 pairs" in done.out and "SPRT        H0 accepted" in done.out
    assert f"A = {reference()}:rl, B = teacher" in done.out


@pytest.mark.parametrize(("argv", "said"), [
    (["teacher", "perfect"], "neither player lies in a run folder, so the task is unknown; add --task or --recipe"),
    (["teacher", "perfekt", "--task", "chess_endgame"], "'perfekt' is neither a checkpoint nor a player of task chess_endgame; "
                                                        "did you mean 'perfect'?"),
    (["teacher", "random", "--task", "chess_endgame", "--opponent", "randon"], "--opponent 'randon': task chess_endgame has no"),
    (["teacher", "random", "--elo0", "5"], "--elo0 5 alone tests nothing; add --elo1"),
    (["teacher", "random", "--elo0", "5", "--elo1", "5"], "--elo1 5.0 must lie above --elo0 5"),
    (["teacher", "random", "--alpha", "0.7"], "--alpha 0.7 is no error rate of a test"),
    (["teacher", "random", "--decode", "hot"], "--decode 'hot' is unknown; use sampled or greedy"),
])  # fmt: skip
def test_mistakes(argv: list[str], said: str, tmp_path: Path) -> None:
    done = forked("match", *argv, cwd=tmp_path)
    assert done.code == 2 and done.err.startswith(f"outdo: error: {said}") and done.err.count("\n") == 1


def test_runs_of_two_tasks(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for run, material in ((tmp_path / "a", "KQK"), (tmp_path / "b", "KRK")):
        run.mkdir()
        toml = (reference() / "recipe.toml").read_text(encoding="utf-8").replace('"KQK"', f'"{material}"')
        (run / "recipe.toml").write_text(toml, encoding="utf-8")
    with pytest.raises(UserError, match="were trained on different tasks; say which one is played"):
        match._recipe([tmp_path / "a", tmp_path / "b"], None, None, {})
