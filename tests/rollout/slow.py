"""The engine's slow twin: one trajectory at a time, no cache, the whole prefix through the model for every token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from toys import Ragged

from outdo.models.decoder import Decoder
from outdo.rollout.engine import Engine, Sampling
from outdo.system import randomness
from outdo.types import Prompt, Trajectory, Usage


@torch.no_grad()
def next_logprobs(model: Decoder, tokens: Sequence[int], temperature: float) -> np.ndarray:
    """[V] float64."""
    packed = model.pack(torch.float32)
    hidden = model.hidden(packed, torch.tensor([list(tokens)]))[0, -1]
    logits = model.logits(packed, hidden).double() / (temperature or 1.0)
    return torch.log_softmax(logits, -1).numpy()


def slow(model: Decoder, prompt: Prompt, sample: int, sampling: Sampling, seed: int, version: int,
         environment: Ragged | None = None) -> tuple[list[int], list[bool], list[float]]:  # fmt: skip
    """token_ids, mask and logprobs of one trajectory. environment: made for this prompt alone."""
    key = randomness.keys(randomness.key(seed, version, prompt.id), np.array([sample]))
    tokens, mask, logprobs = prompt.token_ids.tolist(), [False] * len(prompt.token_ids), [0.0] * len(prompt.token_ids)
    reply: list[int] = []
    while len(tokens) < sampling.max_tokens:
        distribution = next_logprobs(model, tokens, sampling.temperature)
        u = float(randomness.uniform(key, np.array([len(tokens)]))[0])
        drawn = int(np.searchsorted(np.exp(distribution).cumsum(), u, side="right"))
        token = int(distribution.argmax()) if sampling.temperature == 0 else drawn
        tokens, mask, logprobs, reply = (
            [*tokens, token],
            [*mask, True],
            [*logprobs, float(distribution[token])],
            [*reply, token],
        )
        if len(reply) < sampling.turn_tokens and token not in sampling.stop_ids and len(tokens) < sampling.max_tokens:
            continue
        if environment is None:
            break
        padded = np.full((1, sampling.turn_tokens), -1)
        padded[0, : len(reply)] = reply
        observation, done = environment.step(np.array([0]), padded)
        seen = [int(t) for t in observation[0] if t >= 0][: sampling.max_tokens - len(tokens)]
        tokens, mask, logprobs = tokens + seen, mask + [False] * len(seen), logprobs + [0.0] * len(seen)
        reply = []
        if done[0]:
            break
    return tokens, mask, logprobs


def generate(engine: Engine, prompts: Sequence[Prompt], group_size: int, sampling: Sampling, *, seed: int = 5,
             longest: int | None = None) -> tuple[list[Trajectory], Usage, Ragged | None]:  # fmt: skip
    """Engine.generate, with a Ragged environment if `longest` is given."""
    environment = Ragged(prompts, group_size, longest) if longest else None
    return *engine.generate(prompts, group_size, sampling, seed, environment), environment
