"""The command line as people use it: help, plans, runs, measurements, a game; in pipes and in terminals.

    pytest tests/test_cli.py
"""

from __future__ import annotations

import io
import json
import re
import resource
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pexpect
import pytest
import torch
from processes import ENVIRONMENT, TINY, files_below, forked, lines, outdo, reference
from rich.console import Console

import outdo as package
from outdo import recipe
from outdo.cli import board as play
from outdo.models import hf
from outdo.models.decoder import Decoder, DecoderConfig
from outdo.runs.check import check_recipe
from outdo.runs.plan import Plan, StagePlan
from outdo.runs.reopen import open_checkpoint
from outdo.runs.resolve import resolve
from outdo.system import machine, progress
from outdo.system.progress import duration
from outdo.tasks.chess import vocabulary

# --- help ------------------------------------------------------------------------------------------------------------


def test_help_is_quick_and_imports_nothing_heavy(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-X", "importtime", "-m", "outdo", "--help"]
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "outdo.cli.main" in imported
    assert not imported & {"torch", "numpy", "transformers", "pydantic"}


@pytest.mark.parametrize(("command", "example"), [
    ([], "outdo run chess_endgame --dry-run"),
    (["run"], "outdo run --resume runs/try"),
    (["eval"], "outdo eval runs/chess_endgame-1:rl --decode greedy"),
    (["report"], "outdo report runs/chess_endgame-1"),
    (["play"], "outdo play runs/chess_endgame-1:rl --seed 7"),
    (["inspect"], "outdo inspect chats.jsonl --model smollm2"),
])  # fmt: skip
def test_every_help_has_an_example(command: list[str], example: str, tmp_path: Path) -> None:
    done = forked(*command, "--help", cwd=tmp_path)
    assert done.code == 0
    assert example in done.out


def test_version(tmp_path: Path) -> None:
    assert forked("--version", cwd=tmp_path).out == f"outdo {package.__version__}\n"


# --- plans -----------------------------------------------------------------------------------------------------------


def test_dry_run_says_everything_and_creates_nothing(tmp_path: Path) -> None:
    done = forked("run", TINY, "--dry-run", "--set", "stage.sft.episodes=5", "--seed", 7, cwd=tmp_path)
    assert done.code == 0, done.err
    assert files_below(tmp_path) == []
    resolved, _, plan = done.out.partition("\ntiny  ")
    expected = check_recipe(resolve(recipe.load(TINY, {"stage.sft.episodes": 5, "seed": 7}))).recipe
    assert (expected.judge.name, expected.gold.name) == ("outcome", "outcome"), "the task's"
    assert recipe.parse(tomllib.loads(resolved)) == recipe.parse(tomllib.loads(expected.to_toml()))
    assert re.search(r"sft  24 steps, about \d\.?\d*e\+0[78] FLOPs, about 0 s \+ evaluations", plan)
    assert "5 episodes of 'teacher' per step" in plan
    assert re.search(r"rl  1e\+08 FLOPs \(about \d+ steps\), about 0 s", plan)
    assert "4 prompts x 4 samples = 16 episodes per step" in plan
    assert "16 heldout prompts, sampled and greedy" in plan
    assert "times are estimates" in plan
    assert all(f"{share:.0%}" in plan for share in (machine.UPDATE_UTILISATION, machine.DECODE_UTILISATION))


def test_the_plan_predicts_the_bill() -> None:
    """FLOPs of a stage that is given in steps, from reference episodes alone, against what was booked in the end."""
    said = forked("run", TINY, "--dry-run", cwd=reference()).out
    planned = float(re.search(r"sft  24 steps, about (\S+) FLOPs", said)[1])  # type: ignore[index]
    booked = lines(reference() / "stages" / "sft" / "metrics.jsonl")[-1]["flops"]
    assert planned == pytest.approx(booked, rel=0.15)


def test_dry_run_of_a_resumed_run_plans_the_rest(tmp_path: Path) -> None:
    before = files_below(reference())
    done = forked("run", "--resume", reference(), "--dry-run", cwd=tmp_path)
    assert done.code == 0 and "sft  done" in done.out and "to do: 0 FLOPs" in done.out
    assert files_below(reference()) == before


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59, "59 s"), (61, "1 min 01 s"), (7501, "2 h 05 min")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# --- progress --------------------------------------------------------------------------------------------------------


def stage(name: str, seconds: float, done: bool = False) -> StagePlan:
    return StagePlan(name, None, "5 steps", 5, 1e9, seconds, 0.0, 0.0, "", done)


