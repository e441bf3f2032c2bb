"""Words of the chess tasks and their ids: the same for every material.

A word is a piece on a square. An observation is three of them (`Kc3 Rd4 kd6`: White's king, its piece, Black's king), a
move is one: where the moved piece will stand (`Rd8`, `Kd4`, promotions `Qd8`), which with one piece beside the king says
everything. A result is one word. Ids are laid out in blocks, so that arrays of squares become arrays of ids by addition.
"""

from __future__ import annotations

import functools

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from outdo.tasks.chess import rules
from outdo.tasks.chess.rules import PIECES, Position
from outdo.types import BoolArray, IntArray

PAD, BOS, EOS, UNK = range(4)
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
RESULTS = ("1-0", "1/2-1/2", "0-1")
WIN, DRAW, LOSS = range(4, 7)
_KING = 7
_PIECE = _KING + 64  # 64 per piece, in the order of rules.PIECES
_BLACK = _PIECE + 5 * 64
SIZE = _BLACK + 64


@functools.cache
def words() -> tuple[str, ...]:
    """All words by id."""
    names = [rules.square_name(s) for s in range(64)]
    out = [*SPECIAL, *RESULTS]
    for letter in "K" + PIECES + "k":
        out += [letter + name for name in names]
    return tuple(out)


def observation_ids(p: Position) -> IntArray:
    """Ids of the three observation words. [R, 3]"""
    return np.stack([_KING + p.white, _PIECE + 64 * p.piece + p.square, _BLACK + p.black], axis=1)


def read_observations(ids_R3: IntArray) -> Position:
    """Inverse of `observation_ids`; the ids must be an observation."""
    piece = ids_R3[:, 1] - _PIECE
    return Position(piece // 64, ids_R3[:, 0] - _KING, piece % 64, ids_R3[:, 2] - _BLACK)


def move_ids(p: Position, start: IntArray, to: IntArray, piece: IntArray) -> IntArray:
    """Ids of the moves' words. piece: code of White's piece after the move. All [R]; result [R, 1]."""
    return np.where(start == p.white, _KING + to, _PIECE + 64 * piece + to)[:, None]


def read_moves(ids_R: IntArray, p: Position) -> tuple[BoolArray, IntArray, IntArray, IntArray]:
    """Which words move one of White's men at all, their from-squares, to-squares and White's piece afterwards. All [R]."""
    king = (ids_R >= _KING) & (ids_R < _PIECE)
    valid = king | ((ids_R >= _PIECE) & (ids_R < _BLACK))
    at = np.where(valid, ids_R, _KING) - _KING
    piece = np.where(king, p.piece, np.maximum(at // 64 - 1, 0))
    return valid, np.where(king, p.white, p.square), at % 64, piece


def text(ids: IntArray) -> str:
    """Words with blanks between them; ids that mean no word are left out."""
    return " ".join(words()[i] for i in ids if 0 <= i < SIZE)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer that puts the start token in front when asked for special tokens."""
    bare = Tokenizer(WordLevel({word: i for i, word in enumerate(words())}, unk_token="<unk>"))
    bare.pre_tokenizer = WhitespaceSplit()
    bare.post_processor = TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", BOS)])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=bare,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )
