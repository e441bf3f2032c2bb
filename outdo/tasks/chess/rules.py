"""Rules of chess for White king + one piece against the lone black king, on arrays of positions.

Squares are 0..63 (a1 = 0, b1 = 1, h8 = 63). Pieces are codes 0..4 (rook, queen, pawn, bishop, knight). A position is
four numbers (piece, white king, square of the piece, black king); `pack` folds the three squares into one index.
White's moves live in numbered slots, so that a set of moves is one boolean array [R, S]: slots 0..7 are king steps, the
others belong to the piece (direction x distance for rook and queen, rook's directions first; six pushes for the pawn).
A lone king can neither pin nor give check, so White's pseudo-legal moves are legal as soon as the kings stay apart.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from outdo.types import BoolArray, IntArray

PIECES = "RQPBN"
ROOK, QUEEN, PAWN, BISHOP, KNIGHT = range(5)
POSITIONS = 64**3  # packed positions per piece and side to move, legal or not
KING_SLOTS = 8
SLOTS = {ROOK: 8 + 28, QUEEN: 8 + 56, PAWN: 8 + 6}  # number of White's move slots while this piece is on the board
_STEPS = [(0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)]  # (files, ranks), straight ones first
_JUMPS = [(1, 2), (2, 1), (2, -1), (1, -2), (-1, -2), (-2, -1), (-2, 1), (-1, 2)]
_PUSH, _DOUBLE, _PROMOTE = 0, 1, 2  # pawn slots, counted from KING_SLOTS; promotions take four
_PROMOTED = (QUEEN, ROOK, BISHOP, KNIGHT)


def _offset(square: int, files: int, ranks: int) -> int:
    """The square so many files and ranks away, -1 off the board."""
    file, rank = square % 8 + files, square // 8 + ranks
    return rank * 8 + file if 0 <= file < 8 and 0 <= rank < 8 else -1


def _rays() -> tuple[NDArray[np.int8], BoolArray, BoolArray]:
    """Piece moves [piece, square, 56], attacks and passable paths [piece, square, one blocker, target]."""
    moves = np.full((5, 64, 56), -1, np.int8)
    attacks = np.zeros((5, 64, 64, 64), bool)
    for square in range(64):
        for d, (files, ranks) in enumerate(_STEPS):
            between: list[int] = []
            for dist in range(1, 8):
                to = _offset(square, files * dist, ranks * dist)
                if to < 0:
                    break
                for piece in (QUEEN, ROOK if d < 4 else BISHOP):
                    attacks[piece, square, :, to] = True
                    attacks[piece, square, between, to] = False
                moves[QUEEN, square, d * 7 + dist - 1] = to
                between.append(to)
        for piece, targets in ((KNIGHT, _JUMPS), (PAWN, _STEPS[4:7:2])):
            hits = [_offset(square, *t) for t in targets]
            attacks[piece, square, :, [to for to in hits if to >= 0]] = True
        rank = square // 8
        if rank == 6:
            moves[PAWN, square, _PROMOTE : _PROMOTE + 4] = square + 8
        elif 1 <= rank <= 5:
            moves[PAWN, square, _PUSH] = square + 8
        if rank == 1:
            moves[PAWN, square, _DOUBLE] = square + 16
    moves[ROOK, :, :28] = moves[QUEEN, :, :28]
    paths = attacks[:3].copy()
    paths[PAWN] = True  # pushes are no attacks; only the double step can be blocked half-way
    for square in range(8, 16):
        paths[PAWN, square, square + 8, square + 16] = False
    return moves, attacks, paths


_MOVES, ATTACKS, _PATHS = _rays()
KING_MOVES = np.array([[_offset(s, f, r) for f, r in _STEPS] for s in range(64)], np.int8)  # [64, 8], -1 off the board
_FILE, _RANK = np.arange(64) % 8, np.arange(64) // 8
DISTANCE = np.maximum(abs(_FILE[:, None] - _FILE), abs(_RANK[:, None] - _RANK)).astype(np.int8)  # king steps [64, 64]
NEAR = DISTANCE <= 1
_BECOMES = np.broadcast_to(np.arange(5, dtype=np.int8)[:, None], (5, 64)).copy()  # [piece, slot] the piece afterwards
_BECOMES[PAWN, KING_SLOTS + _PROMOTE : KING_SLOTS + _PROMOTE + 4] = _PROMOTED
# Flat views with precomputed strides gather about twice as fast as four-dimensional fancy indexing.
_ATTACKS_FLAT, _PATHS_FLAT = ATTACKS.ravel(), _PATHS.ravel()


class Position(NamedTuple):
    """R positions; every field [R] int64. Whose turn it is is known from the context."""

    piece: IntArray
    white: IntArray  # square of the white king
    square: IntArray  # square of White's piece
    black: IntArray  # square of the black king

    def rows(self, index: IntArray | BoolArray) -> Position:
        """The positions picked out by an index array or a mask."""
        return Position(*(x[index] for x in self))


class WhiteMoves(NamedTuple):
    """White's moves, [R, S] each; what is not legal holds rubbish."""

    legal: BoolArray
    start: IntArray  # from-square
    to: IntArray
    piece: IntArray  # code of White's piece after the move (differs from before only when promoting)


