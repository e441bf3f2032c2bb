"""The judge engine with the real Stockfish, on moves and on whole games; skipped where there is none.

Run: .venv/bin/python -m pytest tests/judges/test_uci_engine.py   (about 5 s on two cores; apt install stockfish)
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from typing import Any

import chess
import numpy as np
import pytest

from outdo.errors import UserError
from outdo.judges.engine import Engine
from outdo.tasks.chess_endgame import ChessEndgame
from outdo.types import Finish, Trajectory

there = pytest.mark.skipif(shutil.which("stockfish", path=f"{os.environ['PATH']}:/usr/games") is None, reason="no stockfish here")
HANGING = "rnb1kbnr/pppp1ppp/8/4p1q1/4P3/3P4/PPP2PPP/RNBQKBNR w KQkq - 1 3"  # Bxg5 takes a queen


@pytest.fixture
def engine() -> Iterator[Engine]:
    judge = Engine(Engine.Config(nodes=2000, processes=2))
    yield judge
    judge.close()


def said(text: str, **columns: Any) -> Trajectory:
    ids = np.arange(5)
    info = {"prompt": "Q", "completion": text, **columns}
    return Trajectory("p", 0, ids, ids >= 2, np.zeros(5, np.float32), 0, Finish.STOP, info)


@there
def test_moves_in_text(engine: Engine) -> None:
    best, same, bad, illegal, nothing, lost = engine.score([said(text, fen=HANGING) for text in (
        "I take the queen: Bxg5.", "c1g5", "A quiet move, h2h3", "Bxg6", "", "first Nf3, no: Bxg5")])
    assert best.value == same.value == lost.value and best.value is not None and best.value > 0.99
    assert bad.value is not None and bad.value < 0.7
    assert (illegal.value, nothing.value, nothing.answered) == (0.0, 0.0, False)
    (unread,) = engine.score([said("e4", fen="no board")])
    assert unread.value is None and "no position" in unread.reason


@there
def test_best_counts_the_first_choice_alone() -> None:
    judge = Engine(Engine.Config(nodes=2000, measure="best"))
    assert [s.value for s in judge.score([said(m, fen=HANGING) for m in ("Bxg5", "h3")])] == [1.0, 0.0]


@there
def test_the_verdict_does_not_depend_on_what_was_asked_before() -> None:
    fens = [HANGING, chess.STARTING_FEN, "8/8/8/4k3/8/8/4P3/4K3 w - - 0 1"]
    asked = [said("e4" if i != 0 else "Bxg5", fen=f) for i, f in enumerate(fens)]
    values = []
    for order in (asked, asked[::-1]):
        judge = Engine(Engine.Config(nodes=500, processes=1))
        values.append({t.info["fen"]: s.value for t, s in zip(order, judge.score(order), strict=True)})
    assert values[0] == values[1]


@there
@pytest.mark.parametrize("material", ["KRK", "KPK"])
def test_games_of_the_endgame(engine: Engine, material: Any) -> None:
    task = ChessEndgame(ChessEndgame.Config(material=material, max_moves=20))
    prompts, seeds = task.prompts("heldout", 6, 0), np.arange(6)
    means = {}
    for player in ("perfect", "random"):
        games = task.play(player, prompts, seeds)
        for game in games:  # python-chess accepts every move, promotions among them
            board = chess.Board(game.info["fen"])
            for move in game.info["uci"]:
                board.push_uci(move)
            assert (game.info["result"] == "mate") == board.is_checkmate()
        scores = engine.score(games)
        assert all(s.value is not None and 0.0 <= s.value <= 1.0 for s in scores)
        means[player] = np.mean([s.value for s in scores])  # type: ignore[arg-type]
    assert means["perfect"] > 0.97 > means["random"]


@there
def test_an_engine_that_dies_is_started_again(engine: Engine) -> None:
    first = engine.score([said("Bxg5", fen=HANGING)])
    for _ in range(2):
        process = engine._free.get()
        if process is not None:
            os.kill(process.transport.get_pid(), signal.SIGKILL)  # type: ignore[attr-defined]
        engine._free.put(process)
    engine._known.clear()
    assert engine.score([said("Bxg5", fen=HANGING)]) == first


def test_a_missing_engine_and_an_engine_that_is_none(tmp_path: Any) -> None:
    with pytest.raises(UserError, match="apt install stockfish"):
        Engine(Engine.Config(path="no_such_engine")).score([])
    broken = tmp_path / "engine.sh"
    broken.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    broken.chmod(0o755)
    (score,) = Engine(Engine.Config(path=str(broken), processes=1)).score([said("Bxg5", fen=HANGING)])
    assert score.value is None and "no verdict" in score.reason


@there
def test_an_unknown_option_is_one_line() -> None:
    with pytest.raises(UserError, match="has no option 'Skil'"):
        Engine(Engine.Config(options={"Skil": 3}, processes=1)).score([said("Bxg5", fen=HANGING)])
