"""Before a stage that learns from scores: one small rollout says whether there is anything to learn, and what a step will take.

The prompts are the first ones of step 0, sampled as step 0 will sample them. If these few hold nothing to learn from, all of
step 0's are looked at. Booked as overhead ("preflight"); a stage that has begun is not looked at again.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from outdo.errors import UserError
from outdo.evaluation.measure import part_means
from outdo.models.base import LanguageModel
from outdo.models.flops import causal_attended, update_flops
from outdo.stages.common import rollouts
from outdo.stages.common.loop import Loop
from outdo.stages.common.rollouts import RolloutConfig
from outdo.system import environment, files, machine
from outdo.training.batch import families
from outdo.types import Finish, Group, Sample, Usage

FILE = "preflight.json"
FEW = 4  # prompts to begin with
_MANY = 0.5  # share of samples that were truncated, or held no answer, that is worth a word


def preflight(loop: Loop) -> None:
    """Look, show what was found, keep it in preflight.json. Raises UserError if there is nothing to learn from."""
    config: RolloutConfig = loop.config
    file = loop.folder / FILE
    known = file.exists() and files.read_json(file)["stop"] is None
    if loop.begun or loop.run.interrupted or known:
        return
    usage, seconds, groups = Usage(), 0.0, list[Group]()
    for n in dict.fromkeys((min(FEW, config.prompts), config.prompts)):
        began = time.perf_counter()
        groups, spent = rollouts.gather(loop, 0, n)
        usage, seconds = usage + spent, time.perf_counter() - began
        stop = nothing_to_learn(loop, groups)
        if stop is None:
            break
    loop.judge.logged()  # what functions logged belongs to no step
    found = {**describe(groups), "memory_bytes": memory(loop, groups), "step_s": step_seconds(loop, groups, seconds),
             "stop": None if config.allow_no_signal else stop}
    loop.ledger.book(0, "preflight", usage, loop.clock.read())
    files.write_json(file, found)
    loop.run.show(loop.name, 0.0, table(loop, found) + (f"\n  warning: {stop}" if stop and config.allow_no_signal else ""))
    if found["stop"]:
        raise UserError(f"stage {loop.name} cannot learn: {stop}; to run it all the same, resume with --force, or set "
                        f"stage.{loop.name}.allow_no_signal = true")


def nothing_to_learn(loop: Loop, groups: Sequence[Group]) -> str | None:
    """Why these groups would train nothing, and what to change; None if they would train something."""
    config = loop.config
    values = [s.value for g in groups for s in g.scores if s.value is not None]
    sampled = f"{len(groups)} prompts x {len(groups[0].scores)} samples"
    if not values:
        (reason, n), = Counter(s.reason for g in groups for s in g.scores).most_common(1)
        return f"the judge could score none of {sampled} ({n} times: {reason}); mend the judge, or give it the columns it needs"
    if (threshold := getattr(config, "threshold", None)) is not None:
        if max(values) >= threshold:
            return None
        why, change = f"none of {sampled} reached threshold = {threshold:g}, the best scored {max(values):g}", "lower it, "
    else:
        if any(s.advantages.any() for s in rollouts.credit(groups, loop.algorithm)[0]):
            return None
        same = f"all scored {values[0]:g}" if len(set(values)) == 1 else "scored the same within every group"
        why, change = f"{sampled} {same}", ""
    seen = describe(groups)
    bare = ("; the model has a chat template and the prompts are bare strings, which it was not tuned on: give messages or a "
            "column question, or set task.chat = true") if _bare_prompts(loop, groups) else ""
    if seen["truncated"] >= _MANY:
        return (f"{why}, and {seen['truncated']:.0%} were cut before their end; give more room (task.max_new_tokens), or imitate "
                f"short answers{bare}")
    if seen["format_pass_rate"] <= 1 - _MANY:
        return (f"{why}, and only {seen['format_pass_rate']:.0%} held an answer that the judge can read; say in the prompt what "
                f"form it wants, or imitate answers that have it{bare}")
    return (f"{why}; {change}imitate good answers first, take easier prompts, a larger group_size or a reward with more "
            f"steps{bare}")


def _bare_prompts(loop: Loop, groups: Sequence[Group]) -> bool:
    """Whether a chat model is given strings in place of messages."""
    return bool(loop.run.tokenizer.chat_template) and all(isinstance(g.prompt.row.get("prompt"), str) for g in groups)


def describe(groups: Sequence[Group]) -> dict[str, Any]:
    """What the sample looked like: shares in [0, 1], rewards in the judge's units."""
    trajectories, scores = [t for g in groups for t in g.trajectories], [s for g in groups for s in g.scores]
    values = [[s.value for s in g.scores if s.value is not None] for g in groups]
    scored = [v for group in values for v in group]
    prompts, seen = [len(g.prompt.token_ids) for g in groups], rollouts.describe(groups)
    return {
        "prompts": len(groups), "samples": len(scores),
        "truncated": float(np.mean([t.finish == Finish.LENGTH for t in trajectories])),
        "unscored": 1.0 - len(scored) / len(scores),
        "format_pass_rate": float(np.mean([s.answered and s.value is not None for s in scores])),
        "reward": float(np.mean(scored)) if scored else None,
        "reward_std_within_groups": float(np.mean([np.std(v) for v in values if v])) if scored else None,
        "reward_parts": part_means(scores),
        "zero_variance_groups": seen["zero_variance_groups"],
        "prompt_tokens": {"median": float(np.median(prompts)), "longest": max(prompts)},
        "tokens_per_episode": seen["tokens_per_episode"],
        "reasons": dict(Counter(s.reason for s in scores).most_common(3)),
    }


