"""Play against a checkpoint: you are Black and defend, the model has White and must mate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import chess
import numpy as np
from rich.console import Console
from rich.text import Text

from outdo.errors import UserError, check
from outdo.rollout.engine import Engine, Sampling
from outdo.runs.reopen import Opened
from outdo.tasks.chess import rules, vocabulary
from outdo.tasks.chess_endgame import ChessEndgame
from outdo.types import IntArray, Prompt

Ask = Callable[[str], str]  # shows a question, returns the answer; raises EOFError when nobody answers any more
_LIGHT, _DARK, _LAST = "#c9b79c", "#8f7a5c", "#7f9a5f"
_RESULTS = {"1-0": "White won", "0-1": "Black won", "1/2-1/2": "draw"}
HELP = "a move (Kd5 or d4d5), ? for the legal moves, quit to leave"


@dataclass
class Table:
    """One game in progress."""

    engine: Engine
    task: ChessEndgame
    board: chess.Board
    temperature: float
    seed: int
    tokens: IntArray  # [T] the game as the model sees it, the current observation last


def start_board(task: ChessEndgame, fen: str | None, seed: int) -> chess.Board:
    """The position to play from: the reader's, or a held-out one. Raises UserError."""
    if fen is None:
        return chess.Board(str(task.prompts("heldout", 1, seed)[0].row["fen"]))
    try:
        board = chess.Board(fen)
    except ValueError as e:
        raise UserError(f"--fen {fen!r} is no position ({e}); for example '8/8/8/4k3/8/8/8/K6R w - - 0 1'") from None
    material, wanted = _material(board), task.config.material
    check(material == wanted, f"--fen {fen!r} has the pieces {material} and the model was trained on {wanted}; "
                              "White has the king and one piece, Black only the king")
    check(board.turn == chess.WHITE, f"--fen {fen!r} has Black to move; the model is White and moves first")
    check(board.is_valid(), f"--fen {fen!r} cannot stand on a board; mind the kings' distance and who is in check")
    check(any(board.legal_moves), f"--fen {fen!r}: the game is over before it begins")
    return board


def _material(board: chess.Board) -> str:
    """Like KRK: White's pieces, then Black's."""
    sides = [sorted((p.symbol().upper() for p in board.piece_map().values() if p.color == c), key="KQRBNP".index)
             for c in (chess.WHITE, chess.BLACK)]
    return "".join(sides[0] + sides[1])


def game(opened: Opened, fen: str | None, temperature: float, seed: int, console: Console, ask: Ask) -> str | None:
    """Play one game. Returns its result ("1-0", ...), None if the reader left. Raises UserError."""
    task = opened.task
    if not isinstance(task, ChessEndgame):
        raise UserError(f"the checkpoint was made for task {task.name!r}; only chess_endgame can be played")
    check(temperature >= 0, f"--temperature {temperature} is negative; 0 is greedy, 1 samples as in training")
    board = start_board(task, fen, seed)
    t = Table(opened.engine, task, board, temperature, seed, np.array([vocabulary.BOS], np.int64))
    console.print(f"White is {opened.folder}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"You are Black. To draw, survive {task.config.max_moves} moves of White's or take its piece. "
                  f"Type {HELP}.", markup=False, highlight=False)
    while True:
        _show(t, console)
        written = _white(t)
        move = _legal(board, written)
        if move is None:
            console.print(f"White writes {written!r}, which is no legal move: [bold]you win[/].")
            return "0-1"
        san = board.san(move)
        board.push(move)
        console.print(f"White plays [bold]{san}[/]")
        result = _over(t, console)
        if result is None:
            _show(t, console)
            reply = _black(t, console, ask)
            if reply is None:
                console.print("Game left.")
                return None
            board.push(reply)
            result = _over(t, console)
        if result is not None:
            return result


def _white(t: Table) -> str:
    """Let the model write its move: one word."""
    pieces = {(p.piece_type, p.color): square for square, p in t.board.piece_map().items()}
    (kind, square), = [(k[0], s) for k, s in pieces.items() if k[1] and k[0] != chess.KING]
    code = rules.PIECES.index(chess.piece_symbol(kind).upper())
    facts = (code, pieces[chess.KING, chess.WHITE], square, pieces[chess.KING, chess.BLACK])
    observation = vocabulary.observation_ids(rules.Position(*(np.array([x], np.int64) for x in facts)))[0]
    t.tokens = np.concatenate([t.tokens, observation])
    prompt = Prompt(f"play/{t.seed}/{t.board.fullmove_number}", t.tokens)
    sampling = Sampling(t.temperature, t.task.turn_tokens, t.task.max_tokens)
    (trajectory,), _ = t.engine.generate([prompt], 1, sampling, t.seed)
    t.tokens = trajectory.token_ids
    return vocabulary.text(t.tokens[-t.task.turn_tokens :])


def _legal(board: chess.Board, written: str) -> chess.Move | None:
    """The move that the word means, None if it means no legal one."""
    for move in board.legal_moves:
        piece = move.promotion or board.piece_type_at(move.from_square)
        if piece and written == chess.piece_symbol(piece).upper() + chess.square_name(move.to_square):
            return move
    return None


def _black(t: Table, console: Console, ask: Ask) -> chess.Move | None:
    """Ask until the answer is a legal move; None to leave."""
    while True:
        try:
            answer = ask("your move> ").strip()
        except (EOFError, KeyboardInterrupt):
            console.print()
            return None
        if answer.lower() in ("quit", "exit", "q"):
            return None
        if answer in ("?", ""):
            console.print("legal: " + ", ".join(t.board.san(m) for m in t.board.legal_moves), highlight=False)
            continue
        for read in (t.board.parse_san, t.board.parse_uci):
            try:
                return read(answer)
            except ValueError:
                continue
        console.print(f"{answer!r} is not a legal move here; type {HELP}", markup=False, highlight=False)


def _over(t: Table, console: Console) -> str | None:
    """The result if the game has ended by the task's rules, said aloud."""
    outcome = t.board.outcome()
    moves = sum(1 for i in range(len(t.board.move_stack)) if i % 2 == 0)
    if outcome is not None:
        result, why = outcome.result(), outcome.termination.name.lower().replace("_", " ")
    elif moves >= t.task.config.max_moves:
        result, why = "1/2-1/2", f"White has had its {moves} moves"
    else:
        return None
    _show(t, console)
    tail = "" if result != "1-0" else f" in {moves} moves"
    console.print(f"[bold]{_RESULTS[result]}[/]{tail} ({why}).", highlight=False)
    return result


def _show(t: Table, console: Console) -> None:
    """The board, White at the bottom."""
    last = t.board.peek() if t.board.move_stack else None
    unicode = console.encoding.lower().startswith("utf")
    lines = Text("\n")
    for rank in range(7, -1, -1):
        lines.append(f" {rank + 1} ", style="dim")
        for file in range(8):
            square = chess.square(file, rank)
            piece = t.board.piece_at(square)
            symbol = "." if not console.color_system else " "
            if piece is not None:
                symbol = piece.unicode_symbol(invert_color=False) if unicode else piece.symbol()
            marked = last is not None and square in (last.from_square, last.to_square)
            colour = _LAST if marked else _LIGHT if (file + rank) % 2 else _DARK
            lines.append(f" {symbol} ", style=f"black on {colour}")
        lines.append("\n")
    lines.append("    " + "  ".join("abcdefgh") + "\n", style="dim")
    console.print(lines)
