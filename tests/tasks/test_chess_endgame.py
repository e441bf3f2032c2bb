"""The chess task: splits, tokens, games, configuration.

Run: .venv/bin/python -m pytest tests/tasks/test_chess_endgame.py   (about 20 s on one core)
"""

from __future__ import annotations

import json
from pathlib import Path

import chess
import numpy as np
import pytest
from transformers import AutoTokenizer

from outdo.errors import UserError
from outdo.tasks.chess import measures, rules, vocabulary
from outdo.tasks.chess.games import RESULTS, Games
from outdo.tasks.chess_endgame import SPLITS, ChessEndgame
from outdo.types import Finish, Prompt, Trajectory

MATERIALS = ("KRK", "KQK", "KPK")
ENDINGS = {
    chess.Termination.CHECKMATE: "mate",
    chess.Termination.STALEMATE: "stalemate",
    chess.Termination.INSUFFICIENT_MATERIAL: "material",
    chess.Termination.FIVEFOLD_REPETITION: "repetition",
}


@pytest.fixture(scope="module", params=MATERIALS)
def task(request: pytest.FixtureRequest) -> ChessEndgame:
    return ChessEndgame(ChessEndgame.Config(material=request.param))


@pytest.fixture(scope="module")
def krk() -> ChessEndgame:
    return ChessEndgame()


def same(a: Trajectory, b: Trajectory) -> bool:
    """Equal in everything that is not a name."""
    arrays = all(np.array_equal(getattr(a, f), getattr(b, f)) for f in ("token_ids", "mask", "logprobs"))
    return arrays and a.info == b.info and a.finish == b.finish


def ids(task: ChessEndgame, text: str) -> np.ndarray:
    return np.array(task.tokenizer().encode(text, add_special_tokens=False), np.int64)


def reply(task: ChessEndgame, text: str) -> np.ndarray:
    """One reply [1, 1] out of one word."""
    return ids(task, text)[None]


def start_at(task: ChessEndgame, white: int, square: int, black: int, opponent: str = "perfect") -> Games:
    """One episode from a given position."""
    prompt = Prompt("x", np.zeros(4, np.int64), {"start": (white * 64 + square) * 64 + black})
    return task.episodes([prompt], np.array([3]), opponent)


# --- splits -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_splits_are_disjoint_under_symmetry(task: ChessEndgame) -> None:
    piece = task.tables.piece
    groups = {s: set(rules.canonical(task.pool(s), piece).tolist()) for s in SPLITS}
    for a, b in (("heldout", "validation"), ("heldout", "train"), ("validation", "train")):
        assert not groups[a] & groups[b]
    assert not groups["pretrain"] & (groups["heldout"] | groups["validation"])
    for split in SPLITS:  # whole classes: every mirror image of a start is in the same split
        assert np.isin(task.pool(split) ^ 0o070707, task.pool(split)).all()
        if piece != rules.PAWN:
            assert np.isin(task.pool(split) ^ 0o707070, task.pool(split)).all()


def test_split_sizes_and_distances(task: ChessEndgame) -> None:
    t, base = task.tables, task.tables.piece * rules.POSITIONS
    dtm = t.white_dtm[base : base + rules.POSITIONS].astype(int)
    hard = ((dtm >= task.min_plies) & (dtm <= task.cap_plies)).sum()
    assert abs(len(task.pool("heldout")) / hard - 0.15) < 0.02
    assert abs(len(task.pool("validation")) / hard - 0.10) < 0.02
    for split in ("heldout", "validation"):
        assert dtm[task.pool(split)].min() == task.min_plies
    assert dtm[task.pool("train")].min() == 1
    for split in ("heldout", "validation", "train"):
        assert dtm[task.pool(split)].max() <= 2 * task.config.max_moves - 1
    share = len(task.pool("pretrain")) / t.white_legal[base : base + rules.POSITIONS].sum()
    assert abs(share - 0.75) < 0.02