PLAN = Plan("r", (stage("a", 30.0), stage("b", 10.0)), 1000, 1e9, "fp32", 1, 1, "")


def test_time_left_scales_the_plan_by_what_happened() -> None:
    pace = progress.Pace(PLAN)
    assert pace.left_s(0.0) is None
    pace.update("a", 0.0, 100.0)
    assert pace.left_s(101.0) is None, "nothing done, nothing known"
    pace.update("a", 0.5, 130.0)
    assert pace.overall == pytest.approx(0.375)
    # Twice as slow as planned (30 s for 15 planned ones): 30 s more for a, 20 s for b.
    assert pace.left_s(130.0) == pytest.approx(50.0)
    pace.update("a", 1.0, 160.0)
    pace.update("b", 0.0, 160.0)
    assert pace.left_s(160.0) == pytest.approx(20.0)
    pace.update("b", 0.5, 164.0)
    assert pace.left_s(164.0) == pytest.approx(4.0), "by then b has a pace of its own"


def test_time_left_of_a_resumed_run_counts_only_its_own_work() -> None:
    pace = progress.Pace(replace(PLAN, stages=(stage("a", 30.0, done=True), stage("b", 10.0))))
    assert pace.overall == pytest.approx(0.75)
    pace.update("b", 0.6, 50.0)  # where the checkpoint was
    pace.update("b", 0.8, 60.0)
    assert pace.left_s(60.0) == pytest.approx(10.0)


def test_pipes_get_few_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with progress.display(Console(force_terminal=False), PLAN) as show:
        for i in range(1000):
            now = i * 0.12  # two minutes in all
            show("a", i / 1000, "greedy 50.0% vs perfect" if i == 500 else "")
    out = capsys.readouterr().out.splitlines()
    assert sum(line.endswith("greedy 50.0% vs perfect") for line in out) == 1
    assert len(out) == 4 + 1, "one line per 30 s, and the evaluation"
    assert out[-1].endswith("s left")


@pytest.mark.slow
def test_a_run_in_a_pipe(tmp_path: Path) -> None:
    done = forked("run", TINY, "--set", "name='piped'", cwd=tmp_path)
    assert done.code == 0 and done.err == ""
    folder = Path("runs/piped-1")
    assert f"run folder: {folder}" in done.out
    assert "\x1b" not in done.out
    last = json.loads((tmp_path / folder / "summary.json").read_text(encoding="utf-8"))["players"]
    for player in last:
        assert f"{player['value']:.1%} ({100 * player['ci95'][0]:.1f} to {100 * player['ci95'][1]:.1f})" in done.out
    assert f"report: {folder / 'report.html'}" in done.out
    assert re.search(r"updates: [\d,]+ GFLOP/s a core, \d+% of the matrix-product peak measured at the start", done.out)
    assert (tmp_path / folder / "report.html").stat().st_size > 1000
    less = ["--set", "stage.sft.steps=1", "--set", "stage.rl.flops=1"]
    assert forked("run", TINY, "--set", "name='piped'", *less, cwd=tmp_path).code == 0
    assert (tmp_path / "runs" / "piped-2" / "summary.json").exists(), "the next free number"


@pytest.mark.slow
def test_a_run_in_a_terminal_with_ctrl_c(tmp_path: Path) -> None:
    argv = ["-m", "outdo", "run", str(TINY), "--set", "stage.sft.steps=100000", "--out", "run"]
    child = pexpect.spawn(sys.executable, argv, cwd=str(tmp_path), env={**ENVIRONMENT, "TERM": "xterm"},
                          dimensions=(40, 120), encoding="utf-8", timeout=60)  # fmt: skip
    child.expect("whole run")
    child.expect(r"(sampled|greedy) \d+\.\d% vs perfect")
    child.expect(r"\d+ (s|min|h)[^\n]* left")
    child.sendintr()
    child.expect("finishing and saving this step")
    child.expect("outdo: interrupted; resume with: outdo run --resume run")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 130
    assert list((tmp_path / "run" / "stages" / "sft" / "checkpoints").iterdir())


@pytest.mark.slow
def test_a_report_that_fails_does_not_fail_the_run(tmp_path: Path) -> None:
    """Its folder is where the report should go: nothing can be written there."""
    run = tmp_path / "run"
    argv = ["run", TINY, "--set", "stage.sft.steps=1", "--set", "stage.rl.flops=1", "--out", run]
    assert forked(*argv[:-1], tmp_path / "other", cwd=tmp_path, kill=(".summary.json.tmp", 1)).code == -9
    (tmp_path / "other" / "report.html").mkdir()
    done = forked("run", "--resume", tmp_path / "other", cwd=tmp_path)
    assert done.code == 0
    assert re.match(r"outdo: warning: no report \(.*\); the run is complete, try: outdo report ", done.err)
    assert (tmp_path / "other" / "summary.json").exists()


