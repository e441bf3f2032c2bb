"""Many endgames played together: the `Episodes` of the chess task. One numpy array per fact, no loop over games."""

from __future__ import annotations

from typing import Any

import numpy as np

from outdo.tasks.chess import players, rules, vocabulary
from outdo.tasks.chess.rules import PAWN, Position
from outdo.tasks.chess.tables import Tables
from outdo.types import BoolArray, IntArray

RESULTS = ("mate", "stalemate", "material", "repetition", "illegal", "move_limit")
_MATE, _STALEMATE, _MATERIAL, _REPETITION, _ILLEGAL, _LIMIT = range(6)
_CLOSING = np.array([vocabulary.WIN] + [vocabulary.DRAW] * 3 + [vocabulary.LOSS, vocabulary.DRAW])
_RUNNING = -1
_REGION = 64.0  # squares: what `confinement` is measured against


class Games:
    """White is the policy, Black a defender from `players.BLACK`. Implements `outdo.tasks.base.Episodes`.

    Order of endings after every ply, as in python-chess's `outcome`: mate, material, stalemate, fivefold repetition.
    White's last permitted move ends the game as "move_limit" before Black answers.
    """

    def __init__(self, tables: Tables, starts_R: IntArray, seeds_R: IntArray, opponent: str, max_moves: int) -> None:
        """starts_R: packed start positions of the material, White to move. seeds_R: what Black draws from."""
        self._tables, self._opponent, self._max_moves = tables, opponent, max_moves
        self._defend = players.named(players.BLACK, opponent)
        n = len(starts_R)
        self._starts, self._seeds = np.asarray(starts_R, np.int64), np.asarray(seeds_R, np.int64)
        self._start_dtm = tables.white_dtm[tables.piece * rules.POSITIONS + self._starts].astype(np.int64)
        self.position = rules.unpack(self._starts, tables.piece)
        self.moves = np.zeros(n, np.int64)  # own moves played so far
        self.result = np.full(n, _RUNNING)
        self._checks = np.zeros(n, np.int64)
        self._region = np.zeros(n, np.int64)  # summed over own moves
        self._dtm_end = np.full(n, -1)
        self._reply = np.full(n, -1)  # 64 * from + to of Black's last move
        self._plies = np.full((n, 2 * max_moves), -1)  # see _uci: every legal move, White's and Black's in turn
        self._seen = np.full((n, 2 * max_moves + 1), -1, np.int64)  # keys of all positions so far, for repetition
        self._seen[:, 0] = self._key(self.position, black=False)

    @staticmethod
    def _key(p: Position, black: bool) -> IntArray:
        return rules.key(p) * 2 + black

    def _repeated(self, rows: IntArray, plies: IntArray, black: bool) -> BoolArray:
        """Write the current positions down and say which now stand for the fifth time."""
        now = self._key(self.position.rows(rows), black)
        self._seen[rows, plies] = now
        often: BoolArray = (self._seen[rows] == now[:, None]).sum(1) >= 5
        return often

    def _put(self, rows: IntArray, p: Position) -> None:
        for field, value in zip(self.position, p, strict=True):
            field[rows] = value

    def step(self, rows_R: IntArray, replies_RN: IntArray) -> tuple[IntArray, BoolArray]:
        """See `Episodes.step`: play White's replies and Black's answers. Returns ([R, 3], [R])."""
        rows = np.asarray(rows_R, np.int64)
        replies = np.asarray(replies_RN, np.int64)
        words = replies[:, 0] if replies.shape[1] else np.full(len(rows), -1)
        if (self.result[rows] != _RUNNING).any():
            raise ValueError("step was called for an episode that is already done")
        self._white(rows, words)
        self._black(rows[self.result[rows] == _RUNNING])
        done = self.result[rows] != _RUNNING
        observations = vocabulary.observation_ids(self.position.rows(rows))
        observations[done] = -1
        observations[done, 0] = _CLOSING[self.result[rows[done]]]
        return observations, done

    def _white(self, rows: IntArray, words: IntArray) -> None:
        """Play White's move in each row, or end the game as illegal."""
        p = self.position.rows(rows)
        moves = rules.white_moves(p, self._tables.slots)
        valid, start, to, piece = vocabulary.read_moves(words, p)
        same = (moves.start == start[:, None]) & (moves.to == to[:, None]) & (moves.piece == piece[:, None])
        match = moves.legal & same
        legal = valid & match.any(1)
        self.result[rows[~legal]] = _ILLEGAL
        rows, p, slot = rows[legal], p.rows(legal), np.argmax(match, 1)[legal]
        new = rules.after_white(p, start[legal], to[legal], moves.piece[legal][np.arange(len(slot)), slot])
        self._put(rows, new)
        placed = np.where(new.piece != p.piece, new.piece + 1, 0)  # what a pawn became
        self._plies[rows, 2 * self.moves[rows]] = (placed * 64 + start[legal]) * 64 + to[legal]
        self.moves[rows] += 1
        at = rules.key(new)
        checks = rules.in_check(new)
        self._checks[rows] += checks
        self._region[rows] += self._tables.region[at]
        self._dtm_end[rows] = self._tables.black_dtm[at]
        material = new.piece > PAWN
        stuck = ~material & (self._tables.mobility[at] == 0)
        repeated = self._repeated(rows, 2 * self.moves[rows] - 1, black=True)
        conditions = [stuck & checks, material, stuck, repeated, self.moves[rows] >= self._max_moves]
        self.result[rows] = np.select(conditions, [_MATE, _MATERIAL, _STALEMATE, _REPETITION, _LIMIT], _RUNNING)

    def _black(self, rows: IntArray) -> None:
        """Let the defender answer in each row."""
        p = self.position.rows(rows)
        random = players.draws(self._seeds[rows], self.moves[rows], players.BLACK_STREAM)
        step = self._defend(self._tables, p, random)
        to = rules.KING_MOVES[p.black, step].astype(np.int64)
        self._reply[rows] = p.black * 64 + to
        self._plies[rows, 2 * self.moves[rows] - 1] = p.black * 64 + to
        new = p._replace(black=to)
        self._put(rows, new)
        material = to == p.square
        stuck = ~rules.white_moves(new, self._tables.slots).legal.any(1)
        repeated = self._repeated(rows, 2 * self.moves[rows], black=False)
        dtm = np.where(material, -1, self._tables.white_dtm[rules.key(new)])
        self._dtm_end[rows] = dtm
        self.result[rows] = np.select([material, stuck, repeated], [_MATERIAL, _STALEMATE, _REPETITION], _RUNNING)

    def info(self, row: int) -> dict[str, Any]:
        """Facts about a finished game.

        fen: the start. uci: all legal moves of the game, White's first. moves: legal own moves played.
        checks: own moves that gave check. dtm_plies, dtm_end: plies to mate at the start
        and at the end (side to move), -1 where White cannot force it. last_reply: Black's last move, "" if none.
        confinement: mean over own moves of 1 - region/64 after the move, in [0, 1]; region is the number of squares
        that the black king could walk to if White stood still, 64 where it can take the piece at once. 0.0 without
        moves. Note that stalemate confines completely, too.
        """
        code, moves, reply = int(self.result[row]), int(self.moves[row]), int(self._reply[row])
        return {
            "result": RESULTS[code] if code >= 0 else "unfinished",
            "moves": moves,
            "start": int(self._starts[row]),
            "fen": rules.fen(*(int(x[0]) for x in rules.unpack(self._starts[row : row + 1], self._tables.piece))),
            "uci": [_uci(code) for code in self._plies[row].tolist() if code >= 0],
            "dtm_plies": int(self._start_dtm[row]),
            "dtm_end": int(self._dtm_end[row]) if moves else int(self._start_dtm[row]),
            "material": self._tables.material,
            "opponent": self._opponent,
            "checks": int(self._checks[row]),
            "confinement": 1.0 - int(self._region[row]) / (_REGION * moves) if moves else 0.0,
            "last_reply": rules.square_name(reply // 64) + rules.square_name(reply % 64) if reply >= 0 else "",
        }


def _uci(code: int) -> str:
    """A move in long algebraic notation, of (promoted piece + 1, or 0) * 4096 + from * 64 + to."""
    placed, squares = divmod(code, 4096)
    became = rules.PIECES[placed - 1].lower() if placed else ""
    return rules.square_name(squares // 64) + rules.square_name(squares % 64) + became
