"""Chess rules and tables against python-chess.

Run: .venv/bin/python -m pytest tests/tasks/test_chess_rules.py          (about 20 s on one core)
     .venv/bin/python -m pytest tests/tasks/test_chess_rules.py -m slow  (every class of KQK and KPK, a minute)
"""

from __future__ import annotations

import chess
import numpy as np
import pytest

from outdo.tasks.chess import players, rules
from outdo.tasks.chess.tables import MATERIALS, Tables, longest_win, tables

LETTERS = {rules.ROOK: chess.ROOK, rules.QUEEN: chess.QUEEN, rules.PAWN: chess.PAWN}
PROMOTION = {rules.ROOK: "r", rules.QUEEN: "q", rules.BISHOP: "b", rules.KNIGHT: "n"}


def board_of(piece: int, white: int, square: int, black: int, turn: chess.Color) -> chess.Board:
    """The same position in python-chess."""
    board = chess.Board(None)
    board.set_piece_at(white, chess.Piece(chess.KING, chess.WHITE))
    board.set_piece_at(square, chess.Piece(LETTERS[piece], chess.WHITE))
    board.set_piece_at(black, chess.Piece(chess.KING, chess.BLACK))
    board.turn = turn
    return board


def classes(piece: int) -> np.ndarray:
    """One packed index per symmetry class of all 64^3 arrangements."""
    every = np.arange(rules.POSITIONS)
    return every[rules.canonical(every, piece) == every]


def compare(piece: int, index: np.ndarray) -> tuple[int, int]:
    """Check legality, moves, check and endings of these arrangements; returns how many were legal by side to move."""
    t = tables({v: k for k, v in MATERIALS.items()}[piece])
    p = rules.unpack(index, piece)
    legal_white, legal_black, checked = rules.is_legal(p, True), rules.is_legal(p, False), rules.in_check(p)
    moves = rules.white_moves(p, rules.SLOTS[piece])
    can, targets = rules.black_moves(p)
    for i in range(len(index)):
        where = [int(x[i]) for x in p[1:]]
        distinct = len(set(where)) == 3
        board = board_of(piece, *where, chess.WHITE) if distinct else None
        assert legal_white[i] == (distinct and board.is_valid()), where
        if legal_white[i]:
            ours = set()
            for slot in np.flatnonzero(moves.legal[i]):
                promoted = PROMOTION[int(moves.piece[i, slot])] if moves.piece[i, slot] != piece else ""
                names = [chess.square_name(int(x[i, slot])) for x in (moves.start, moves.to)]
                ours.add("".join(names) + promoted)
            assert moves.legal[i].sum() == len(ours)
            assert ours == {m.uci() for m in board.legal_moves}, board.fen()
        if distinct:
            board.turn = chess.BLACK
            # python-chess's validity also asks how a pawn's check came about, which the table need not know.
            assert legal_black[i] == (not (board.status() & ~chess.STATUS_IMPOSSIBLE_CHECK)), board.fen()
        else:
            assert not legal_black[i]
        if legal_black[i]:
            assert {int(s) for s in targets[i][can[i]]} == {m.to_square for m in board.legal_moves}, board.fen()
            assert checked[i] == board.is_check()
            stuck = not can[i].any()
            assert (stuck and checked[i]) == board.is_checkmate()
            assert (stuck and not checked[i]) == board.is_stalemate()
            at = piece * rules.POSITIONS + int(index[i])
            assert (t.black_dtm[at] == 0) == board.is_checkmate()
            assert t.hanging[at] == any(board.is_capture(m) for m in board.legal_moves)
            assert t.mobility[at] == board.legal_moves.count()
    return int(legal_white.sum()), int(legal_black.sum())


@pytest.mark.slow
def test_krk_is_python_chess_on_every_position() -> None:
    legal_white, legal_black = compare(rules.ROOK, classes(rules.ROOK))
    # 28,056 is the size of the classic KRK data set: Black-to-move positions up to symmetry.
    assert (legal_white, legal_black) == (21959, 28056)
    every = rules.unpack(np.arange(rules.POSITIONS), rules.ROOK)
    assert rules.is_legal(every, True).sum() == 175168
    assert rules.is_legal(every, False).sum() == 223944


@pytest.mark.slow
@pytest.mark.parametrize("piece", [rules.QUEEN, rules.PAWN])
def test_sampled_positions_are_python_chess(piece: int) -> None:
    every = classes(piece)
    compare(piece, np.random.default_rng(5).choice(every, min(20000, len(every)), replace=False))


@pytest.mark.slow
@pytest.mark.parametrize("piece", [rules.QUEEN, rules.PAWN])
def test_every_class_is_python_chess(piece: int) -> None:
    compare(piece, classes(piece))


@pytest.mark.parametrize("piece", [rules.ROOK, rules.QUEEN, rules.PAWN])
def test_rules_respect_the_symmetries(piece: int) -> None:
    """What was compared class by class holds for all members: tables and legality agree across each class."""
    t = tables({v: k for k, v in MATERIALS.items()}[piece])
    every = np.arange(rules.POSITIONS)
    same = rules.canonical(every, piece)
    assert len(np.unique(same)) < rules.POSITIONS / (1.9 if piece == rules.PAWN else 7)
    base = piece * rules.POSITIONS
    for table in (t.white_legal, t.white_dtm, t.black_dtm, t.mobility, t.hanging, t.region):
        part = table[base : base + rules.POSITIONS]
        assert (part == part[same]).all()


