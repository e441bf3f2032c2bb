"""The engine: prompts in, trajectories out. One loop serves single answers and multi-turn episodes alike.

Each prompt is prefilled once for its whole group; finished rows leave the batch and waiting prompts take their slots; in an
episode the next observation is appended to the cache, nothing is encoded twice. All bookkeeping is in numpy arrays over
rows (one row = one trajectory), only the model sees tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from outdo.errors import check
from outdo.models.base import LanguageModel
from outdo.models.critic import Critic
from outdo.models.flops import causal_attended, forward_flops
from outdo.rollout.cache import AnyCache, KVCache, allocate, forward_step
from outdo.rollout.graphs import Graphs
from outdo.rollout.sampler import sample
from outdo.system import randomness
from outdo.types import BoolArray, Finish, IntArray, Prompt, Trajectory, Usage


class Environment(Protocol):
    """What answers the policy between turns (see `outdo.tasks.base.Episodes`)."""

    def step(self, rows_R: IntArray, replies_RN: IntArray) -> tuple[IntArray, BoolArray]: ...

    def info(self, row: int) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn and when a turn ends."""

    temperature: float = 1.0  # 0: greedy
    turn_tokens: int = 128  # most new tokens per turn
    max_tokens: int = 2048  # longest whole trajectory, prompt included
    stop_ids: tuple[int, ...] = ()  # a turn ends after any of these


_ALIKE = 1.12  # prompts whose lengths differ by no more than this factor from the first one's are prefilled together


class _Rows:
    """The state of all trajectories of one call: arrays over N rows."""

    def __init__(self, prompts: Sequence[Prompt], group_size: int, sampling: Sampling) -> None:
        self.prompts, self.group_size = prompts, group_size
        n, width = len(prompts) * group_size, sampling.max_tokens
        self.tokens = np.zeros((n, width), np.int64)
        self.mask = np.zeros((n, width), bool)
        self.logprobs, self.values = np.zeros((n, width), np.float32), np.zeros((n, width), np.float32)
        self.length = np.repeat([len(p.token_ids) for p in prompts], group_size)
        self.cached = np.zeros(n, np.int64)  # tokens whose keys and values are in the cache
        self.turn_start = self.length.copy()
        self.finish = [Finish.LENGTH] * n
        for i, prompt in enumerate(prompts):
            self.tokens[i * group_size : (i + 1) * group_size, : len(prompt.token_ids)] = prompt.token_ids

    def append_sampled(self, rows: IntArray, tokens: IntArray, logprobs: np.ndarray, values: np.ndarray) -> None:
        at = self.length[rows]
        self.tokens[rows, at], self.mask[rows, at] = tokens, True
        self.logprobs[rows, at], self.values[rows, at] = logprobs, values
        self.length[rows] += 1

    def append_observed(self, rows: IntArray, tokens_RC: IntArray) -> None:
        """Append the observations (-1: nothing) as far as they fit."""
        real = tokens_RC >= 0
        at = self.length[rows][:, None] + np.cumsum(real, axis=1) - 1
        real &= at < self.tokens.shape[1]
        row, column = np.nonzero(real)
        self.tokens[rows[row], at[row, column]] = tokens_RC[row, column]
        self.length[rows] += real.sum(1)
        self.turn_start[rows] = self.length[rows]

    def replies(self, rows: IntArray, width: int) -> IntArray:
        """The tokens of the current turn, [R, width], -1 where the turn is over."""
        at = self.turn_start[rows][:, None] + np.arange(width)
        inside = at < self.length[rows][:, None]
        return np.where(inside, self.tokens[rows[:, None], np.minimum(at, self.tokens.shape[1] - 1)], -1)


