"""The user's own generation: TRL's rollout_func(prompts, trainer) in place of the engine's loop over turns.

It is given the prompts as the policy is to read them (text or messages), each as often as its group is large, and a stand-in for
the trainer whose `generate` is the engine. It gives back `prompt_ids`, `completion_ids` and `logprobs`, one list for each prompt,
optionally `env_mask` (1 where the policy wrote), and whatever else the reward functions are to get.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
from transformers import PreTrainedTokenizerBase

from outdo.errors import UserError, check
from outdo.models.score import token_logprobs
from outdo.rollout.engine import Engine, Sampling
from outdo.system.user_code import guarded
from outdo.types import BoolArray, Finish, FloatArray, IntArray, Prompt, Trajectory, Usage

RolloutFunc = Callable[..., Mapping[str, Any]]
NOTICE = ("rollout_func: its trainer is a stand-in with processing_class, args, state and generate(prompts), without model, "
          "accelerator and vLLM; log-probs that it leaves out (None, or all zero) are computed; its own randomness is not "
          "resumed")
_NEEDED = ("prompt_ids", "completion_ids", "logprobs")
_BATCH_TOKENS = 8192  # padded, of log-probs computed here
Said = str | Sequence[Mapping[str, Any]] | Sequence[int]


class Textual(Protocol):
    """The part of a task of text that this needs (see `outdo.tasks.text.task.TextTask`)."""

    turn_tokens: int
    stop_ids: tuple[int, ...]

    def tokenizer(self) -> PreTrainedTokenizerBase: ...

    def encode(self, row: Mapping[str, Any]) -> IntArray: ...

    def reply_text(self, reply: IntArray) -> str: ...


class Trainer:
    """What a rollout function is given as its trainer."""

    def __init__(self, engine: Engine, task: Textual, prompts: Sequence[Prompt], group_size: int, temperature: float,
                 seed: int) -> None:
        self.processing_class = task.tokenizer()
        self.num_generations = self.num_generations_eval = group_size
        self.max_completion_length, self.temperature, self.top_p, self.top_k = task.turn_tokens, temperature, 1.0, 0
        self.args = SimpleNamespace(num_generations=group_size, max_completion_length=task.turn_tokens, temperature=temperature,
                                    top_p=1.0, top_k=0, seed=seed)
        self.state = SimpleNamespace(global_step=engine.version)
        self.usage = Usage()
        self._engine, self._task, self._prompts, self._seed, self._calls = engine, task, prompts, seed, 0

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"outdo's stand-in for the trainer has no {name!r}; it has processing_class, args, state, "
                             "num_generations and generate(prompts)")

    def generate(self, prompts: Sequence[Said], max_new_tokens: int | None = None,
                 temperature: float | None = None) -> dict[str, list[Any]]:
        """One completion for each prompt (text, messages or token ids): `prompt_ids`, `completion_ids`, `logprobs`.

        Equal prompts beside each other are prefilled once. All the prompts at once, as they were given, are sampled exactly as
        without a rollout function. Raises UserError for prompts that leave no room.
        """
        ids = [p if p and isinstance(p[0], int) else self._task.encode({"prompt": p}).tolist() for p in prompts]
        runs = [len(list(same)) for _, same in groupby(ids)]
        g = runs[0] if len(set(runs)) == 1 else 1
        distinct = ids[::g]
        first = self._calls == 0 and len(distinct) == len(self._prompts)
        names = [self._prompts[i].id if first else f"{self._prompts[0].id}/{self._calls}/{i}" for i in range(len(distinct))]
        self._calls += 1
        new = max_new_tokens or self._task.turn_tokens
        sampling = Sampling(self.temperature if temperature is None else temperature, new,
                            max(map(len, distinct), default=0) + new, self._task.stop_ids)
        asked = [Prompt(name, np.array(tokens, np.int64)) for name, tokens in zip(names, distinct, strict=True)]
        trajectories, usage = self._engine.generate(asked, g, sampling, self._seed)
        self.usage += usage
        return {"prompt_ids": ids, "completion_ids": [t.token_ids[t.mask].tolist() for t in trajectories],
                "logprobs": [t.logprobs[t.mask].tolist() for t in trajectories]}


def rollout_by(function: RolloutFunc, engine: Engine, task: Textual, prompts: Sequence[Prompt], *, group_size: int = 1,
               temperature: float = 1.0, seed: int = 0) -> tuple[list[Trajectory], Usage]:
    """group_size trajectories per prompt from the user's function, in prompt order. Raises UserError for what it breaks."""
    trainer = Trainer(engine, task, prompts, group_size, temperature, seed)
    repeated = [p for p in prompts for _ in range(group_size)]
    name = getattr(function, "__name__", type(function).__name__)
    try:
        with guarded():
            given = function([copy.deepcopy(p.row["prompt"]) for p in repeated], trainer)
    except UserError:
        raise
    except Exception as e:
        raise UserError(f"rollout function {name} raised {type(e).__name__}: {e}") from None
    missing = [k for k in _NEEDED if k not in given] if isinstance(given, Mapping) else list(_NEEDED)
    check(not missing, f"rollout function {name} gave no {', '.join(missing)}; return a dict with {', '.join(_NEEDED)}")
    columns = {k: v for k, v in given.items() if k != "logprob_token_ids"}
    for key in (*_NEEDED, "env_mask"):
        n = len(repeated) if columns.get(key) is None else len(columns[key])
        check(n == len(repeated), f"rollout function {name} gave {n} {key} for {len(repeated)} prompts; expected one for each")
    out = [_trajectory(p, i % group_size, columns, i, engine.version, task) for i, p in enumerate(repeated)]
    context = engine.model.config.max_position_embeddings
    longest = max((len(t.token_ids) for t in out), default=0)
    check(longest <= context, f"rollout function {name} gave {longest} tokens, prompt included, and the model reads {context}")
    usage = trainer.usage
    if not any(t.logprobs.any() for t in out) or any(np.isnan(t.logprobs).any() for t in out):
        out, spent = _with_logprobs(engine, out, temperature or 1.0)
        usage += spent
    return out, usage + Usage(episodes=len(out) - usage.episodes)


