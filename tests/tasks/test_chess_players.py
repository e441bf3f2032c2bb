"""The chess task's reference players, and what is measured on finished games.

Run: .venv/bin/python -m pytest tests/tasks/test_chess_players.py   (about 15 s on one core)
"""

from __future__ import annotations

import time

import chess
import numpy as np
import pytest

from outdo.errors import UserError
from outdo.tasks.chess import measures, rules, vocabulary
from outdo.tasks.chess.games import RESULTS
from outdo.tasks.chess_endgame import ChessEndgame
from outdo.types import Finish, Trajectory

MATERIALS = ("KRK", "KQK", "KPK")


@pytest.fixture(scope="module", params=MATERIALS)
def task(request: pytest.FixtureRequest) -> ChessEndgame:
    return ChessEndgame(ChessEndgame.Config(material=request.param))


@pytest.fixture(scope="module")
def krk() -> ChessEndgame:
    return ChessEndgame()


def ids(task: ChessEndgame, text: str) -> np.ndarray:
    return np.array(task.tokenizer().encode(text, add_special_tokens=False), np.int64)


def reply(task: ChessEndgame, text: str) -> np.ndarray:
    """One reply [1, 1] out of one word."""
    return ids(task, text)[None]


# --- players ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("opponent", ["perfect", "perfect_varied"])
def test_perfect_defenders_delay_longest_and_take_draws(task: ChessEndgame, opponent: str) -> None:
    """Every answer, also to blunders: a capture if there is one, else a drawn position, else the longest defence."""
    games = task.play("random", task.prompts("pretrain", 200, 3), np.arange(200), opponent)
    kinds = set()
    replies: dict[str, set[str]] = {}
    for game in games:
        plies = task.replay(game)
        for before, after in zip(plies[1:-1:2], plies[2::2], strict=False):
            board = chess.Board(before["fen"])
            takes = [m.uci() for m in board.legal_moves if board.is_capture(m)]
            values = {}
            for move in board.legal_moves:
                board.push(move)
                values[move.uci()] = distance(task, board.fen())
                board.pop()
            if takes:
                assert after["uci"] in takes
            elif min(values.values()) < 0:
                assert values[after["uci"]] < 0
            else:
                assert values[after["uci"]] == max(values.values())
            replies.setdefault(" ".join(before["fen"].split()[:2]), set()).add(after["uci"])
            kinds.add("take" if takes else "draw" if min(values.values()) < 0 else "delay")
    assert kinds >= ({"take", "draw", "delay"} if task.config.material == "KPK" else {"take", "delay"})
    if opponent == "perfect":
        assert max(map(len, replies.values())) == 1


def test_only_the_varied_defender_varies(task: ChessEndgame) -> None:
    prompts = task.prompts("heldout", 20, 3)
    for opponent, varies in (("perfect", False), ("perfect_varied", True)):
        games = [task.play("perfect", prompts, np.arange(20) + 1000 * k, opponent) for k in range(3)]
        lines = [{g[i].token_ids.tobytes() for g in games} for i in range(20)]
        assert any(len(line) > 1 for line in lines) == varies


def test_random_player_knows_its_probabilities(task: ChessEndgame) -> None:
    prompt = task.prompts("pretrain", 1, 5)[0]
    n = 6000
    games = task.play("random", [prompt] * n, np.arange(n), "perfect")
    board = chess.Board(prompt.row["fen"])
    legal = board.legal_moves.count()
    counts: dict[int, int] = {}
    for game in games:
        move = int(game.token_ids[4])
        counts[move] = counts.get(move, 0) + 1
        assert game.logprobs[4] == pytest.approx(-np.log(legal), abs=1e-5)
    assert len(counts) == legal
    expected = n / legal
    assert max(abs(c - expected) for c in counts.values()) < 5 * np.sqrt(expected)


