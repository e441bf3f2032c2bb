"""engine: a chess engine (UCI, such as Stockfish) says how good the policy's moves are.

Every move is compared with the engine's best one in the same position, by expected score (a win 1, a draw 0.5) from the mover's
side. A position is searched with a fixed number of nodes, one thread and an empty hash table, so that the same position always
gets the same verdict, whatever was asked before.

This is distillation of the engine rather than reward for a result: its ceiling is the engine's judgement at so many nodes.
"""

from __future__ import annotations

import os
import queue
import re
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from statistics import fmean
from typing import Literal

import chess
import chess.engine
from pydantic import Field

from outdo.errors import UserError, check, nearest
from outdo.judges.base import Judge, Options, unjudgeable
from outdo.judges.common.answers import words
from outdo.judges.common.rule import no_answer
from outdo.types import Score, Trajectory

_PLACES = ("/usr/games", "/usr/local/bin", "/opt/homebrew/bin")  # Debian's stockfish lies outside of many PATHs
_ATTEMPTS = 3
_DEAD = (chess.engine.EngineError, chess.engine.EngineTerminatedError, TimeoutError, OSError, CancelledError)
_MOVE = re.compile(r"[A-Za-z0-9+#=-]+")


class Engine(Judge):
    """Mean over the policy's own moves, in [0, 1]; an illegal move counts 0.

    Reads `info["fen"]` and `info["uci"]` (all moves of a game, the policy's first) of chess tasks. Of tasks of text it reads the
    column `fen` and the last legal move in the completion, in SAN or UCI.
    """

    name = "engine"

    class Config(Options):
        """Options of engine."""

        path: str = "stockfish"  # a UCI engine: a name on PATH, or a file
        nodes: int = Field(default=2000, ge=1)  # per position
        # "loss": 1 less the expected score that the move gives away. "best": 1 if it is the engine's first choice, else 0.
        measure: Literal["loss", "best"] = "loss"
        processes: int | None = Field(default=None, ge=1)  # None: one a core
        hash_mb: int = Field(default=16, ge=1)
        timeout_s: float = Field(default=10.0, gt=0)  # of one position; then the engine is started anew
        options: dict[str, int | str | bool] = Field(default_factory=dict)  # further UCI options, such as { "Skill Level" = 5 }

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self._path: str | None = None
        self._free: queue.SimpleQueue[chess.engine.SimpleEngine | None] = queue.SimpleQueue()
        self._size = self.config.processes or os.cpu_count() or 1
        for _ in range(self._size):
            self._free.put(None)  # started when needed
        self._known: dict[str, tuple[float, str] | None] = {}  # FEN -> expected score of the side to move, its best move

    def describe(self) -> str:
        """Which engine, and how long it thinks."""
        return (f"engine {os.path.basename(self._found())}, {self.config.nodes:,} nodes a position: moves are compared with the "
                "engine's own, which is distillation")

    def score(self, trajectories: Sequence[Trajectory]) -> list[Score]:
        """See `Judge.score`. Raises UserError if the engine is missing."""
        self._found()
        games = [unjudgeable(t, "fen") or _moves(t) for t in trajectories]
        asked = dict.fromkeys(fen for g in games if not isinstance(g, Score) for fen, move in g for fen in _asked(fen, move))
        new = [fen for fen in asked if fen not in self._known]
        if new:
            with ThreadPoolExecutor(self._size) as pool:
                self._known |= zip(new, pool.map(self._judged, new), strict=True)
        return [g if isinstance(g, Score) else self._rated(g) for g in games]

    def close(self) -> None:
        """End the engines."""
        for _ in range(self._size):
            if (engine := self._free.get()) is not None:
                engine.close()
            self._free.put(None)

    def __del__(self) -> None:
        """Processes do not outlive the judge."""
        if hasattr(self, "_size"):
            self.close()

    def _rated(self, game: list[tuple[str, chess.Move | None]]) -> Score:
        """Of the own moves of a game."""
        if not game:
            return Score(None, "no move was played")
        values: list[float] = []
        for fen, move in game:
            if move is None:
                values.append(0.0)
                continue
            before = self._known[fen]
            if before is None:
                return Score(None, f"the engine gave no verdict on {fen}")
            if self.config.measure == "best":
                values.append(float(move.uci() == before[1]))
                continue
            board = chess.Board(fen)
            board.push(move)
            after = _ended(board)
            if after is None:
                if (found := self._known[board.fen()]) is None:
                    return Score(None, f"the engine gave no verdict on {board.fen()}")
                after = 1.0 - found[0]
            values.append(1.0 - max(0.0, before[0] - after))
        worst = min(range(len(values)), key=values.__getitem__)
        said = "illegal" if game[worst][1] is None else game[worst][1]
        return Score(fmean(values), f"{len(values)} moves, the worst {said} with {values[worst]:.2f}")

    def _judged(self, fen: str) -> tuple[float, str] | None:
        """Expected score of the side to move and its best move; None if the engine died again and again."""
        for _ in range(_ATTEMPTS):
            engine = self._free.get()
            try:
                engine = engine or self._started()
                info = engine.analyse(chess.Board(fen), chess.engine.Limit(nodes=self.config.nodes), game=object(),
                                      info=chess.engine.INFO_SCORE | chess.engine.INFO_PV)
                self._free.put(engine)
                return info["score"].relative.wdl().expectation(), info["pv"][0].uci() if info.get("pv") else ""
            except _DEAD:
                if engine is not None:
                    engine.close()
                self._free.put(None)
            except BaseException:
                self._free.put(engine)
                raise
        return None

    def _started(self) -> chess.engine.SimpleEngine:
        c = self.config
        engine = chess.engine.SimpleEngine.popen_uci(self._found(), timeout=c.timeout_s)
        known, wanted = list(engine.options), {"Threads": 1, "Hash": c.hash_mb, **c.options}
        if unknown := [k for k in c.options if k not in known]:
            engine.close()
            raise UserError(f"judge engine: {c.path} has no option {unknown[0]!r}{nearest(unknown[0], known)}")
        engine.configure({k: v for k, v in wanted.items() if k in known})
        return engine

    def _found(self) -> str:
        """The engine's file. Raises UserError."""
        if self._path is None:
            self._path = shutil.which(self.config.path) or shutil.which(self.config.path, path=os.pathsep.join(_PLACES))
            check(self._path is not None, f"judge engine: there is no {self.config.path!r} on PATH; install one, for example "
                  "`apt install stockfish` or `brew install stockfish`, or set path to its file")
        assert self._path is not None
        return self._path