def test_reports_are_built_anew(tmp_path: Path) -> None:
    run = tmp_path / "run"
    subprocess.run(["cp", "-r", reference(), run], check=True)
    (run / "report.html").unlink()
    done = forked("report", run, cwd=tmp_path)
    assert done.code == 0 and f"report: {run / 'report.html'}" in done.out
    assert (run / "report.html").stat().st_size > 1000


# --- eval ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def schooled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose model plays a legal move now and then: numbers that differ from prompt to prompt."""
    run = tmp_path_factory.mktemp("schooled") / "run"
    change = {"model.width": 32, "stage.sft.steps": 200, "stage.sft.episodes": 16, "stage.sft.train_on": "'everything'",
              "stage.sft.optimizer.lr": 0.01, "stage.rl.flops": 1, "evaluation.prompts": 64}  # fmt: skip
    overrides = [x for k, v in change.items() for x in ("--set", f"{k}={v}")]
    done = forked("run", TINY, "--out", run, *overrides, cwd=run.parent)
    assert done.code == 0, done.err
    return run


@pytest.mark.slow
def test_eval_gives_the_numbers_of_the_run(schooled: Path, tmp_path: Path) -> None:
    """Same prompts, same dice: what a finished stage wrote down can be measured again to the last digit."""
    for name in ("sft", "rl"):
        done = forked("eval", f"{schooled}:{name}", "--json", "out.json", cwd=tmp_path)
        assert done.code == 0, done.err
        measured = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
        written = [e for e in lines(schooled / "stages" / name / "evaluations.jsonl") if e["last"]]
        assert len(measured) == len(written) == 8  # four opponents, sampled and greedy
        for m, w in zip(measured, written, strict=True):
            assert {k: m[k] for k in ("decode", "opponent", "value", "ci95", "n", "items")} == {
                k: w[k] for k in ("decode", "opponent", "value", "ci95", "n", "items")}  # fmt: skip
            assert m["extra"] == {k: v for k, v in w["extra"].items() if k != "reward"}
        assert len({m["extra"]["moves"] for m in measured}) > 2, "numbers that are all the same prove nothing"


@pytest.mark.slow
def test_eval_by_other_prompts_dice_and_opponents(schooled: Path, tmp_path: Path) -> None:
    records = {}
    for seed in (0, 1):
        argv = ["eval", schooled, "--opponent", "random", "--prompts", 80, "--decode", "sampled", "--seed", seed]
        assert forked(*argv, "--json", "out.json", cwd=tmp_path).code == 0
        (records[seed],) = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert [r["n"] for r in records.values()] == [80, 80]
    assert records[0]["opponent"] == "random"
    assert records[0]["checkpoint"].startswith(str(schooled / "stages" / "rl")), "the last finished stage"
    assert records[0]["extra"]["illegal"] != records[1]["extra"]["illegal"]
    intermediate = schooled / "stages" / "sft" / "checkpoints" / "200"
    done = forked("eval", intermediate, "--opponent", "random", "--decode", "greedy", cwd=tmp_path)
    assert done.code == 0 and str(intermediate) in done.out, "a folder inside a run knows its task"


# --- play ------------------------------------------------------------------------------------------------------------