def memory(loop: Loop, groups: Sequence[Group]) -> dict[str, float]:
    """Roughly what a step will hold at once, in bytes."""
    config: RolloutConfig = loop.config
    c, model = loop.model.config, loop.model
    size = torch.finfo(loop.run.dtype).bits // 8
    apart = loop.trainer.critic_model
    everything = sum(p.numel() for m in (model, apart) if m is not None for p in m.parameters())
    trains = sum(p.numel() for p in [*loop.trainer.parameters, *loop.trainer.critic_parameters])
    trajectories = [t for g in groups for t in g.trajectories]
    longest = max(len(t.token_ids) for t in trajectories)
    rows = min(loop.run.recipe.slots, config.prompts * config.group_size)
    heads = getattr(c, "num_key_value_heads", c.num_attention_heads)
    own = sum(int(t.mask.sum()) for t in trajectories) / sum(len(t.token_ids) for t in trajectories)
    at_once = min(config.optimizer.micro_tokens, rows * longest)
    products = 2.0 * at_once * c.layer_weights / c.hidden_size * size  # what goes into and comes out of every matrix
    logits = 3.0 * at_once * own * c.vocab_size * 4  # with their softmax and gradient
    judge = loop.judge.memory_bytes()
    return {"weights": float(everything * (4 + size)), "optimizer": 12.0 * trains, **({"judge": judge} if judge else {}),
            "cache": 2.0 * rows * longest * c.num_hidden_layers * heads * c.head_dim * size, "activations": products + logits}


def step_seconds(loop: Loop, groups: Sequence[Group], measured_s: float) -> dict[str, float | None]:
    """A step's time: generating and judging as measured (more prompts side by side are faster), updating by its FLOPs."""
    config: RolloutConfig = loop.config
    file = loop.run.folder / "environment.json"
    peak = environment.thread_peak_flops(files.read_json(file) if file.exists() else {}) * torch.get_num_threads()
    scale = config.prompts / len(groups)
    samples = [Sample(t.token_ids, t.mask, t.mask.astype(np.float32), t.logprobs) for g in groups for t in g.trajectories]
    as_many = config.model_copy(update={"minibatch_tokens": config.minibatch_tokens / scale})  # minibatches as with all prompts
    steps = rollouts.minibatches(samples, as_many, loop.seed, 0)
    apart = loop.trainer.critic_model
    flops = sum(loop.trainer.optimizer.flops + scale * batch_flops(loop.model, batch) for batch in steps)
    flops += sum(scale * batch_flops(apart, batch, outputs=1) for batch in steps if apart is not None)
    return {"generate": measured_s * scale, "update": flops / peak / machine.UPDATE_UTILISATION if peak else None}


def batch_flops(model: LanguageModel, samples: Sequence[Sample], outputs: int | None = None) -> float:
    """FLOPs of an update on these samples, those of one prompt together where the model can. outputs: see `forward_flops`."""
    whole = families(samples, model.shares_prompts)
    attended = sum(causal_attended(f.shared) + sum(causal_attended(len(s.token_ids), f.shared) for s in f.samples) for f in whole)
    return update_flops(model.config, sum(f.tokens for f in whole), attended, sum(int(s.mask.sum()) for s in samples), outputs)


def table(loop: Loop, found: dict[str, Any]) -> str:
    """What was found, for people."""
    total, need = machine.memory_bytes(loop.model.device), sum(found["memory_bytes"].values())
    gb = {k: f"{k} {v / 1e9:.1f}" for k, v in found["memory_bytes"].items()}
    step, parts = found["step_s"], [f"{k} {v:.3g}" for k, v in found["reward_parts"].items()]
    of = "" if len(parts) < 2 else f" ({', '.join(parts)})"
    reward = "none" if found["reward"] is None else f"{found['reward']:.3g}{of}, spread within groups " \
                                                    f"{found['reward_std_within_groups']:.3g}"
    update = "" if step["update"] is None else f" + updating {step['update']:.1f} s (estimated)"
    rows = {
        "reward": reward,
        "no difference": f"in {found['zero_variance_groups']:.0%} of the groups",
        "unscored": f"{found['unscored']:.0%}",
        "format": f"in {found['format_pass_rate']:.0%} of the samples the judge could read an answer",
        "truncated": f"{found['truncated']:.0%}",
        "tokens": f"prompts {found['prompt_tokens']['median']:.0f}, the longest {found['prompt_tokens']['longest']}; "
                  f"sampled {found['tokens_per_episode']:.0f} each",
        "memory": f"about {need / 1e9:.1f} of {total / 1e9:.1f} GB: {', '.join(gb.values())}"
                  + ("; TOO MUCH: lower slots, optimizer.micro_tokens or prompts" if need > total else ""),
        "a step": f"generating {step['generate']:.1f} s{update}",
    }
    title = f"pre-flight of {loop.name}: {found['prompts']} prompts, {found['samples']} samples of the model as it starts"
    return "\n".join([title, *(f"  {k:<14}{v}" for k, v in rows.items())])