def test_pretrain_holds_every_playable_position_of_its_share() -> None:
    task = ChessEndgame(ChessEndgame.Config(material="KPK"))
    t = task.tables
    stalemated = rules.pack(np.array(chess.H8), np.array(chess.H7), np.array(chess.F8))  # White itself has no move
    assert t.white_legal[rules.PAWN * rules.POSITIONS + stalemated]
    assert not rules.white_moves(rules.unpack(np.array([stalemated]), rules.PAWN)).legal.any()
    assert stalemated not in task.pool("pretrain")
    assert (t.white_dtm[rules.PAWN * rules.POSITIONS + task.pool("pretrain")] == -1).any()  # draws are included


def test_prompt_depends_on_its_number_only(task: ChessEndgame) -> None:
    whole = task.prompts("train", 40, 7)
    late = task.prompts("train", 10, 7, start=30)
    assert [p.row for p in whole[30:]] == [p.row for p in late]
    assert [p.id for p in late] == [f"train/7/{i}" for i in range(30, 40)]
    assert [p.row for p in whole] != [p.row for p in task.prompts("train", 40, 8)]
    assert len({p.row["start"] for p in whole}) > 30
    for p in whole:
        board = chess.Board(p.row["fen"])
        assert board.is_valid()
        words = f"K{chess.square_name(board.king(True))} {task.config.material[1]}"
        assert task.tokenizer().decode(p.token_ids).startswith(f"<s> {words}")
        assert p.token_ids[0] == vocabulary.BOS
        json.dumps(p.row)


# --- tokens -----------------------------------------------------------------------------------------------------------


def test_tokenizer_round_trip(krk: ChessEndgame, tmp_path: Path) -> None:
    first = krk.tokenizer()
    first.save_pretrained(tmp_path)
    for tokenizer in (first, AutoTokenizer.from_pretrained(tmp_path)):
        text = "Kc3 Rd4 kd6 Rd8"
        assert tokenizer.encode(text, add_special_tokens=False) == [vocabulary.words().index(w) for w in text.split()]
        assert tokenizer.encode(text) == [1, *tokenizer.encode(text, add_special_tokens=False)]
        full = "<s> Ka1 Qb2 kh8 Nd8 1/2-1/2 0-1 1-0 </s> <pad>"
        assert tokenizer.decode(tokenizer.encode(full, add_special_tokens=False)) == full
        assert tokenizer.encode("Kz9", add_special_tokens=False) == [tokenizer.unk_token_id]
        special = [tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id]
        assert special == [0, 1, 2, 3]
        assert len(tokenizer) == vocabulary.SIZE == len(set(vocabulary.words()))
        results = krk.result_token_ids
        assert tokenizer.convert_ids_to_tokens([results[k] for k in ("win", "draw", "loss")]) == [
            "1-0",
            "1/2-1/2",
            "0-1",
        ]


