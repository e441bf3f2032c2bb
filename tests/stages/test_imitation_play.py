"""Several steps' episodes are played together, and are those of each step alone.

pytest tests/stages/test_imitation_play.py
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from outdo.stages.common.imitation import _random_numbers, play
from outdo.stages.common.loop import Loop
from outdo.stages.pretrain import Pretrain
from outdo.tasks.chess_endgame import ChessEndgame


def test_episodes_played_together_are_those_played_apart() -> None:
    config = Pretrain.Config(kind="pretrain", steps=9, episodes=100, player="teacher", random_moves=0.3,
                             opponents=("random", "perfect"))
    loop = SimpleNamespace(config=config, seed=5, task=ChessEndgame())
    loop.prompts, loop.opponent = (getattr(Loop, name).__get__(loop) for name in ("prompts", "opponent"))
    together = {step: play(loop, step) for step in (0, 3, 8)}
    assert {step: list(found) for step, found in together.items()} == {0: [0, 2, 4], 3: [3, 5, 7], 8: [8]}, "no opponent is mixed"
    for found in together.values():
        for step, episodes in found.items():
            prompts = loop.task.prompts("pretrain", 100, 5, 100 * step)
            alone = loop.task.play("teacher", prompts, _random_numbers(5, step, 100), loop.opponent(step), 0.3)
            assert [e.prompt_id for e in episodes] == [p.id for p in prompts]
            assert all(np.array_equal(a.token_ids, b.token_ids) for a, b in zip(episodes, alone, strict=True))
            assert all(np.array_equal(a.logprobs, b.logprobs) for a, b in zip(episodes, alone, strict=True))
