"""Chess endgames: White has a king and a rook (or queen, or pawn) and must mate the lone black king.

The policy plays White, one move, one token, per turn. The score is as plain as it gets: mate or no mate, by the rules
of chess. Exact tables exist, so teachers, defenders and the distance to perfect play are all known.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field
from transformers import PreTrainedTokenizerBase

from outdo.errors import check
from outdo.tasks.base import Options, Task
from outdo.tasks.chess import measures, players, rules, vocabulary
from outdo.tasks.chess.games import Games
from outdo.tasks.chess.rules import POSITIONS
from outdo.tasks.chess.tables import Tables, longest_win, tables
from outdo.types import Finish, FloatArray, IntArray, Prompt, Trajectory

SPLITS = ("pretrain", "train", "validation", "heldout")
_MIN_PLIES = {"KRK": 15, "KQK": 11, "KPK": 15}
_HELDOUT, _VALIDATION = 15, 25  # upper ends, in percent of the symmetry classes
_PROMPT_STREAM = 7  # keeps prompts apart from what players draw


@dataclass(frozen=True)
class _Log:
    """Tokens of many games while a reference player plays them. Arrays [R, max_tokens]; length [R]."""

    tokens: IntArray
    mask: np.ndarray
    logprobs: FloatArray
    length: IntArray

    @staticmethod
    def empty(rows: int, width: int) -> _Log:
        return _Log(
            np.zeros((rows, width), np.int64),
            np.zeros((rows, width), bool),
            np.zeros((rows, width), np.float32),
            np.zeros(rows, np.int64),
        )

    def append(self, rows: IntArray, tokens: IntArray, logprobs: FloatArray | None = None) -> None:
        """Add [R, C] tokens (-1: nothing there) to the rows; with logprobs they count as the player's own."""
        at = self.length[rows][:, None] + np.arange(tokens.shape[1])
        there = tokens >= 0
        row = np.broadcast_to(rows[:, None], at.shape)
        self.tokens[row[there], at[there]] = tokens[there]
        if logprobs is not None:
            self.mask[row[there], at[there]] = True
            self.logprobs[row[there], at[there]] = logprobs[there]
        self.length[rows] += there.sum(1)


@functools.cache
def _classes(material: str) -> IntArray:
    """A number 0..99 per packed position, equal for all positions that the board's symmetries map onto each other."""
    piece = tables(material).piece
    smallest = rules.canonical(np.arange(POSITIONS), piece).astype(np.uint64)
    return (players.mix(smallest * np.uint64(8) + np.uint64(piece)) % np.uint64(100)).astype(np.int64)