@pytest.mark.parametrize("piece", [rules.ROOK, rules.QUEEN, rules.PAWN])
def test_moves_and_observations_become_tokens_and_back(piece: int) -> None:
    legal = np.flatnonzero(rules.is_legal(rules.unpack(np.arange(rules.POSITIONS), piece), white_to_move=True))
    p = rules.unpack(legal[::37], piece)
    moves = rules.white_moves(p)
    row, slot = np.nonzero(moves.legal)
    start, to, after = moves.start[row, slot], moves.to[row, slot], moves.piece[row, slot]
    tokens = vocabulary.move_ids(p.rows(row), start, to, after)
    valid, a, b, c = vocabulary.read_moves(tokens[:, 0], p.rows(row))
    assert valid.all() and (a == start).all() and (b == to).all() and (c == after).all()
    assert len(np.unique(row * vocabulary.SIZE + tokens[:, 0])) == len(row), "one word, one move"
    for i in range(0, len(row), len(row) // 50):
        board = chess.Board(rules.fen(*(int(x[row[i]]) for x in p)))
        move = chess.Move.from_uci(measures.uci(int(tokens[i, 0]), p.rows(row[i : i + 1])))
        word = vocabulary.words()[tokens[i, 0]]
        assert board.san(move).replace("=", "").rstrip("+#")[-2:] in (word[1:], word[1:][-1] + word[0])
        board.push(move)
        assert board.piece_at(chess.parse_square(word[1:])).symbol() == word[0]


def test_observations_become_tokens_and_back() -> None:
    for piece in range(5):
        p = rules.unpack(np.arange(rules.POSITIONS), piece)
        back = vocabulary.read_observations(vocabulary.observation_ids(p))
        assert all((x == y).all() for x, y in zip(p, back, strict=True))


# --- games ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opponent", ["perfect", "perfect_varied", "random", "runner"])
@pytest.mark.parametrize("player", ["random", "teacher", "perfect"])
def test_games_end_as_python_chess_says(task: ChessEndgame, player: str, opponent: str) -> None:
    """Replay every game; no ply may pass after python-chess calls it over, and the ending must be the same."""
    n = 60 if player != "random" else 150
    prompts = task.prompts("pretrain", n, 21)
    tokenizer = task.tokenizer()
    for prompt, game in zip(prompts, task.play(player, prompts, np.arange(n), opponent), strict=True):
        plies = task.replay(game)
        board = chess.Board(prompt.row["fen"])
        for ply in plies[1:]:
            assert board.outcome(claim_draw=False) is None
            assert ply["by"] == ("white" if board.turn else "black")
            move = chess.Move.from_uci(ply["uci"])
            assert board.is_legal(move)
            assert board.san(move) == ply["san"]
            board.push(move)
            assert board.fen() == ply["fen"]
        outcome = board.outcome(claim_draw=False)
        if game.info["result"] == "move_limit":
            assert outcome is None
            assert game.info["moves"] == task.config.max_moves
            assert board.turn == chess.BLACK
        else:
            assert ENDINGS[outcome.termination] == game.info["result"]
        closing = tokenizer.decode(game.token_ids[-1:])
        assert closing == ("1-0" if game.info["result"] == "mate" else "1/2-1/2")
        check_layout(task, prompt, game)


def check_layout(task: ChessEndgame, prompt: Prompt, game: Trajectory) -> None:
    moves = game.info["moves"]
    assert len(game.token_ids) == 2 + 4 * moves <= task.max_tokens
    own = np.zeros(len(game.token_ids), bool)
    own[4:-1:4] = True
    assert np.array_equal(game.mask, own)
    assert (game.logprobs[~own] == 0).all()
    assert np.array_equal(game.token_ids[:4], prompt.token_ids)
    assert (game.policy_version, game.finish, game.prompt_id) == (-1, Finish.DONE, prompt.id)
    assert 0 <= game.info["confinement"] <= 1
    json.dumps(dict(game.info))


@pytest.mark.slow
def test_every_ending_occurs_somewhere() -> None:
    """Otherwise the comparison with python-chess would not have seen them."""
    seen = set()
    for material in MATERIALS:
        task = ChessEndgame(ChessEndgame.Config(material=material))
        for player in ("random", "teacher"):
            games = task.play(player, task.prompts("pretrain", 150, 21), np.arange(150), "random")
            seen |= {(g.info["result"], task.replay(g)[-1]["by"]) for g in games}
    assert {result for result, _ in seen} == set(RESULTS) - {"illegal"}
    assert {("material", "white"), ("material", "black")} <= seen  # an underpromotion and a capture


def test_perfect_play_mates_in_the_tables_number_of_plies(task: ChessEndgame) -> None:
    prompts = task.prompts("train", 1500, 2)
    games = task.play("perfect", prompts, np.arange(1500), "perfect")
    for game in games:
        assert game.info["result"] == "mate"
        assert 2 * game.info["moves"] - 1 == game.info["dtm_plies"]
        assert game.info["dtm_end"] == 0
    measured = task.metrics(games)
    assert (measured["excess_moves"] == 0).all() and (measured["optimal_agreement"] == 1).all()


@pytest.mark.parametrize("opponent", ["perfect", "perfect_varied", "random", "runner"])
def test_a_game_does_not_depend_on_its_neighbours(task: ChessEndgame, opponent: str) -> None:
    prompts = task.prompts("train", 30, 4)
    seeds = np.arange(30) * 977
    together = task.play("random", prompts, seeds, opponent)
    again = task.play("random", prompts, seeds, opponent)
    alone = [task.play("random", [p], seeds[i : i + 1], opponent)[0] for i, p in enumerate(prompts)]
    assert all(same(a, b) for a, b in zip(together, again, strict=True))
    assert all(same(a, b) for a, b in zip(together, alone, strict=True))
    other = task.play("random", prompts, seeds + 1, opponent)
    assert not all(same(a, b) for a, b in zip(together, other, strict=True))


def test_stepping_in_any_order_gives_the_same_games(krk: ChessEndgame) -> None:
    prompts, seeds = krk.prompts("train", 20, 4), np.arange(20)
    games = krk.play("teacher", prompts, seeds, "perfect")
    episodes = krk.episodes(prompts, seeds, "perfect")
    rng = np.random.default_rng(0)
    at = np.full(20, 4)
    while True:
        live = np.flatnonzero(at < [len(g.token_ids) - 1 for g in games])
        if not len(live):
            break
        rows = rng.permutation(live)[: rng.integers(1, len(live) + 1)]
        replies = np.stack([games[r].token_ids[at[r] : at[r] + 1] for r in rows])
        observations, done = episodes.step(rows, replies)
        for r, seen, over in zip(rows, observations, done, strict=True):
            rest = games[r].token_ids[at[r] + 1 : at[r] + 4]
            assert np.array_equal(seen[seen >= 0], rest)
            assert over == (at[r] + 2 == len(games[r].token_ids))
            at[r] += 4
    assert [episodes.info(r) for r in range(20)] == [g.info for g in games]
    with pytest.raises(ValueError, match="already done"):
        episodes.step(np.array([0]), games[0].token_ids[None, 4:5])


@pytest.mark.parametrize(
    ("material", "square", "text"),
    [
        ("KRK", chess.D4, "Re5"),  # a rook does not move like that
        ("KRK", chess.D4, "Rd4"),  # no move at all
        ("KRK", chess.D4, "Ka3"),  # a king steps by one
        ("KRK", chess.D4, "Qd8"),  # only pawns promote
        ("KRK", chess.D4, "Qe5"),  # there is no queen
        ("KRK", chess.D4, "Pd5"),
        ("KRK", chess.D4, "kh7"),  # not White's king
        ("KRK", chess.D4, "</s>"),
        ("KRK", chess.D4, "1-0"),
        ("KQK", chess.D7, "Nd8"),
        ("KPK", chess.D7, "Pd8"),  # must name the new piece
        ("KPK", chess.D7, "Qe8"),  # captures do not exist
        ("KPK", chess.D4, "Pd6"),
        ("KPK", chess.D2, "Qd8"),
    ],
)
def test_illegal_replies_lose_at_once(material: str, square: int, text: str) -> None:
    task = ChessEndgame(ChessEndgame.Config(material=material))
    episodes = start_at(task, chess.A1, square, chess.H8 if square != chess.D8 else chess.H7)
    observations, done = episodes.step(np.array([0]), reply(task, text))
    assert done.all()
    assert observations.tolist() == [[vocabulary.LOSS, -1, -1]]
    info = episodes.info(0)
    assert (info["result"], info["moves"], info["confinement"], info["last_reply"]) == ("illegal", 0, 0.0, "")


@pytest.mark.parametrize("replies", [[[-1]], [[2]], [[0]], [[10**6]], [[-(10**6)]], [[]]])
def test_replies_that_are_no_move_lose(krk: ChessEndgame, replies: list) -> None:
    episodes = start_at(krk, chess.A1, chess.D4, chess.H8)
    _, done = episodes.step(np.array([0]), np.array(replies, np.int64).reshape(1, -1))
    assert done.all() and episodes.info(0)["result"] == "illegal"


def test_every_reply_is_judged_like_python_chess(task: ChessEndgame) -> None:
    """Every word of the vocabulary in one position: exactly the legal moves are not forfeits."""
    every = np.arange(vocabulary.SIZE)
    for prompt in task.prompts("pretrain", 40, 9):
        episodes = task.episodes([prompt] * len(every), np.zeros(len(every), np.int64))
        episodes.step(every, every[:, None])
        board = chess.Board(prompt.row["fen"])
        legal = set()
        for move in board.legal_moves:
            name = chess.piece_symbol(move.promotion or board.piece_type_at(move.from_square)).upper()
            legal.add(name + chess.square_name(move.to_square))
        assert {vocabulary.words()[w] for w in every if episodes.result[w] != RESULTS.index("illegal")} == legal


def test_move_limit_ends_before_black_answers_and_mate_comes_first() -> None:
    task = ChessEndgame(ChessEndgame.Config(max_moves=1, min_plies=1))
    assert task.max_tokens == 6
    episodes = start_at(task, chess.B6, chess.D1, chess.B8)
    observations, done = episodes.step(np.array([0]), reply(task, "Rd8"))
    assert done.all() and observations[0, 0] == vocabulary.WIN
    assert episodes.info(0) | {"confinement": 1.0, "checks": 1, "result": "mate", "moves": 1} == episodes.info(0)
    episodes = start_at(task, chess.B6, chess.D1, chess.B8)
    observations, done = episodes.step(np.array([0]), reply(task, "Rd2"))
    assert done.all() and observations[0].tolist() == [vocabulary.DRAW, -1, -1]
    assert (episodes.info(0)["result"], episodes.info(0)["last_reply"]) == ("move_limit", "")


def test_stalemate_capture_and_underpromotion() -> None:
    krk, kpk = (ChessEndgame(ChessEndgame.Config(material=m)) for m in ("KRK", "KPK"))
    cases = [
        (krk, (chess.A6, chess.B1, chess.A8), "Rb7", "stalemate"),
        (krk, (chess.A1, chess.C1, chess.D8), "Rc7", "material"),
        (kpk, (chess.A1, chess.D7, chess.H7), "Nd8", "material"),
        (kpk, (chess.A1, chess.D7, chess.H5), "Bd8", "material"),
    ]
    for task, where, text, result in cases:
        episodes = start_at(task, *where)
        observations, done = episodes.step(np.array([0]), reply(task, text))
        assert done.all() and observations[0].tolist() == [vocabulary.DRAW, -1, -1]
        assert episodes.info(0)["result"] == result


def test_promotion_goes_on_with_the_new_piece() -> None:
    task = ChessEndgame(ChessEndgame.Config(material="KPK"))
    for letter in "QR":
        episodes = start_at(task, chess.A1, chess.D7, chess.H6)
        observations, done = episodes.step(np.array([0]), reply(task, f"{letter}d8"))
        assert not done.any()
        assert vocabulary.words()[observations[0, 1]] == f"{letter}d8"
        _, done = episodes.step(np.array([0]), reply(task, f"{letter}a5"))
        assert done[0] == (letter == "R")  # a rook does not move like that


def test_fivefold_repetition_counts_the_start(krk: ChessEndgame) -> None:
    """The black king can only go to and fro in its corner, so the start stands again after every second move."""
    episodes = start_at(krk, chess.D8, chess.H7, chess.A8)
    board = chess.Board("k2K4/7R/8/8/8/8/8/8 w - - 0 1")
    for k in range(8):
        text = ("Rg7", "Rh7")[k % 2]
        board.push_san(text)
        _, done = episodes.step(np.array([0]), reply(krk, text))
        assert board.outcome(claim_draw=False) is None
        board.push_uci(episodes.info(0)["last_reply"])
        assert done[0] == (board.outcome(claim_draw=False) is not None) == (k == 7)
    assert episodes.info(0)["result"] == "repetition"


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"min_plies": 33}, ["min_plies=33", "31", "or less"]),
        ({"material": "KQK", "min_plies": 21}, ["min_plies=21", "19"]),
        ({"max_moves": 5}, ["min_plies=15", "max_moves=5", "9 or less"]),
        ({"train_min_plies": 0}, ["train_min_plies=0", "1 or more"]),
        ({"train_min_plies": 40}, ["train_min_plies=40", "31 or less"]),
    ],
)
def test_bad_configs_say_what_to_do(config: dict, words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        ChessEndgame(ChessEndgame.Config(**config))
    assert all(word in str(error.value) for word in words)