def test_some_of_a_players_moves_are_random(krk: ChessEndgame) -> None:
    """As many as asked for, any legal one alike, at the log-probability of the mixture; the other moves stay the player's."""
    n, share = 600, 0.3
    prompts, seeds = krk.prompts("train", n, 5), np.arange(n)
    games = krk.play("teacher", prompts, seeds, "perfect", share)
    pure = krk.play("teacher", prompts, seeds, "perfect")
    others, expected = 0, 0.0
    for game, prompt, teachers in zip(games, prompts, pure, strict=True):
        board, own = chess.Board(prompt.row["fen"]), int(teachers.token_ids[4])
        legal, first = board.legal_moves.count(), int(game.token_ids[4])
        want = share / legal + (1 - share) * (first == own)
        assert game.logprobs[4] == pytest.approx(np.log(want), abs=1e-5)
        others += first != own
        expected += share * (legal - 1) / legal
    assert abs(others - expected) < 4 * np.sqrt(expected), "the share that is not the teacher's"
    measured = krk.metrics(games)
    agreement = np.average(measured["teacher_agreement"], weights=measured["moves"])
    assert 1 - share < agreement < 1 - 0.8 * share, "in the whole game as in its first move"
    again = krk.play("teacher", prompts[:9], seeds[:9], "perfect", share)
    assert all((a.token_ids == g.token_ids).all() for a, g in zip(again, games, strict=False)), "the same alone as beside others"


def test_teacher_is_deterministic_useful_and_flawed(krk: ChessEndgame) -> None:
    prompts = krk.prompts("heldout", 800, 3)
    games = krk.play("teacher", prompts, np.arange(800), "perfect")
    moves: dict[tuple, tuple] = {}
    for game in games:
        assert (game.logprobs == 0).all()
        for k in range(game.info["moves"]):
            board, move = (tuple(game.token_ids[a : a + n].tolist()) for a, n in ((1 + 4 * k, 3), (4 + 4 * k, 1)))
            assert moves.setdefault(board, move) == move
    wins = krk.metrics(games)["win"].mean()
    assert 0.15 <= wins <= 0.35
    assert 0.65 <= krk.metrics(krk.play("teacher", prompts, np.arange(800), "random"))["win"].mean() <= 0.80
    results = {g.info["result"] for g in games}
    assert not results & {"stalemate", "material", "illegal"}


def test_unknown_names_are_user_errors(krk: ChessEndgame) -> None:
    prompts = krk.prompts("train", 1, 0)
    with pytest.raises(UserError, match=r"'wizard' is unknown.*teacher"):
        krk.play("wizard", prompts, np.arange(1))
    with pytest.raises(UserError, match=r"'nobody' is unknown.*runner"):
        krk.episodes(prompts, np.arange(1), "nobody")
    with pytest.raises(UserError, match=r"'test' is unknown.*heldout"):
        krk.prompts("test", 1, 0)


# --- measurements -----------------------------------------------------------------------------------------------------


def test_metrics_agree_with_python_chess(task: ChessEndgame) -> None:
    prompts = task.prompts("train", 80, 6)
    games = task.play("random", prompts, np.arange(80), "random")
    measured = task.metrics(games)
    assert all(v.shape == (80,) and v.dtype == np.float64 for v in measured.values())
    assert (sum(measured["win" if r == "mate" else r] for r in RESULTS) == 1).all()
    for i, game in enumerate(games):
        plies = task.replay(game)
        white = [p for p in plies[1:] if p["by"] == "white"]
        assert measured["moves"][i] == len(white)
        assert game.info["checks"] == sum(p["san"][-1] in "+#" for p in white)
        starts = [plies[0], *[p for p in plies[1:] if p["by"] == "black"]]
        best = []
        for before, after in zip(starts, white, strict=False):
            a, b = distance(task, before["fen"]), distance(task, after["fen"])
            best += [b == a - 1] if a > 0 else []
        assert measured["optimal_agreement"][i] == pytest.approx(np.mean(best))
    assert (task.metrics(task.play("teacher", prompts, np.arange(80), "random"))["teacher_agreement"] == 1).all()
    assert 0.01 < np.nanmean(measured["teacher_agreement"]) < 0.5


def distance(task: ChessEndgame, fen: str) -> int:
    """The table's distance to mate of a FEN; -1 for draws."""
    board = chess.Board(fen)
    if board.is_insufficient_material():
        return -1
    (square,) = chess.SquareSet(board.occupied & ~board.kings)
    piece = rules.PIECES.index(board.piece_at(square).symbol())
    at = piece * rules.POSITIONS + (board.king(True) * 64 + square) * 64 + board.king(False)
    return int((task.tables.white_dtm if board.turn else task.tables.black_dtm)[at])