class ChessEndgame(Task):
    """Mate the lone king. Splits never share a start position, nor its mirror images."""

    name = "chess_endgame"

    class Config(Options):
        """Options of the task. Plies are half-moves: a mate in 8 moves is 15 plies."""

        material: Literal["KRK", "KQK", "KPK"] = "KRK"
        max_moves: int = Field(default=24, ge=1, le=74)  # own moves, then it is drawn; keeps the 75-move rule out
        min_plies: int | None = None  # least distance to mate of heldout and validation starts; None: by material
        train_min_plies: int = 1  # the same for training starts
        train_starts: Literal["balanced", "uniform"] = "uniform"  # every position as often, or every distance to mate

    turn_tokens = 1
    opponents = ("perfect", "perfect_varied", "random", "runner")
    players = ("random", "teacher", "perfect")
    headline = "win"
    judge = "outcome"
    result_token_ids: ClassVar[Mapping[str, int]] = measures.result_token_ids()

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or self.Config()
        c = self.config
        self.min_plies = _MIN_PLIES[c.material] if c.min_plies is None else c.min_plies
        self.max_tokens = 1 + 4 * c.max_moves + 1
        longest, reach = longest_win(c.material), 2 * c.max_moves - 1
        self.cap_plies = min(longest, reach)
        for name, value in (("min_plies", self.min_plies), ("train_min_plies", c.train_min_plies)):
            limit = f"the longest {c.material} win is {longest} plies and max_moves={c.max_moves} reaches {reach}"
            low = "the side to move needs at least 1 ply to mate"
            check(value >= 1, f"{name}={value} is too small: {low}; set it to 1 or more")
            most = f"set it to {self.cap_plies} or less"
            check(value <= self.cap_plies, f"{name}={value} leaves no starts: {limit}; {most}")
        self._pools: dict[str, IntArray] = {}

    @property
    def tables(self) -> Tables:
        """Exact knowledge about the material, built once per process."""
        return tables(self.config.material)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Word-level, one vocabulary for all materials."""
        return vocabulary.build_tokenizer()

    def pool(self, split: str) -> IntArray:
        """Packed start positions of a split, ascending."""
        check(split in SPLITS, f"split {split!r} is unknown; chess_endgame has {', '.join(SPLITS)}; use one of these")
        if split not in self._pools:
            t = self.tables
            here = slice(t.piece * POSITIONS, (t.piece + 1) * POSITIONS)
            dtm, group = t.white_dtm[here].astype(np.int64), _classes(t.material)
            if split == "pretrain":
                chosen = self._movable() & (group >= _VALIDATION)
            else:
                least = self.config.train_min_plies if split == "train" else self.min_plies
                chosen = (dtm >= least) & (dtm <= self.cap_plies)
                chosen &= {
                    "train": group >= _VALIDATION,
                    "validation": (group >= _HELDOUT) & (group < _VALIDATION),
                    "heldout": group < _HELDOUT,
                }[split]
            self._pools[split] = np.flatnonzero(chosen)
        remedy = "lower min_plies or train_min_plies, or raise max_moves"
        check(len(self._pools[split]) > 0, f"split {split!r} has no starts with this config; {remedy}")
        return self._pools[split]

    def _movable(self) -> np.ndarray:
        """Legal positions in which White has a move. [POSITIONS] bool"""
        t = self.tables
        out = t.white_legal[t.piece * POSITIONS : (t.piece + 1) * POSITIONS].copy()
        legal = np.flatnonzero(out)
        for part in np.array_split(legal, 8):
            out[part] = rules.white_moves(rules.unpack(part, t.piece), t.slots).legal.any(1)
        return out

    def prompts(self, split: str, n: int, seed: int, start: int = 0) -> list[Prompt]:
        """See `Task.prompts`: uniform draws from the split's start positions; the i-th depends on (split, seed, i)."""
        pool = self.pool(split)
        numbers = np.arange(start, start + n)
        stream = _PROMPT_STREAM + SPLITS.index(split)
        drawn = players.draws(np.full(n, seed), numbers, stream)
        starts = self._pick(pool, drawn, balanced=split == "train" and self.config.train_starts == "balanced")
        p = rules.unpack(starts, self.tables.piece)
        tokens = np.concatenate([np.full((n, 1), vocabulary.BOS), vocabulary.observation_ids(p)], axis=1)
        dtm = self.tables.white_dtm[rules.key(p)]
        out = []
        for i in range(n):
            fen = rules.fen(*(int(x[i]) for x in p))
            row = {"fen": fen, "start": int(starts[i]), "dtm_plies": int(dtm[i])}
            out.append(Prompt(f"{split}/{seed}/{numbers[i]}", tokens[i], row))
        return out

    def _pick(self, pool: IntArray, drawn: np.ndarray, balanced: bool) -> IntArray:
        """Start positions [n] for random 64-bit numbers [n]: uniform over the pool, or over its distances to mate first.

        Most positions are far from mate; balanced starts let a beginner win some games, and cost little once it can.
        """
        if not balanced:
            return pool[(drawn % np.uint64(len(pool))).astype(np.int64)]
        dtm = self.tables.white_dtm[self.tables.piece * POSITIONS + pool]
        order = np.argsort(dtm, kind="stable")
        _, first, count = np.unique(dtm[order], return_index=True, return_counts=True)
        level = (drawn % np.uint64(len(first))).astype(np.int64)
        within = (drawn // np.uint64(len(first)) % count[level].astype(np.uint64)).astype(np.int64)
        starts: IntArray = pool[order[first[level] + within]]
        return starts

    def episodes(self, prompts: Sequence[Prompt], seeds_R: IntArray, opponent: str | None = None) -> Games:
        """See `Task.episodes`. Opponents: perfect (default), perfect_varied, random, runner."""
        starts = np.array([p.row["start"] for p in prompts], np.int64)
        return Games(self.tables, starts, seeds_R, opponent or self.opponents[0], self.config.max_moves)

    def play(
        self, player: str, prompts: Sequence[Prompt], seeds_R: IntArray, opponent: str | None = None, random_moves: float = 0.0
    ) -> list[Trajectory]:
        """See `Task.play`. Players: random, teacher (fixed and flawed), perfect. Log-probabilities are the player's."""
        move = players.sometimes_random(players.named(players.WHITE, player), random_moves)
        games = self.episodes(prompts, seeds_R, opponent)
        seeds = np.asarray(seeds_R, np.int64)
        log = _Log.empty(len(prompts), self.max_tokens)
        rows = np.arange(len(prompts))
        log.append(rows, np.stack([p.token_ids for p in prompts]) if prompts else np.zeros((0, 4), np.int64))
        while len(rows):
            p = games.position.rows(rows)
            moves = rules.white_moves(p, self.tables.slots)
            random = players.draws(seeds[rows], games.moves[rows], players.WHITE_STREAM)
            slot, logprobs = move(self.tables, p, moves, random)
            at = (np.arange(len(rows)), slot)
            reply = vocabulary.move_ids(p, moves.start[at], moves.to[at], moves.piece[at])
            log.append(rows, reply, logprobs)
            observations, done = games.step(rows, reply)
            log.append(rows, observations)
            rows = rows[~done]
        return [self._trajectory(prompt, log, games, i) for i, prompt in enumerate(prompts)]

    @staticmethod
    def _trajectory(prompt: Prompt, log: _Log, games: Games, row: int) -> Trajectory:
        """Cut one game out of the log."""
        end = int(log.length[row])
        tokens, mask, logprobs = log.tokens[row, :end].copy(), log.mask[row, :end].copy(), log.logprobs[row, :end].copy()
        return Trajectory(prompt.id, 0, tokens, mask, logprobs, -1, Finish.DONE, games.info(row))

    def player_flops(self, player: str) -> float:
        """See `Task.player_flops`: a one-ply search looks at up to 22 moves and 8 replies each, about 10 operations a reply."""
        return 22 * (8 * 10 + 20) if player == "teacher" else 0.0

    def metrics(self, trajectories: Sequence[Trajectory]) -> Mapping[str, np.ndarray]:
        """Per game: win, stalemate, material, repetition, illegal, move_limit (0 or 1); moves; and NaN where undefined:

        excess_moves (own moves beyond the optimum, wins only), teacher_agreement (share of legal own moves that are the
        teacher's), optimal_agreement (share of own moves from won positions that keep the distance to mate optimal).
        """
        return measures.measure(self.tables, trajectories)

    def points(self, trajectories: Sequence[Trajectory]) -> np.ndarray:
        """See `Task.points`: mate 1, an illegal move 0, everything else is a draw."""
        return measures.points(trajectories)

    def replay(self, trajectory: Trajectory) -> list[dict[str, Any]]:
        """For reports: {"fen"} of the start, then {"uci", "san", "fen" (after), "by"} per ply.

        An illegal last move is {"uci": what was written, "illegal": True, "by": "white", "fen": unchanged}.
        """
        return measures.replay(trajectory)

    def judge_pairs(self, trajectories: Sequence[Trajectory], n: int, seed: int) -> list[tuple[IntArray, IntArray]]:
        """Pairs of token prefixes that end right after White's k-th move: the first one mates, the other does not.

        They come from different games with the same k, so a model must look at the board and cannot tell by length.
        """
        return measures.judge_pairs(trajectories, n, seed)