class Engine:
    """Samples from one model. Call `load` after every change of its weights.

    graphs: whether a GPU decodes by recorded graphs (see `rollout.graphs`).
    """

    def __init__(self, model: LanguageModel, dtype: torch.dtype, slots: int, graphs: bool = True) -> None:
        self.model, self.dtype, self.slots = model, dtype, slots
        self.device = model.device
        self._graphs = graphs and self.device.type == "cuda"
        self._kept: KVCache | None = None  # of the last call, where graphs know it
        self.version = 0
        self._packed: Any = None
        self.critic: Critic | None = None

    @torch.no_grad()
    def load(self, version: int, critic: Critic | None = None) -> None:
        """Pack the model's current weights; trajectories carry `version`, and the critic's values, from now on."""
        self._packed, self.version, self.critic = self.model.pack_to_sample(self.dtype, self._packed), version, critic

    def release(self) -> None:
        """Give the packed weights' memory back until the next `load`; where recorded steps read them they stay."""
        if not self._graphs:
            self._packed = None

    def cache(self, slots: int, prompt: int, most: int) -> AnyCache:
        """A cache for so many sequences, for now of `prompt` tokens, in the end of at most `most`; what it holds is old."""
        if not self._graphs:
            return allocate(self.model, slots, prompt, self.dtype)
        kept = self._kept
        if kept is None or kept.spare < slots or kept.capacity < most:
            self._kept = kept = None  # its memory is free before there is another
            made = allocate(self.model, slots, most, self.dtype)
            if not isinstance(made, KVCache):
                return made
            made.graphs = Graphs()
            self._kept = kept = made
        return kept

    @torch.inference_mode()
    def generate(self, prompts: Sequence[Prompt], group_size: int, sampling: Sampling, seed: int,
                 environment: Environment | None = None,
                 progress: Callable[[int, int], None] | None = None) -> tuple[list[Trajectory], Usage]:
        """group_size trajectories for each prompt, in prompt order.

        environment: its row i * group_size + g is sample g of prompt i. progress(done, all) is called as rows finish.
        Raises UserError for prompts that leave no room to answer and for trajectories that the model cannot hold.
        """
        assert self._packed is not None, "load() comes before generate()"
        assert group_size <= self.slots, f"a group of {group_size} does not fit into {self.slots} slots"
        context = self.model.config.max_position_embeddings
        check(sampling.max_tokens <= context, f"trajectories of up to {sampling.max_tokens} tokens do not fit into the model's "
              f"context of {context}; shorten the task's episodes or use a model with a longer context")
        for prompt in prompts:
            check(0 < len(prompt.token_ids) < sampling.max_tokens, f"prompt {prompt.id!r} has {len(prompt.token_ids)} tokens; "
                  f"prompt and answers share max_tokens = {sampling.max_tokens}: shorten the prompt or raise max_tokens")
        rows = _Rows(prompts, group_size, sampling)
        run = _Run(self, self._packed, rows, sampling, seed, environment)
        total = len(prompts) * group_size
        while run.more():
            run.turn()
            if progress is not None:
                progress(run.finished, total)
        usage = Usage(run.prefill_tokens, run.decode_tokens, prefill_flops=run.prefill_flops,
                      decode_flops=run.decode_flops, episodes=total)
        return [_trajectory(rows, i, self.version, environment, self.critic is not None) for i in range(total)], usage