def pack(white: IntArray, square: IntArray, black: IntArray) -> IntArray:
    """Index 0 .. 64^3-1 of the three squares."""
    return (white * 64 + square) * 64 + black


def unpack(index: IntArray, piece: int | IntArray) -> Position:
    """Inverse of `pack`."""
    index = np.asarray(index, np.int64)
    pieces = np.broadcast_to(np.asarray(piece, np.int64), index.shape).copy()
    return Position(pieces, index >> 12, (index >> 6) & 63, index & 63)


def key(p: Position) -> IntArray:
    """Index into tables that hold all five pieces one after the other: [5 * POSITIONS]."""
    return p.piece * POSITIONS + pack(p.white, p.square, p.black)


def in_check(p: Position) -> BoolArray:
    """Whether White's piece attacks the black king. [R]"""
    out: BoolArray = _ATTACKS_FLAT[((p.piece * 64 + p.square) * 64 + p.white) * 64 + p.black]
    return out


def is_legal(p: Position, white_to_move: bool) -> BoolArray:
    """Whether the position can stand on a board: squares differ, kings apart, the side not to move not in check. [R]"""
    apart = ~NEAR[p.white, p.black] & (p.white != p.square) & (p.black != p.square)
    on_rank = (p.piece != PAWN) | ((p.square >= 8) & (p.square < 56))
    out: BoolArray = apart & on_rank & ~in_check(p) if white_to_move else apart & on_rank
    return out


def white_moves(p: Position, slots: int = 64) -> WhiteMoves:
    """White's legal moves in the first `slots` slots (SLOTS names how many a piece needs). Pieces R, Q and P only."""
    wide = slots - KING_SLOTS
    to = np.concatenate([KING_MOVES[p.white], _MOVES[p.piece, p.square, :wide]], axis=1).astype(np.int64)
    start = np.repeat(np.stack([p.white, p.square], 1), [KING_SLOTS, wide], axis=1)
    legal = to >= 0
    king, piece = to[:, :KING_SLOTS], to[:, KING_SLOTS:]
    legal[:, :KING_SLOTS] &= ~NEAR[p.black[:, None], king] & (king != p.square[:, None])
    base = (p.piece * 64 + p.square) * 64
    for blocker in (p.white, p.black):
        path = _PATHS_FLAT[np.maximum(((base + blocker) * 64)[:, None] + piece, 0)]
        legal[:, KING_SLOTS:] &= path & (piece != blocker[:, None])
    return WhiteMoves(legal, start, to, _BECOMES[p.piece, :slots].astype(np.int64))


def after_white(p: Position, start: IntArray, to: IntArray, piece: IntArray) -> Position:
    """Positions after White's moves; arguments [R] or [R, S], the result in the same shape."""
    extra = (1,) * (np.ndim(to) - p.white.ndim)
    white, square, black = (x.reshape(x.shape + extra) for x in p[1:])
    king = start == white
    black = np.broadcast_to(black, np.shape(to))
    return Position(piece, np.where(king, to, white), np.where(king, square, to), black)


def black_moves(p: Position) -> tuple[BoolArray, IntArray]:
    """Black's king moves: legal [R, 8] and target squares [R, 8]. A move onto `p.square` captures the piece.

    The attack tables know no black king, so a square behind it on the same ray counts as attacked, as it must.
    """
    to = KING_MOVES[p.black].astype(np.int64)
    base = ((p.piece * 64 + p.square) * 64 + p.white) * 64
    attacked = _ATTACKS_FLAT[np.maximum(base[:, None] + to, 0)]
    return (to >= 0) & ~NEAR[p.white[:, None], to] & ~attacked, to


def canonical(index: IntArray, piece: int) -> IntArray:
    """Smallest index among the board's symmetries of each position (8, or the file mirror alone with a pawn)."""
    squares = np.arange(64)
    maps = [squares, squares ^ 7]
    if piece != PAWN:
        maps += [squares ^ 56, squares ^ 63]
        maps += [(m % 8) * 8 + m // 8 for m in maps]
    p = unpack(index, piece)
    best = np.asarray(index, np.int64)
    for m in maps:
        best = np.minimum(best, pack(m[p.white], m[p.square], m[p.black]))
    return best


def square_name(square: int) -> str:
    """Like "d4"."""
    return "abcdefgh"[square % 8] + str(square // 8 + 1)


def fen(piece: int, white: int, square: int, black: int) -> str:
    """Forsyth-Edwards notation of one position with White to move."""
    board = {white: "K", square: PIECES[piece], black: "k"}
    ranks = []
    for rank in range(7, -1, -1):
        text, gap = "", 0
        for s in range(rank * 8, rank * 8 + 8):
            if s in board:
                text, gap = text + (str(gap) if gap else "") + board[s], 0
            else:
                gap += 1
        ranks.append(text + (str(gap) if gap else ""))
    return "/".join(ranks) + " w - - 0 1"
