"""Words of the chess tasks and their ids: the same for every material.

An observation is three words (`Kc3 Rd4 kd6`), a move two (`d4 d8`, promotions `d7 d8q`), a result one. Ids are laid out
in blocks, so that arrays of squares become arrays of ids by addition.
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
from outdo.tasks.chess.rules import BISHOP, KNIGHT, PIECES, QUEEN, ROOK, Position
from outdo.types import BoolArray, IntArray

PAD, BOS, EOS, UNK = range(4)
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
RESULTS = ("1-0", "1/2-1/2", "0-1")
WIN, DRAW, LOSS = range(4, 7)
_SQUARE = 7  # plain squares: from-square and to-square of a move
_PROMOTION = _SQUARE + 64  # to-squares with the new piece, four per file
_KING = _PROMOTION + 32
_PIECE = _KING + 64  # 64 per piece, in the order of rules.PIECES
_BLACK = _PIECE + 5 * 64
SIZE = _BLACK + 64
_PROMOTED = np.array([QUEEN, ROOK, BISHOP, KNIGHT])
_NTH = np.array([1, 0, -1, 2, 3])  # place of a piece code among the four promotions


@functools.cache
def words() -> tuple[str, ...]:
    """All words by id."""
    names = [rules.square_name(s) for s in range(64)]
    out = [*SPECIAL, *RESULTS, *names]
    out += [f"{names[56 + file]}{letter}" for file in range(8) for letter in "qrbn"]
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


def move_ids(start: IntArray, to: IntArray, promoted: IntArray) -> IntArray:
    """Ids of a move's two words. promoted: code of the new piece, -1 for an ordinary move. All [R]; result [R, 2]."""
    plain = _SQUARE + to
    special = _PROMOTION + 4 * (to % 8) + _NTH[np.maximum(promoted, 0)]
    return np.stack([_SQUARE + start, np.where(promoted >= 0, special, plain)], axis=1)


def read_moves(ids_R2: IntArray) -> tuple[BoolArray, IntArray, IntArray, IntArray]:
    """Which replies are moves at all, their from-squares, to-squares and promoted pieces (-1: none). All [R]."""
    first, second = ids_R2[:, 0], ids_R2[:, 1]
    promotes = (second >= _PROMOTION) & (second < _KING)
    valid = (first >= _SQUARE) & (first < _PROMOTION) & (second >= _SQUARE) & (second < _KING)
    nth = np.where(promotes, second - _PROMOTION, 0)
    to = np.where(promotes, 56 + nth // 4, second - _SQUARE)
    return valid, first - _SQUARE, to, np.where(promotes, _PROMOTED[nth % 4], -1)


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
