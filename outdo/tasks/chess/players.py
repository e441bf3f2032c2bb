"""Reference players: four black defenders and three white players, all as array functions.

Whatever is drawn comes from `draws(seed, ply, stream)`, a hash and not a generator: a game goes the same way whether it
is stepped alone or beside others. Black's players answer with one of the eight king steps, White's with a move slot.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from outdo.errors import check
from outdo.tasks.chess import rules
from outdo.tasks.chess.rules import PAWN, POSITIONS, QUEEN, ROOK, Position, WhiteMoves
from outdo.tasks.chess.tables import Tables, tables
from outdo.types import BoolArray, FloatArray, IntArray

BLACK_STREAM, WHITE_STREAM = 1, 2
_IMPOSSIBLE = -1e9

# Teacher: a weighted sum over the position that its move leads to. Tuned (KRK only, on validation starts) to be useful
# and far from perfect: it has no search, so it shuffles where no single move improves the sum, and it is too fond of
# checks (were a check worth 1.0, it would mate the perfect defender in 43 instead of 25 % of the games).
MOBILITY = -1.0  # per legal move of the black king
EDGE = -2.0  # per step between the edge of the board and the most central square that Black can move to
KINGS = -0.75  # per king step between the kings
CHECK = 1.25  # for a check with the rook; the queen has too many of them


def mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser: 64 well-mixed bits from each 64-bit counter. Wraps around silently on arrays."""
    x = np.asarray(x, np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def draws(seeds_R: IntArray, plies_R: IntArray, stream: int) -> NDArray[np.uint64]:
    """One 64-bit draw per game and ply. seeds_R, plies_R: [R]."""
    salt = mix(np.atleast_1d(plies_R).astype(np.uint64) | np.uint64(stream << 32))
    return mix(mix(np.atleast_1d(seeds_R).astype(np.int64).view(np.uint64)) ^ salt)


def choose(allowed: BoolArray, random_R: NDArray[np.uint64]) -> IntArray:
    """A uniform choice among the True entries of each row. allowed [R, S], each row with at least one."""
    count = allowed.sum(1).astype(np.uint64)
    nth = (random_R % np.maximum(count, np.uint64(1))).astype(np.int64)
    out: IntArray = np.argmax(allowed & (np.cumsum(allowed, 1) == nth[:, None] + 1), axis=1)
    return out


# --- Black: (tables, positions, draws [R]) -> step 0..7 [R]; every position has a legal move --------------------------


def _steps(p: Position) -> tuple[BoolArray, IntArray, IntArray, BoolArray]:
    """Legal [R, 8], target squares, keys of the positions reached, and which steps capture the piece."""
    legal, to = rules.black_moves(p)
    reached = (p.piece * POSITIONS)[:, None] + rules.pack(p.white[:, None], p.square[:, None], to)
    return legal, to, np.maximum(reached, 0), legal & (to == p.square[:, None])


def _best_replies(t: Tables, p: Position) -> BoolArray:
    """Captures if there are any, else what holds the draw, else what delays mate the longest. [R, 8]"""
    legal, _, reached, captures = _steps(p)
    worth = t.white_dtm[reached].astype(np.int64)
    worth = np.where(worth < 0, 1000, worth)
    worth = np.where(legal, np.where(captures, 2000, worth), -1)
    best: BoolArray = worth == worth.max(1, keepdims=True)
    return best


def black_perfect(t: Tables, p: Position, random_R: NDArray[np.uint64]) -> IntArray:
    """Flawless and of one mind, like an engine: of the best replies always the first. A function of the position."""
    out: IntArray = np.argmax(_best_replies(t, p), axis=1)
    return out


def black_perfect_varied(t: Tables, p: Position, random_R: NDArray[np.uint64]) -> IntArray:
    """As flawless, but the best replies are drawn from: who has learned `perfect` by heart is found out here."""
    return choose(_best_replies(t, p), random_R)


def black_random(t: Tables, p: Position, random_R: NDArray[np.uint64]) -> IntArray:
    """Any legal move."""
    return choose(rules.black_moves(p)[0], random_R)


def black_runner(t: Tables, p: Position, random_R: NDArray[np.uint64]) -> IntArray:
    """Captures if it can, else heads for the centre, keeps free squares and stays off the white king; no search."""
    legal, to, reached, captures = _steps(p)
    file, rank = to % 8, to // 8
    off_centre = np.maximum(abs(2 * file - 7), abs(2 * rank - 7)) // 2  # 0 on the four centre squares, 3 on the edge
    apart = rules.DISTANCE[p.white[:, None], to]
    worth = t.mobility[reached] - 3 * off_centre + np.minimum(apart, 3)
    worth = np.where(legal, np.where(captures, 1000, worth), -1000)
    return choose(worth == worth.max(1, keepdims=True), random_R)


BLACK: dict[str, Callable[[Tables, Position, NDArray[np.uint64]], IntArray]] = {
    "perfect": black_perfect,
    "perfect_varied": black_perfect_varied,
    "random": black_random,
    "runner": black_runner,
}

# --- White: (tables, positions, moves [R, S], draws [R]) -> (slot [R], log-probability [R, 1]) ------------------------


def _pawn_terms(p: Position) -> FloatArray:
    """What matters while the pawn is on the board: how far it is, the own king in front of it, the black king away."""
    rank, file = p.square // 8, p.square % 8
    ahead = np.minimum(p.square + 8, 63)
    escort = rules.DISTANCE[p.white, ahead]
    outside = rules.DISTANCE[p.black, 56 + file] > 7 - rank + 1  # Black's king is outside the pawn's square
    out: np.ndarray = 2.0 * rank - 1.5 * escort + 6.0 * outside * rank + rules.DISTANCE[p.black, ahead]
    return out


@functools.cache
def teacher_values(material: str) -> FloatArray:
    """The teacher's opinion of every position with Black to move. [5 * POSITIONS] float32, higher is better."""
    t = tables(material)
    out = np.full(5 * POSITIONS, -2000.0, np.float32)  # bishop and knight: an instant draw
    for piece in sorted({t.piece, QUEEN, ROOK}):
        here = slice(piece * POSITIONS, (piece + 1) * POSITIONS)
        p = rules.unpack(np.arange(POSITIONS), piece)
        legal, to = rules.black_moves(p)
        file, rank = to % 8, to // 8
        inside = np.minimum(np.minimum(file, 7 - file), np.minimum(rank, 7 - rank))
        to_edge = np.where(legal, inside, 0).max(1)
        checks = rules.in_check(p)
        value = MOBILITY * t.mobility[here] + EDGE * to_edge + KINGS * rules.DISTANCE[p.white, p.black]
        value = value + CHECK * checks * (piece == ROOK)
        if piece == PAWN:
            value = _pawn_terms(p)
        value = np.where(t.hanging[here], -1000.0, value)
        stuck = t.mobility[here] == 0
        value = np.where(stuck & ~checks, -1500.0, value)
        value = np.where(stuck & checks, 5000.0, value)
        out[here] = value + (t.piece == PAWN) * {PAWN: 0.0, ROOK: 300.0, QUEEN: 500.0}[piece]
    out.setflags(write=False)
    return out


def reached_keys(p: Position, moves: WhiteMoves) -> IntArray:
    """Table keys of the positions after every slot; rubbish, but a valid index, where the slot is not legal. [R, S]"""
    return np.maximum(rules.key(rules.after_white(p, moves.start, moves.to, moves.piece)), 0)


def _certain(slot: IntArray) -> tuple[IntArray, FloatArray]:
    return slot, np.zeros((len(slot), 1), np.float32)


def white_teacher(
    t: Tables, p: Position, moves: WhiteMoves, random_R: NDArray[np.uint64] | None = None
) -> tuple[IntArray, FloatArray]:
    """The move with the highest `teacher_values`; of equals the lowest slot: a function of the position."""
    values = teacher_values(t.material)[reached_keys(p, moves)]
    return _certain(np.argmax(np.where(moves.legal, values, _IMPOSSIBLE), axis=1))


def white_perfect(
    t: Tables, p: Position, moves: WhiteMoves, random_R: NDArray[np.uint64] | None = None
) -> tuple[IntArray, FloatArray]:
    """The shortest mate; of equals, and where there is no win, the one that the teacher likes best."""
    reached = reached_keys(p, moves)
    taste = teacher_values(t.material)[reached] * 1e-5
    distance = t.black_dtm[reached].astype(np.float64)
    worth = np.where(distance >= 0, 1000.0 - distance, 0.0) + taste
    return _certain(np.argmax(np.where(moves.legal, worth, _IMPOSSIBLE), axis=1))


def white_random(
    t: Tables, p: Position, moves: WhiteMoves, random_R: NDArray[np.uint64]
) -> tuple[IntArray, FloatArray]:
    """Any legal move, with its exact log-probability."""
    return choose(moves.legal, random_R), -np.log(moves.legal.sum(1, keepdims=True)).astype(np.float32)


WhitePlayer = Callable[[Tables, Position, WhiteMoves, NDArray[np.uint64]], tuple[IntArray, FloatArray]]


def sometimes_random(player: WhitePlayer, share: float) -> WhitePlayer:
    """The player, but for this share of its moves, which are any legal one. The log-probability is that of the mixture."""
    if share == 0.0:
        return player

    def move(t: Tables, p: Position, moves: WhiteMoves, random_R: NDArray[np.uint64]) -> tuple[IntArray, FloatArray]:
        own, own_logprobs = player(t, p, moves, random_R)
        any_legal, _ = white_random(t, p, moves, mix(random_R))
        uniform = (mix(~random_R) >> np.uint64(11)) * 2.0**-53
        slot = np.where(uniform < share, any_legal, own)
        same = np.where(slot == own, np.exp(own_logprobs[:, 0]), 0.0)
        mixed = (1 - share) * same + share / moves.legal.sum(1)
        return slot, np.log(mixed).astype(np.float32)[:, None]

    return move


WHITE: dict[str, WhitePlayer] = {
    "random": white_random,
    "teacher": white_teacher,
    "perfect": white_perfect,
}


def named(kind: dict[str, Callable[..., Any]], name: str) -> Callable[..., Any]:
    """Look a player up by name."""
    check(name in kind, f"player {name!r} is unknown; chess_endgame has {', '.join(kind)}; use one of these")
    return kind[name]