@pytest.mark.parametrize(("material", "plies"), [("KRK", 31), ("KQK", 19), ("KPK", 55)])
def test_longest_wins(material: str, plies: int) -> None:
    assert longest_win(material) == plies


def test_known_counts_of_wins() -> None:
    t = tables("KRK")
    assert (t.white_dtm[: rules.POSITIONS] > 0).sum() == 175168  # White to move always wins with a rook
    pawn = tables("KPK")
    base = rules.PAWN * rules.POSITIONS
    # Black holds the opposition in front of the pawn: a draw with White to move, a win with Black to move.
    draw = base + rules.pack(np.array(chess.E5), np.array(chess.E4), np.array(chess.E7))
    assert pawn.white_dtm[draw] == -1
    assert pawn.black_dtm[draw] > 0


@pytest.mark.parametrize("material", ["KRK", "KQK", "KPK"])
def test_distances_are_a_fixed_point(material: str) -> None:
    """Every distance is one more than the best (White) or the worst (Black) of its python-chess successors."""
    t = tables(material)
    rng = np.random.default_rng(11)
    here = np.flatnonzero(t.white_legal[t.piece * rules.POSITIONS :][: rules.POSITIONS])
    for index in rng.choice(here, 300, replace=False):
        p = rules.unpack(np.array([index]), t.piece)
        board = board_of(t.piece, *(int(x[0]) for x in p[1:]), chess.WHITE)
        values = []
        for move in board.legal_moves:
            board.push(move)
            values.append(lookup(t, board))
            board.pop()
        best = min((v for v in values if v >= 0), default=-2)
        assert t.white_dtm[t.piece * rules.POSITIONS + index] == best + 1
        for move in list(board.legal_moves)[:4]:
            board.push(move)
            if lookup(t, board) >= 0 and not board.is_game_over():
                replies = []
                for reply in board.legal_moves:
                    board.push(reply)
                    replies.append(lookup(t, board))
                    board.pop()
                assert min(replies) >= 0
                assert max(replies) + 1 == lookup(t, board) or not replies
            board.pop()


def lookup(t: Tables, board: chess.Board) -> int:
    """Distance to mate that the table holds for a python-chess board, -1 for draws."""
    if board.is_checkmate():
        return 0
    if board.is_stalemate() or board.is_insufficient_material():
        return -1
    (square,) = chess.SquareSet(board.occupied & ~board.kings)
    piece = {v: k for k, v in LETTERS.items()}[board.piece_type_at(square)]
    index = (board.king(chess.WHITE) * 64 + square) * 64 + board.king(chess.BLACK)
    table = t.white_dtm if board.turn else t.black_dtm
    return int(table[piece * rules.POSITIONS + index])


def test_fen_is_python_chess() -> None:
    rng = np.random.default_rng(0)
    for piece in LETTERS:
        every = rules.unpack(np.arange(rules.POSITIONS), piece)
        for index in rng.choice(np.flatnonzero(rules.is_legal(every, True)), 200):
            where = [int(x[index]) for x in every[1:]]
            assert rules.fen(piece, *where) == board_of(piece, *where, chess.WHITE).fen()


def test_region_counts_squares_that_the_king_can_walk_to() -> None:
    t = tables("KRK")
    rng = np.random.default_rng(2)
    every = rules.unpack(np.arange(rules.POSITIONS), rules.ROOK)
    for index in rng.choice(np.flatnonzero(rules.is_legal(every, False)), 200):
        p = every.rows(np.array([index]))
        if t.hanging[index]:
            assert t.region[index] == 64
            continue
        reached, frontier = set(), [int(p.black[0])]
        while frontier:
            legal, to = rules.black_moves(p._replace(black=np.array([frontier.pop()])))
            new = {int(s) for s in to[0][legal[0]]} - reached - {int(p.square[0])}
            reached |= new
            frontier += new
        assert t.region[index] == len(reached)


def test_draws_differ_by_seed_ply_and_stream_and_are_uniform() -> None:
    seeds, plies = np.meshgrid(np.arange(-200, 200), np.arange(50), indexing="ij")
    seeds, plies = seeds.ravel(), plies.ravel()
    both = [players.draws(seeds, plies, stream) for stream in (1, 2)]
    assert len(np.unique(np.concatenate(both))) == 2 * len(seeds)
    counts = np.bincount((both[0] % np.uint64(5)).astype(int), minlength=5)
    assert abs(counts - len(seeds) / 5).max() < 5 * np.sqrt(len(seeds) * 0.16)


def test_choose_is_uniform_over_the_allowed() -> None:
    allowed = np.tile(np.array([False, True, False, True, True, False]), (30000, 1))
    picked = players.choose(allowed, players.draws(np.arange(30000), np.zeros(30000, int), 1))
    counts = np.bincount(picked, minlength=6)
    assert counts[[0, 2, 5]].sum() == 0
    assert abs(counts[[1, 3, 4]] - 10000).max() < 5 * np.sqrt(30000 * 2 / 9)