def test_metrics_of_illegal_broken_and_no_games(krk: ChessEndgame) -> None:
    prompt = krk.prompts("heldout", 1, 1)[0]
    episodes = krk.episodes([prompt], np.array([1]))
    observations, _ = episodes.step(np.array([0]), reply(krk, "Qd4"))
    tokens = np.concatenate([prompt.token_ids, reply(krk, "Qd4")[0], observations[0, :1]])
    mask = np.array([0, 0, 0, 0, 1, 0], bool)
    game = Trajectory(prompt.id, 0, tokens, mask, np.zeros(6, np.float32), 0, Finish.DONE, episodes.info(0))
    broken = Trajectory(prompt.id, 0, tokens[:4], mask[:4], np.zeros(4, np.float32), 0, Finish.ERROR, {})
    measured = krk.metrics([game, broken])
    assert (measured["win"][0], measured["illegal"][0], measured["moves"][0]) == (0, 1, 0)
    assert np.isnan([measured[k][0] for k in ("excess_moves", "teacher_agreement", "optimal_agreement")]).all()
    assert all(np.isnan(v[1]) for v in measured.values())
    assert all(len(v) == 0 for v in krk.metrics([]).values())
    last = krk.replay(game)[-1]
    assert (last["uci"], last["illegal"], last["fen"]) == ("Qd4", True, prompt.row["fen"])


def test_replay_shows_blacks_move_before_an_illegal_one(krk: ChessEndgame) -> None:
    prompt = krk.prompts("heldout", 1, 1)[0]
    good = krk.play("perfect", [prompt], np.array([1]))[0]
    episodes = krk.episodes([prompt], np.array([1]))
    episodes.step(np.array([0]), good.token_ids[None, 4:5])
    closing, _ = episodes.step(np.array([0]), np.array([[9]]))
    tokens = np.concatenate([good.token_ids[:8], [9], closing[0, :1]])
    zeros = np.zeros(len(tokens), np.float32)
    game = Trajectory(prompt.id, 0, tokens, zeros > 0, zeros, 0, Finish.DONE, episodes.info(0))
    plies = krk.replay(game)
    assert [p["uci"] for p in plies[1:3]] == [p["uci"] for p in krk.replay(good)[1:3]]
    assert (len(plies), plies[3]["uci"], plies[3]["illegal"]) == (4, vocabulary.words()[9], True)


def test_judge_pairs_end_after_the_same_move(krk: ChessEndgame) -> None:
    games = krk.play("teacher", krk.prompts("train", 300, 1), np.arange(300), "random")
    pairs = krk.judge_pairs(games, 50, seed=4)
    assert len(pairs) == 50
    again = krk.judge_pairs(games, 50, seed=4)
    assert all(np.array_equal(x, y) for p, q in zip(pairs, again, strict=True) for x, y in zip(p, q, strict=True))
    for won, other in pairs:
        assert len(won) == len(other) and len(won) % 4 == 1
        for tokens, mates in ((won, True), (other, False)):
            p = vocabulary.read_observations(tokens[None, -4:-1])
            board = chess.Board(rules.fen(*(int(x[0]) for x in p)))
            board.push_uci(measures.uci(int(tokens[-1]), p))
            assert board.is_checkmate() == mates


def test_512_games_are_fast(krk: ChessEndgame) -> None:
    """24 turns of 512 games, environment only; the limit leaves room for a busy machine."""
    prompts = krk.prompts("heldout", 512, 0)
    games = krk.play("teacher", prompts, np.arange(512))
    best = np.inf
    for _ in range(3):
        episodes = krk.episodes(prompts, np.arange(512))
        began, rows, k = time.perf_counter(), np.arange(512), 0
        while len(rows):
            replies = np.stack([games[r].token_ids[4 + 4 * k : 5 + 4 * k] for r in rows])
            rows, k = rows[~episodes.step(rows, replies)[1]], k + 1
        best = min(best, time.perf_counter() - began)
    assert best < 0.25
