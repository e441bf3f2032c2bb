"""A final checkpoint played by transformers alone makes the moves that our engine makes.

Run: .venv/bin/python -m pytest tests/rollout/test_transformers_plays.py   (about 20 s on one core, most of it training)
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from processes import TINY, forked
from transformers import AutoModelForCausalLM, PreTrainedModel

from outdo.rollout.episodes import rollout
from outdo.runs import reopen
from outdo.system import randomness
from outdo.tasks.base import Task
from outdo.types import Prompt

GAMES = 64


@pytest.mark.slow
def test_greedy_games_are_the_same_to_the_last_token(tmp_path: Path) -> None:
    sizes = ("model.width=64", "model.depth=2", "stage.sft.steps=150", "stage.sft.episodes=64", "evaluation.prompts=4")
    done = forked("run", TINY, *(x for s in sizes for x in ("--set", s)), "--out", tmp_path / "run", cwd=tmp_path)
    assert done.code == 0, done.err
    opened = reopen.open_checkpoint(f"{tmp_path / 'run'}:rl")
    prompts = opened.task.prompts("heldout", GAMES, 0)
    ours, _ = rollout(opened.engine, opened.task, prompts, temperature=0.0, opponent="perfect", seed=0)
    theirs = AutoModelForCausalLM.from_pretrained(opened.folder)
    for game, prompt in zip(ours, prompts, strict=True):
        assert game.token_ids.tolist() == play(theirs, opened.task, prompt), prompt.id
    moves = [int(game.mask.sum()) for game in ours]
    assert max(moves) >= 3 and np.mean(np.array(moves) > 1) > 0.3, "the games are too short to say anything"


def play(model: PreTrainedModel, task: Task, prompt: Prompt) -> list[int]:
    """One game with transformers' own `generate`; the environment answers as it does for the engine."""
    luck = np.array([randomness.key(0, "environment", prompt.id)], np.int64)
    environment = task.episodes([prompt], luck, "perfect")
    tokens, done = prompt.token_ids.tolist(), False
    while not done and len(tokens) < task.max_tokens:
        ids = torch.tensor([tokens])
        room = min(task.turn_tokens, task.max_tokens - len(tokens))
        out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=room)  # type: ignore[operator]
        reply = out[0, len(tokens) :].tolist()
        observation, over = environment.step(np.array([0]), np.array([reply]))
        tokens, done = (tokens + reply + [int(t) for t in observation[0] if t >= 0])[: task.max_tokens], bool(over[0])
    return tokens