SCRIPT = {"g8": "Qa7", "h8": "Qh7", "f8": "Qh7"}  # square of the black king -> White's move
START = "6k1/8/6K1/8/8/8/8/Q7 w - - 0 1"


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Follows SCRIPT: a layer that adds nothing, embeddings of the words that matter, a head that knows.

    The move by the black king's place, which ends each observation.
    """
    words = vocabulary.words()
    c = DecoderConfig(vocabulary.SIZE, 16, 16, 1, 2, 2, 32, tie_word_embeddings=False)
    model = Decoder(c)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_() if p.dim() > 1 else p.fill_(1.0)
        for i, (king, move) in enumerate(SCRIPT.items()):
            model.model.embed_tokens.weight[words.index("k" + king), i] = 1.0
            model.lm_head.weight[words.index(move), i] = 10.0
    folder = tmp_path_factory.mktemp("scripted") / "checkpoint"
    hf.save(model, vocabulary.build_tokenizer(), folder)
    return folder


@pytest.mark.slow
def test_a_game_in_a_terminal(scripted: Path, tmp_path: Path) -> None:
    argv = ["-m", "outdo", "play", str(scripted), "--recipe", str(TINY), "--fen", START]
    child = pexpect.spawn(sys.executable, argv, cwd=str(tmp_path), env={**ENVIRONMENT, "TERM": "xterm"},
                          dimensions=(40, 120), encoding="utf-8", timeout=60)  # fmt: skip
    child.expect("White plays .*Qa7")
    child.expect("♕")
    child.expect("your move> ")
    child.sendline("Kg7")  # into check
    child.expect("'Kg7' is not a legal move here")
    child.expect("your move> ")
    child.sendline("?")
    child.expect("legal: Kh8, Kf8")
    child.expect("your move> ")
    child.sendline("g8h8")
    child.expect("White plays .*Qh7#")
    child.expect(r"White won.* in 2 moves \(checkmate\)")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    assert list(tmp_path.iterdir()) == []


def answers(*said: str) -> Callable[[str], str]:
    left = iter(said)

    def ask(question: str) -> str:
        assert question == "your move> "
        try:
            return next(left)
        except StopIteration:
            raise EOFError from None

    return ask


@pytest.mark.parametrize(("said", "result", "line"), [
    (("Kh8",), "1-0", "White won in 2 moves (checkmate)."),
    (("f8", "Kf8", "Ke8"), "0-1", "which is no legal move: you win."),  # the script knows nothing about e8
    (("Kf8", "quit"), None, "Game left."),
    ((), None, "Game left."),  # end of input
])  # fmt: skip
def test_games(said: tuple[str, ...], result: str | None, line: str, scripted: Path,
               capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    opened = open_checkpoint(str(scripted), TINY)
    assert play.game(opened, START, 0.0, 0, Console(width=200), answers(*said)) == result
    assert line in capsys.readouterr().out


def test_draws_by_capture_and_by_the_move_limit(scripted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    opened = open_checkpoint(str(scripted), TINY, None, {"task.max_moves": 1, "task.min_plies": 1})
    assert play.game(opened, START, 0.0, 0, Console(width=200), answers()) == "1/2-1/2"
    assert "draw (White has had its 1 moves)" in capsys.readouterr().out
    opened = open_checkpoint(str(scripted), TINY)
    away = "5k2/8/8/8/8/8/Q7/7K w - - 0 1"  # 1. Qa7-h7 is not on; the script says a7 for a king on f8
    assert play.game(opened, away.replace("Q7/7K", "8/7K").replace("5k2/8", "5k2/Q7"), 0.0, 0, Console(width=200),
                     answers("Ke8")) == "0-1"  # fmt: skip


def test_the_model_sees_the_game_as_in_training(scripted: Path) -> None:
    """The tokens of a played game are those of the task's own episodes."""
    opened = open_checkpoint(str(scripted), TINY)
    seen: list[np.ndarray] = []
    generate = opened.engine.generate

    def spy(prompts, *rest):  # type: ignore[no-untyped-def]
        seen.append(prompts[0].token_ids)
        return generate(prompts, *rest)

    opened.engine.generate = spy  # type: ignore[method-assign]
    play.game(opened, START, 0.0, 0, Console(file=io.StringIO(), width=200), answers("Kh8"))
    assert vocabulary.text(seen[-1]) == "<s> Kg6 Qa1 kg8 Qa7 Kg6 Qa7 kh8"


@pytest.mark.slow
def test_a_trained_model_can_be_played(schooled: Path, tmp_path: Path) -> None:
    """Games from several held-out starts: some first moves are legal, some are not, and both are said."""
    first = [forked("play", f"{schooled}:sft", "--seed", seed, cwd=tmp_path) for seed in range(12)]
    assert {f.code for f in first} == {0} and {f.err for f in first} == {""}
    assert len({f.out.partition("    a  b")[0] for f in first}) > 1, "other seeds, other starts"
    ends = ["which is no legal move: you win." in f.out for f in first]
    moved = ["White plays " in f.out and "Game left." in f.out for f in first]  # the input has ended by then
    assert any(ends) and any(moved) and all(e or m for e, m in zip(ends, moved, strict=True))


def test_the_script_of_the_package_is_this_command_line(tmp_path: Path) -> None:
    assert outdo("--version", cwd=tmp_path).out == f"outdo {package.__version__}\n"
    script = Path(sys.executable).with_name("outdo")
    done = subprocess.run([script, "--version"], capture_output=True, text=True)
    assert done.stdout == f"outdo {package.__version__}\n"
