"""Exact distance-to-mate tables and position features, built in memory by vectorised retrograde analysis.

All tables are flat [5 * POSITIONS], addressed by `rules.key`; rows of pieces that the material never plays on stay at
their defaults. Distances are plies until mate with best play by both; -1 means that White cannot force mate.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from outdo.tasks.chess import rules
from outdo.tasks.chess.rules import PAWN, PIECES, POSITIONS, QUEEN, ROOK, SLOTS
from outdo.types import BoolArray

MATERIALS = {"KRK": ROOK, "KQK": QUEEN, "KPK": PAWN}
_NEEDS = {"KRK": (ROOK,), "KQK": (QUEEN,), "KPK": (QUEEN, ROOK, PAWN)}  # in the order in which they are solved
_DRAWN, _ABSENT = 5 * POSITIONS, 5 * POSITIONS + 1  # sentinels behind the tables: a draw, and no move at all
_CHUNK = 1 << 15  # positions expanded at a time; keeps temporaries in cache


@dataclass(frozen=True)
class Tables:
    """Everything known about the positions of one material. Every array [5 * POSITIONS]."""

    material: str
    piece: int
    slots: int  # width of White's move arrays
    white_legal: BoolArray  # legal with White to move
    white_dtm: NDArray[np.int8]  # plies to mate, White to move
    black_dtm: NDArray[np.int8]  # plies to mate, Black to move; 0 is mate
    mobility: NDArray[np.int8]  # Black's number of legal moves, Black to move
    hanging: BoolArray  # Black to move can take the piece
    region: NDArray[np.int8]  # squares the black king could walk to if White stood still; 64 where `hanging`


def _white_successors(index: NDArray[np.int64], piece: int) -> NDArray[np.int32]:
    """Keys of the positions that White can reach, [n, S], `_ABSENT` where a slot is no legal move."""
    out = np.empty((len(index), SLOTS[piece]), np.int32)
    for at in range(0, len(index), _CHUNK):
        p = rules.unpack(index[at : at + _CHUNK], piece)
        moves = rules.white_moves(p, SLOTS[piece])
        reached = rules.key(rules.after_white(p, moves.start, moves.to, moves.piece))
        out[at : at + _CHUNK] = np.where(moves.legal, reached, _ABSENT)
    return out


def _black_successors(index: NDArray[np.int64], piece: int) -> NDArray[np.int32]:
    """Keys of the positions that Black can reach, [n, 8]: `_DRAWN` for a capture, `_ABSENT` where not legal."""
    p = rules.unpack(index, piece)
    legal, to = rules.black_moves(p)
    reached = piece * POSITIONS + rules.pack(p.white[:, None], p.square[:, None], to)
    reached = np.where(to == p.square[:, None], _DRAWN, reached)
    return np.where(legal, reached, _ABSENT).astype(np.int32)


def _solve(piece: int, white_dtm: NDArray[np.int8], black_dtm: NDArray[np.int8]) -> None:
    """Fill in one piece's distances; promotions look into what is solved already. Arrays [5 * POSITIONS + 2].

    Layer by layer: Black is lost in n when every move loses, White wins in n+1 when some move reaches such a position.
    """
    every = np.arange(POSITIONS)
    positions = rules.unpack(every, piece)
    white = every[rules.is_legal(positions, True)]
    black = every[rules.is_legal(positions, False)]
    to_black = _white_successors(white, piece)
    to_white = _black_successors(black, piece)
    stuck = (to_white == _ABSENT).all(1)
    checked = rules.in_check(positions.rows(black))
    base = piece * POSITIONS
    black_dtm[base + black[stuck & checked]] = 0
    black, to_white = black[~stuck], to_white[~stuck]
    last = int(black_dtm.max())  # deepest layer that promotions can feed
    white_dtm[_ABSENT] = 0  # a move that does not exist saves nobody
    n = 0
    while True:
        won = np.zeros(len(white), bool)
        for column in to_black.T:
            won |= black_dtm[column] == n
        white_dtm[base + white[won]] = n + 1
        white, to_black = white[~won], to_black[~won]
        lost = (white_dtm[to_white] >= 0).all(1)
        black_dtm[base + black[lost]] = n + 2
        black, to_white = black[~lost], to_white[~lost]
        n += 2
        if not won.any() and not lost.any() and n > last:
            return


def _regions(piece: int) -> NDArray[np.int8]:
    """Number of squares that the black king can walk to while White stands still. [POSITIONS], by bitboard flooding."""
    squares = np.arange(64)
    white, square, to = np.meshgrid(squares, squares, squares, indexing="ij")
    safe = ~rules.NEAR[white, to] & ~rules.ATTACKS[piece, square, white, to] & (to != square)
    masks = np.packbits(safe, axis=-1, bitorder="little").view(np.uint64)  # [64, 64, 1]
    masks = np.broadcast_to(masks, (64, 64, 64)).reshape(-1)
    steps = np.zeros((64, 64), bool)
    steps[rules.DISTANCE == 1] = True
    start = np.packbits(steps, axis=-1, bitorder="little").view(np.uint64)[:, 0]
    area = np.tile(start, 64 * 64) & masks
    not_a, not_h = np.uint64(0xFEFEFEFEFEFEFEFE), np.uint64(0x7F7F7F7F7F7F7F7F)
    one, eight = np.uint64(1), np.uint64(8)
    while True:
        row = area | ((area << one) & not_a) | ((area >> one) & not_h)
        grown = (row | (row << eight) | (row >> eight)) & masks
        if np.array_equal(grown, area):
            count: np.ndarray = np.bitwise_count(area).astype(np.int8)
            return count
        area = grown


@functools.cache
def tables(material: str) -> Tables:
    """The tables of "KRK", "KQK" or "KPK", built on first use (KRK about a second) and kept."""
    white_dtm = np.full(5 * POSITIONS + 2, -1, np.int8)
    black_dtm = np.full(5 * POSITIONS + 2, -1, np.int8)
    white_legal = np.zeros(5 * POSITIONS, bool)
    mobility = np.zeros(5 * POSITIONS, np.int8)
    hanging = np.zeros(5 * POSITIONS, bool)
    region = np.full(5 * POSITIONS, 64, np.int8)
    for piece in _NEEDS[material]:
        here = slice(piece * POSITIONS, (piece + 1) * POSITIONS)
        every = rules.unpack(np.arange(POSITIONS), piece)
        _solve(piece, white_dtm, black_dtm)
        white_legal[here] = rules.is_legal(every, True)
        legal, to = rules.black_moves(every)
        mobility[here] = legal.sum(1)
        hanging[here] = (legal & (to == every.square[:, None])).any(1)
        region[here] = np.where(hanging[here], 64, _regions(piece))
    white_dtm, black_dtm = white_dtm[: 5 * POSITIONS], black_dtm[: 5 * POSITIONS]
    for array in (white_dtm, black_dtm, white_legal, mobility, hanging, region):
        array.setflags(write=False)
    slots = max(SLOTS[p] for p in _NEEDS[material])
    piece = MATERIALS[material]
    return Tables(material, piece, slots, white_legal, white_dtm, black_dtm, mobility, hanging, region)


def longest_win(material: str) -> int:
    """Plies of the longest forced mate from a White-to-move position of this material."""
    piece = PIECES.index(material[1])
    return int(tables(material).white_dtm[piece * POSITIONS : (piece + 1) * POSITIONS].max())
