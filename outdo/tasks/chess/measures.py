"""What can be read off finished chess trajectories: per-game measurements, move lists, pairs for judging."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import chess
import numpy as np

from outdo.tasks.chess import players, rules, vocabulary
from outdo.tasks.chess.games import RESULTS
from outdo.tasks.chess.rules import Position
from outdo.tasks.chess.tables import Tables
from outdo.types import Finish, IntArray, Trajectory

_TURN = 4  # tokens from one observation to the next: three words of board, one of move


def own_moves(trajectories: Sequence[Trajectory]) -> tuple[IntArray, IntArray, IntArray]:
    """All legal own moves, one after the other: trajectory index [M], observations [M, 3], moves [M]."""
    owner, turns = [np.zeros(0, np.int64)], [np.zeros((0, _TURN), np.int64)]
    for i, trajectory in enumerate(trajectories):
        n = min(int(trajectory.info.get("moves", 0)), (len(trajectory.token_ids) - 1) // _TURN)
        owner.append(np.full(n, i))
        turns.append(np.asarray(trajectory.token_ids[1 : 1 + _TURN * n]).reshape(n, _TURN))
    flat = np.concatenate(turns)
    return np.concatenate(owner), flat[:, :3], flat[:, 3]


def _share(owner: IntArray, hit: np.ndarray, n: int) -> np.ndarray:
    """Mean of `hit` per trajectory, NaN where it has none. [n] float64"""
    count = np.bincount(owner, minlength=n)
    return np.where(count > 0, np.bincount(owner, hit, minlength=n) / np.maximum(count, 1), np.nan)


def _agreements(t: Tables, trajectories: Sequence[Trajectory]) -> dict[str, np.ndarray]:
    """Shares of own moves that are the teacher's, and that keep the distance to mate optimal. [n] each."""
    owner, observations, words = own_moves(trajectories)
    p = vocabulary.read_observations(observations)
    _, start, to, piece = vocabulary.read_moves(words, p)
    moves = rules.white_moves(p, t.slots)
    slot, _ = players.white_teacher(t, p, moves)
    at = (np.arange(len(slot)), slot)
    same = (moves.start[at] == start) & (moves.to[at] == to) & (moves.piece[at] == piece)
    before = t.white_dtm[rules.key(p)].astype(np.int64)
    after = t.black_dtm[rules.key(rules.after_white(p, start, to, piece))].astype(np.int64)
    won, n = before > 0, len(trajectories)
    best = after[won] == before[won] - 1
    return {"teacher_agreement": _share(owner, same, n), "optimal_agreement": _share(owner[won], best, n)}


def measure(t: Tables, trajectories: Sequence[Trajectory]) -> dict[str, np.ndarray]:
    """See `ChessEndgame.metrics`. Games that broke (Finish.ERROR) are NaN throughout; unfinished ones are no win."""
    results = np.array([x.info.get("result", "unfinished") for x in trajectories], dtype=object)
    moves = np.array([x.info.get("moves", np.nan) for x in trajectories], np.float64)
    plies = np.array([x.info.get("dtm_plies", -1) for x in trajectories], np.float64)
    out = {"win" if name == "mate" else name: (results == name).astype(np.float64) for name in RESULTS}
    out["moves"] = moves
    won = (results == "mate") & (plies > 0)
    out["excess_moves"] = np.where(won, moves - (plies + 1) // 2, np.nan)
    out |= _agreements(t, trajectories)
    broken = np.array([x.finish == Finish.ERROR for x in trajectories], bool)
    return {name: np.where(broken, np.nan, values) for name, values in out.items()}


def points(trajectories: Sequence[Trajectory]) -> np.ndarray:
    """White's points [n]: mate 1, draws 1/2, an illegal move 0; NaN for games that broke or never ended."""
    worth = {"mate": 1.0, "illegal": 0.0}
    results = [x.info.get("result") if x.finish != Finish.ERROR else None for x in trajectories]
    return np.array([worth.get(r, 0.5) if r in RESULTS else np.nan for r in results], np.float64)


def _fen(observation: IntArray) -> str:
    """FEN of one observation [3] with White to move."""
    p = vocabulary.read_observations(observation[None])
    return rules.fen(*(int(x[0]) for x in p))


def uci(word: int, p: Position) -> str:
    """A legal move's word in long algebraic notation, in a single position [1]."""
    _, start, to, piece = (int(x[0]) for x in vocabulary.read_moves(np.array([word]), p))
    promoted = rules.PIECES[piece].lower() if piece != int(p.piece[0]) else ""
    return rules.square_name(start) + rules.square_name(to) + promoted


def replay(trajectory: Trajectory) -> list[dict[str, Any]]:
    """Every ply of a game for a reader: see `ChessEndgame.replay`."""
    ids = np.asarray(trajectory.token_ids)
    board = chess.Board(_fen(ids[1:4]))
    out: list[dict[str, Any]] = [{"fen": board.fen()}]

    def push(move: chess.Move) -> None:
        by = "white" if board.turn else "black"
        san = board.san(move)
        board.push(move)
        out.append({"uci": move.uci(), "san": san, "fen": board.fen(), "by": by})

    _, observations, words = own_moves([trajectory])
    for k, p in enumerate(vocabulary.read_observations(o[None]) for o in observations):
        if k:
            black = int(p.black[0])
            king = board.king(chess.BLACK)
            assert king is not None
            push(chess.Move(king, black))
        push(chess.Move.from_uci(uci(words[k], p)))
    rest = ids[1 + _TURN * len(words) :]
    result, reply = trajectory.info.get("result"), trajectory.info.get("last_reply")
    # Black's last move is in no observation when it ends the game or when White answers with an illegal one.
    if reply and board.turn == chess.BLACK and result not in ("mate", "move_limit") and not board.is_game_over():
        push(chess.Move.from_uci(reply))
    if result == "illegal":
        text = vocabulary.text(rest[3:-1])
        out.append({"uci": text, "illegal": True, "by": "white", "fen": board.fen()})
    return out


def judge_pairs(trajectories: Sequence[Trajectory], n: int, seed: int) -> list[tuple[IntArray, IntArray]]:
    """Up to n pairs of prefixes: see `ChessEndgame.judge_pairs`. Mating games come in seeded order, each used once."""
    rng = np.random.default_rng(seed)
    moves = np.array([x.info.get("moves", 0) for x in trajectories], np.int64)
    mated = np.array([x.info.get("result") == "mate" for x in trajectories], bool)
    pairs: list[tuple[IntArray, IntArray]] = []
    for i in rng.permutation(np.flatnonzero(mated)):
        k = moves[i]
        # A game that was mated later had a legal k-th move that did not mate, just like one that was never mated.
        others = np.flatnonzero((moves > k) | ((moves == k) & ~mated))
        if len(pairs) == n:
            break
        if len(others):
            length = 1 + _TURN * int(k)
            other = trajectories[int(rng.choice(others))]
            pairs.append((trajectories[i].token_ids[:length].copy(), other.token_ids[:length].copy()))
    return pairs


def result_token_ids() -> Mapping[str, int]:
    """Ids of the three result words from White's point of view."""
    return {"win": vocabulary.WIN, "draw": vocabulary.DRAW, "loss": vocabulary.LOSS}