def _trajectory(prompt: Prompt, sample: int, columns: Mapping[str, Any], i: int, version: int, task: Textual) -> Trajectory:
    asked, said = ([int(x) for x in columns[key][i]] for key in ("prompt_ids", "completion_ids"))
    logs = [0.0] * len(said) if columns["logprobs"] is None else [_number(x) for x in columns["logprobs"][i]]
    wrote = [True] * len(said) if columns.get("env_mask") is None else [bool(x) for x in columns["env_mask"][i]]
    for key, values in (("logprobs", logs), ("env_mask", wrote)):
        check(len(values) == len(said), f"the rollout function gave {len(values)} {key} for the {len(said)} tokens of a "
              f"completion of {prompt.id}; expected one for each")
    check(bool(asked), f"the rollout function gave no prompt_ids for {prompt.id}; a completion follows something")
    mask: BoolArray = np.array([False] * len(asked) + wrote, bool)
    logprobs: FloatArray = np.where(mask, np.array([0.0] * len(asked) + logs, np.float32), np.float32(0.0))
    text = task.reply_text(np.array(said, np.int64))
    plain = isinstance(prompt.row["prompt"], str)
    extra = {k: v[i] if isinstance(v, list) else v for k, v in columns.items()
             if k not in (*_NEEDED, "env_mask") and (not isinstance(v, list) or i < len(v))}
    info = {**prompt.row, **json.loads(json.dumps(extra, default=_plain)),
            "completion": text if plain else [{"role": "assistant", "content": text}]}
    finish = Finish.STOP if said and said[-1] in task.stop_ids else Finish.LENGTH
    return Trajectory(prompt.id, sample, np.array(asked + said, np.int64), mask, logprobs, version, finish, info)


def _with_logprobs(engine: Engine, trajectories: Sequence[Trajectory], temperature: float) -> tuple[list[Trajectory], Usage]:
    """The same with log-probs under the engine's model, from whole forward passes."""
    rows = [(t.token_ids, t.mask) for t in trajectories]
    found, usage = token_logprobs(engine.model, engine.dtype, rows, _BATCH_TOKENS, temperature)
    filled = [np.zeros(len(t.mask), np.float32) for t in trajectories]
    for t, row, own in zip(trajectories, filled, found, strict=True):
        row[t.mask] = own
    return [replace(t, logprobs=row) for t, row in zip(trajectories, filled, strict=True)], usage


def _number(logprob: Any) -> float:
    """One token's log-prob; the first of several (top-k), NaN for None."""
    logprob = logprob[0] if isinstance(logprob, list | tuple) else logprob
    return float("nan") if logprob is None else float(logprob)


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)
