"""The live audit: every few steps fresh samples of the policy are scored by the reward and by gold (`[audit]` in a recipe).

What is found goes to audit.jsonl; its cost is booked as overhead and charged to no budget. Neither gold nor a detector ever
reaches the reward. The policy with the best gold is kept in best/.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from outdo.errors import UserError
from outdo.evaluation.gauge import NAMES, Gauge, Probe, Settings, headline
from outdo.judges.base import make_judge
from outdo.models import hf
from outdo.system import files, randomness
from outdo.types import Finish, Group, Score, Trajectory

if TYPE_CHECKING:
    from outdo.stages.common.loop import Loop

FILE, SUMMARY, BEST = "audit.jsonl", "audit.json", "best"
_KEPT = 4  # samples of each sort that a probe keeps
_JUMP = 0.1  # of the reward's range: a rise by that since the last probe brings the next one forward
_BROKE = (" raised ", " returned ", " took longer ")  # how a reason says that the reward itself broke


class LiveAudit:
    """look(groups, metrics) after each step."""

    def __init__(self, loop: Loop) -> None:
        config = loop.run.recipe.audit
        assert config is not None
        self.loop, self.config = loop, config
        self.gauge = Gauge(Settings(config.alpha, config.margin, config.horizon, config.range))
        self.second = make_judge(config.second) if config.second else None
        self.patterns = signatures(Path(config.card)) if config.card else []
        self.file = loop.folder / FILE
        self._last_reward: float | None = None
        self._since: list[tuple[Trajectory, Score]] = []
        self._entropy: float | None = None
        done = list(files.read_lines(self.file)) if self.file.exists() else []
        if done:
            self.gauge.restore(done)
        else:
            self._probe(0, {}, start=True)

    def look(self, groups: Sequence[Group], metrics: Mapping[str, float]) -> None:
        """Probe if it is time. Raises UserError to pause; sets the loop's `ended` to stop."""
        step = self.loop.step + 1
        self._since += [pair for g in groups for pair in zip(g.trajectories, g.scores, strict=True)]
        last = self.gauge.records[-1]["step"]
        jumped = self._last_reward is not None and metrics["reward"] - self._last_reward > _JUMP
        early = jumped and step - last >= max(1, self.config.every // 4)
        if (step - last < self.config.every and not early) or len(self.gauge.records) > self.config.horizon:
            return
        self._probe(step, metrics)

    def _probe(self, step: int, metrics: Mapping[str, float], start: bool = False) -> None:
        loop, n = self.loop, self.config.n * (2 if start else 1)
        loop.engine.load(loop.trainer.steps, loop.trainer.head)
        number = len(self.gauge.records)
        seed = randomness.key(loop.seed, "audit", number)
        prompts = loop.task.prompts(getattr(loop.config, "split", "train"), n, seed, 0)
        trajectories, usage = loop.rollout(prompts, 1, loop.config.temperature, loop.opponent(number), seed)
        scored, gold = loop.judge.score(trajectories), loop.run.gold.score(trajectories)
        second = None if self.second is None else _values(self.second.score(trajectories))
        seen = list(zip(trajectories, scored, strict=True)) if start else self._since
        flagged = [uses(t, self.patterns) for t, _ in seen] if self.patterns else None
        broke = [s for _, s in seen if s.value is None and any(w in s.reason for w in _BROKE)]
        low, high = self.config.range or (-np.inf, np.inf)
        outside = sum(s.value is not None and not low <= s.value <= high for _, s in seen)
        probe = Probe(step, _values(scored), _values(gold), second, flagged, (len(broke), len(seen)),
                      outside + sum("returned nan" in s.reason or "inf;" in s.reason for s in broke),
                      self._context(trajectories, scored, gold, metrics))
        record = self.gauge.start(probe) if start else self.gauge.look(probe)
        record["samples"] = {"reward": _plain(probe.reward), "gold": _plain(probe.gold),
                             "tokens": [t.sampled_tokens for t in trajectories]}
        self._keep_examples(trajectories, scored, gold)
        loop.judge.logged()
        judged = loop.judge_cost(len(trajectories))
        loop.ledger.book(loop.step, "audit", replace(usage, judge_flops=usage.judge_flops + loop.run.gold.spent_flops()) + judged,
                         loop.clock.read())
        files.append_line(self.file, record)
        alarms = [r for r in self.gauge.records if r["alarm"]]
        files.write_json(self.loop.folder / SUMMARY, {
            "said": headline(self.gauge.records), "best": self.gauge.best(), "alarm": alarms[0] if alarms else None,
            "means": NAMES[alarms[0]["alarm"]] if alarms else "", "action": self.config.action})
        self._since, self._last_reward = [], record["reward"]
        self._keep_best()
        self._say(record)

    def _keep_examples(self, trajectories: Sequence[Trajectory], scored: Sequence[Score], gold: Sequence[Score]) -> None:
        """The best paid, those with most reward beyond gold and some others -> rollouts.jsonl, for the eye."""
        gap = _values(scored) - _values(gold)
        order = [*np.argsort(-np.nan_to_num(_values(scored)), kind="stable")[:_KEPT],
                 *np.argsort(-np.nan_to_num(gap), kind="stable")[:_KEPT], *range(_KEPT)]
        for i in dict.fromkeys(int(k) for k in order):
            self.loop.keep_rollout("audit", trajectories[i], scored[i], gold[i])

    def _context(self, trajectories: Sequence[Trajectory], scored: Sequence[Score], gold: Sequence[Score],
                 metrics: Mapping[str, float]) -> dict[str, float]:
        """L10 to L18: what moves on healthy runs too, and stops nothing."""
        values, truth = _values(scored), _values(gold)
        lengths = np.array([t.sampled_tokens for t in trajectories], np.float64)
        right = truth > np.nanmean(truth) if np.isfinite(truth).any() else np.zeros(len(truth), bool)
        entropy = -sum(float(p.logprobs.sum()) for t in trajectories for p in t.pieces) / max(1.0, lengths.sum())
        self._entropy = self._entropy if self._entropy is not None else (
            self.gauge.records[0]["context"]["entropy"] if self.gauge.records else entropy)
        said = [t.token_ids[t.mask].tobytes() for t in trajectories]
        top = np.nanmax(values) if np.isfinite(values).any() else np.nan
        out = {"entropy": entropy, "entropy_of_start": entropy / self._entropy if self._entropy else 1.0,
               "tokens": float(lengths.mean()), "tokens_right": _mean(lengths[right]), "tokens_wrong": _mean(lengths[~right]),
               "duplicates": 1 - len(set(said)) / len(said), "saturated": float(np.mean(values == top)),
               "truncated": float(np.mean([t.finish == Finish.LENGTH for t in trajectories]))}
        if self.loop.reference is not None:
            rows = [(p.token_ids, p.mask) for t in trajectories for p in t.pieces]
            theirs, _ = self.loop.reference.logprobs(rows, self.loop.config.temperature)
            own = [p.logprobs for t in trajectories for p in t.pieces]
            out["kl_sequence"] = float(sum(float((a - b)[m].sum()) for a, b, (_, m) in zip(own, theirs, rows, strict=True))
                                       / len(trajectories))
        out |= {k: float(metrics[k]) for k in ("kl", "zero_variance_groups") if k in metrics}
        parts: dict[str, list[float]] = {}
        for s in scored:
            for name, value in s.parts.items():
                parts.setdefault(name, []).append(np.nan if value is None else value)
        spread = {k: float(np.nanvar(v)) for k, v in parts.items() if np.isfinite(v).any()}
        total = sum(spread.values())
        return out | {f"variance/{k}": v / total for k, v in spread.items() if total and len(spread) > 1}

    def _keep_best(self) -> None:
        """The policy in best/ is the one of the record that `Gauge.best` names."""
        best = self.gauge.best()
        if best is None or best["step"] != self.gauge.records[-1]["step"]:
            return
        target = self.loop.folder / BEST / str(best["step"])
        if not target.exists():
            files.write_folder(target, lambda folder: hf.save(self.loop.model, self.loop.run.tokenizer, folder))
        for old in (self.loop.folder / BEST).iterdir():
            if old != target:
                files.remove_folder(old)

    def _say(self, record: Mapping[str, Any]) -> None:
        loop, alarm = self.loop, record["alarm"]
        gold = "no gold" if record["gold"] is None else f"gold {record['gold']:.3g}"
        before = any(r["alarm"] for r in self.gauge.records[:-1])
        if alarm is None or before:
            loop.run.show(loop.name, loop.spent, f"audit, step {record['step']}: reward {record['reward']:.3g}, {gold}")
            return
        best = self.gauge.best()
        kept = "" if best is None else (f"; best by gold: step {best['step']} ({best['gold']:.3g}), kept in "
                                        f"{loop.folder / BEST / str(best['step'])}")
        said = f"audit alarm {alarm} at step {record['step']}: {NAMES[alarm]} (reward {record['reward']:.3g}, {gold}){kept}"
        loop.run.show(loop.name, loop.spent, f"warning: {said}\n")
        if self.config.action == "stop":
            loop.ended = said
        elif self.config.action == "pause":
            loop.step += 1  # this step is done
            loop.checkpoints.write()
            raise UserError(f"stage {loop.name} paused: {said}; look at it, then go on: outdo run --resume {loop.run.folder}")


def signatures(card: Path) -> list[dict[str, Any]]:
    """How uses of the holes of a card of `outdo audit reward` are recognised. Raises UserError."""
    file = card / "card.json" if card.is_dir() else card
    if not file.is_file():
        raise UserError(f"audit.card = {str(card)!r} does not exist; outdo audit reward writes one")
    found = [f.get("signature") for f in files.read_json(file)["findings"] if f["verdict"] in ("FAIL", "WARN")]
    return [s for s in found if s and (s["pieces"] or s["empty"])]


def uses(t: Trajectory, patterns: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a completion uses one of the holes: all of a counterexample's own words stand in it, in order."""
    said = t.info.get("completion")
    text = said if isinstance(said, str) else "\n".join(str(m.get("content") or "") for m in said or ())
    return any(_matches(text, p) for p in patterns)


def _matches(text: str, pattern: Mapping[str, Any]) -> bool:
    if pattern["empty"]:
        return not text.strip()
    at = 0
    for piece in pattern["pieces"]:
        at = text.find(piece.strip(), at)
        if at < 0:
            return False
        at += len(piece.strip())
    return True


def _values(scores: Sequence[Score]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([np.nan if s.value is None else s.value for s in scores], np.float64)


def _plain(values: Any) -> list[float | None]:
    """As JSON, None for what has no score."""
    return [None if not np.isfinite(v) else round(float(v), 6) for v in np.asarray(values, np.float64)]


def _mean(x: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    return float(x.mean()) if len(x) else 0.0