def _asked(fen: str, move: chess.Move | None) -> list[str]:
    """The positions that a move is judged by: the one before it and the one after it."""
    if move is None:
        return []
    board = chess.Board(fen)
    board.push(move)
    return [fen] if _ended(board) is not None else [fen, board.fen()]


def _ended(board: chess.Board) -> float | None:
    """Score of the side that just moved, if the game is over by the rules; else None."""
    outcome = board.outcome()
    if outcome is None:
        return None
    return 0.5 if outcome.winner is None else float(outcome.winner != board.turn)


def _moves(t: Trajectory) -> list[tuple[str, chess.Move | None]] | Score:
    """The policy's own moves, each with the position before it; None for an illegal one."""
    try:
        board = chess.Board(str(t.info["fen"]))
    except ValueError as e:
        return Score(None, f"the column fen holds no position: {e}")
    if (played := t.info.get("uci")) is None:
        if t.info.get("completion") is None:
            return Score(None, "the task reports neither moves (uci) nor a completion")
        move = _last_move(board, words(t))
        return no_answer("no legal move") if move is None else [(board.fen(), move)]
    out: list[tuple[str, chess.Move | None]] = []
    for ply, text in enumerate(played):
        move = _parsed(board.parse_uci, text)
        if ply % 2 == 0:
            out.append((board.fen(), move))
        if move is None:
            return out
        board.push(move)
    if "result" not in t.info or t.info["result"] is None:
        return Score(None, "the task reports no result")
    if t.info["result"] == "illegal":
        out.append((board.fen(), None))
    return out


def _last_move(board: chess.Board, text: str) -> chess.Move | None:
    """The last legal move that a text names."""
    for word in reversed(_MOVE.findall(text)):
        for read in (board.parse_san, board.parse_uci):
            if (move := _parsed(read, word)) is not None:
                return move
    return None


def _parsed(read: Callable[[str], chess.Move], text: str) -> chess.Move | None:
    try:
        return read(text)
    except ValueError:
        return None
