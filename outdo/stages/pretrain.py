"""pretrain: learn every token of a text, or of episodes that a player plays at random. The model learns how the world goes on."""

from __future__ import annotations

from typing import Literal

from outdo.stages.common.imitation import Imitation, ImitationConfig


class Pretrain(Imitation):
    """Learn the rules: episodes without a purpose, or plain text, every token of it."""

    class Config(ImitationConfig):
        """Options of a stage with kind = "pretrain"."""

        kind: Literal["pretrain"] = "pretrain"
        player: str = "random"
        split: str = "pretrain"
        train_on: Literal["moves", "moves+result", "everything"] = "everything"