class _Run:
    """One call of `Engine.generate`: which row sits in which slot, and what it has cost."""

    def __init__(self, engine: Engine, packed: Any, rows: _Rows, sampling: Sampling, seed: int,
                 environment: Environment | None) -> None:
        self.engine, self.packed, self.rows, self.sampling, self.environment = engine, packed, rows, sampling, environment
        longest = max((len(p.token_ids) for p in rows.prompts), default=0)
        self.slots = min(engine.slots, len(rows.length))
        self.cache = engine.cache(self.slots, longest, min(longest + sampling.turn_tokens, sampling.max_tokens))
        self.active: IntArray = np.zeros(0, np.int64)  # active[slot] = row
        self.waiting = list(range(len(rows.prompts)))
        base = [randomness.key(seed, engine.version, p.id) for p in rows.prompts]
        self.keys = np.concatenate([np.zeros(0, np.uint64), *(randomness.keys(b, np.arange(rows.group_size)) for b in base)])
        self.finished = 0
        self.prefill_tokens = self.decode_tokens = 0
        self.prefill_flops = self.decode_flops = 0.0

    def more(self) -> bool:
        return bool(self.waiting) or len(self.active) > 0

    def turn(self) -> None:
        """Everything that happens for one new token of every active row."""
        fed, known = self._feed_active()
        admitted, first = self._admit()
        rows = np.concatenate([fed, admitted])
        self._sample(rows, *(torch.cat(parts) if len(parts) > 1 else parts[0] for parts in zip(*known, *first, strict=True)))
        ended = self._turn_over(rows)
        if ended.any():
            self._end_turns(rows[ended])

    def _admit(self) -> tuple[IntArray, list[tuple[Tensor, ...]]]:
        """Prefill waiting prompts while their groups fit into free slots; rows and what `_read` says of them."""
        admitted, known = [np.zeros(0, np.int64)], list[tuple[Tensor, ...]]()
        while self.waiting and (room := (self.slots - len(self.active)) // self.rows.group_size):
            rows, read = self._prefill(self._alike(room))
            admitted.append(rows)
            known += read
        return np.concatenate(admitted), known

    def _alike(self, room: int) -> list[int]:
        """Waiting prompts about as long as the first of them: they are prefilled together, padded to the longest."""
        lengths = {i: len(self.rows.prompts[i].token_ids) for i in self.waiting[:room]}
        first = lengths[self.waiting[0]]
        batch = [i for i, n in lengths.items() if first / _ALIKE <= n <= first * _ALIKE]
        taken = set(batch)
        self.waiting = [i for i in self.waiting if i not in taken]
        return batch

    def _prefill(self, batch: Sequence[int]) -> tuple[IntArray, list[tuple[Tensor, ...]]]:
        g, prompts = self.rows.group_size, [self.rows.prompts[i].token_ids for i in batch]
        lengths = np.array([len(ids) for ids in prompts], np.int64)
        length = int(lengths.max())
        tokens = torch.from_numpy(np.stack([np.pad(ids, (0, length - len(ids))) for ids in prompts]))
        first_slot, P = len(self.active), len(batch)
        # The prompts are computed in the first slot of their group and copied to the others.
        slots = torch.arange(first_slot, first_slot + P * g, device=self.engine.device)
        leaders = slots[::g]
        starts = torch.zeros(P, dtype=torch.int64)
        hidden = forward_step(self.engine.model, self.packed, self.cache, tokens, starts, torch.from_numpy(lengths - 1), leaders)
        if g > 1:
            self.cache.copy(leaders.repeat_interleave(g), slots, length)
        rows = (np.array(batch)[:, None] * g + np.arange(g)).ravel()
        self.active = np.concatenate([self.active, rows])
        self.rows.cached[rows] = lengths.repeat(g)
        self._charge(int(lengths.sum()), 0, sum(causal_attended(int(n)) for n in lengths), P)
        return rows, [tuple(x.repeat_interleave(g, dim=0) for x in self._read(hidden))]

    def _feed_active(self) -> tuple[IntArray, list[tuple[Tensor, ...]]]:
        """Run the model over every active row's tokens that it has not seen; rows and what `_read` says."""
        rows = self.active
        if not len(rows):
            return rows, []
        pending = self.rows.length[rows] - self.rows.cached[rows]
        if (pending == pending[0]).all():
            return rows, [self._feed(rows, None, pending)]
        # Rows in the middle of a turn have one token, rows after an observation several: two batches, not padding.
        parts = [np.flatnonzero(pending == 1), np.flatnonzero(pending > 1)]
        parts = [p for p in parts if len(p)]
        return rows[np.concatenate(parts)], [self._feed(rows[p], p, pending[p]) for p in parts]

    def _feed(self, rows: IntArray, slots: IntArray | None, pending: IntArray) -> tuple[Tensor, ...]:
        r, C = self.rows, int(pending.max())
        starts = r.cached[rows]
        at = np.minimum(starts[:, None] + np.arange(C), r.tokens.shape[1] - 1)
        tokens = torch.from_numpy(r.tokens[rows[:, None], at])
        where = None if slots is None else torch.from_numpy(slots)
        hidden = forward_step(self.engine.model, self.packed, self.cache, tokens, torch.from_numpy(starts),
                              torch.from_numpy(pending - 1), where)
        ends = r.length[rows]
        attended = int(((ends * (ends + 1) - starts * (starts + 1)) // 2).sum())
        sampled = int((r.mask[rows[:, None], at] & (np.arange(C) < pending[:, None])).sum())
        self._charge(int(pending.sum()) - sampled, sampled, attended, len(rows))
        r.cached[rows] = ends
        return self._read(hidden)

    def _read(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """hidden [n, D] -> logits of the next token [n, V] and the critic's values [n], 0 without one."""
        critic = self.engine.critic
        values = torch.zeros(len(hidden), device=hidden.device) if critic is None else critic(hidden)
        return self.engine.model.logits(self.packed, hidden), values

    def _charge(self, observed: int, sampled: int, attended: int, heads: int) -> None:
        """Book a forward pass: observed tokens are prefill, sampled ones (and all logits) decoding."""
        c, total = self.engine.model.config, observed + sampled
        share = observed / total
        self.prefill_tokens += observed
        self.prefill_flops += forward_flops(c, observed, round(attended * share), 0)
        self.decode_flops += forward_flops(c, sampled, attended - round(attended * share), heads)

    def _sample(self, rows: IntArray, logits: Tensor, values: Tensor) -> None:
        uniform = torch.from_numpy(randomness.uniform(self.keys[rows], self.rows.length[rows])).to(logits.device)
        tokens, logprobs = sample(logits, uniform, self.sampling.temperature)
        self.rows.append_sampled(rows, *(x.cpu().numpy() for x in (tokens, logprobs, values)))
        self.decode_tokens += len(rows)

    def _turn_over(self, rows: IntArray) -> BoolArray:
        r, s = self.rows, self.sampling
        over: BoolArray = r.length[rows] - r.turn_start[rows] >= s.turn_tokens
        over |= np.isin(r.tokens[rows, r.length[rows] - 1], s.stop_ids)
        over |= r.length[rows] >= s.max_tokens
        return over

    def _end_turns(self, rows: IntArray) -> None:
        """Hand finished turns to the environment; whoever is done leaves the batch."""
        r, s = self.rows, self.sampling
        stopped, done = np.isin(r.tokens[rows, r.length[rows] - 1], s.stop_ids), np.ones(len(rows), bool)
        closed = np.zeros(len(rows), bool)  # where the environment had the last word
        if self.environment is not None:
            observations, done = self.environment.step(rows, r.replies(rows, s.turn_tokens))
            closed |= (observations >= 0).any(1)
            closed |= not s.stop_ids  # a policy that has no stop token never ends anything itself
            r.append_observed(rows, observations)
        for row, stop, close in zip(rows[done], stopped[done], closed[done], strict=True):
            r.finish[row] = Finish.DONE if close else Finish.STOP if stop else Finish.LENGTH
        self._retire(rows[done | (r.length[rows] >= s.max_tokens)])

    def _retire(self, rows: IntArray) -> None:
        """Free the rows' slots and close the gaps with rows from the back."""
        if not len(rows):
            return
        self.finished += len(rows)
        gone = np.isin(self.active, rows)
        keep = int((~gone).sum())
        holes, movers = np.flatnonzero(gone[:keep]), keep + np.flatnonzero(~gone[keep:])
        if len(holes):
            tokens = int(self.rows.cached[self.active[movers]].max())
            source, target = (torch.from_numpy(x).to(self.engine.device) for x in (movers, holes))
            self.cache.copy(source, target, tokens)
            self.active[holes] = self.active[movers]
        self.active = self.active[:keep]


def _trajectory(rows: _Rows, i: int, version: int, environment: Environment | None, valued: bool) -> Trajectory:
    end = int(rows.length[i])
    return Trajectory(
        prompt_id=rows.prompts[i // rows.group_size].id,
        sample=i % rows.group_size,
        token_ids=rows.tokens[i, :end].copy(),
        mask=rows.mask[i, :end].copy(),
        logprobs=rows.logprobs[i, :end].copy(),
        policy_version=version,
        finish=rows.finish[i],
        info=environment.info(i) if environment is not None else {},
        values=rows.values[i, :end].copy() if valued else None,
    )
