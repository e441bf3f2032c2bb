"""What each option may bring for the budget: a rough interpolation between the start and the option's ceiling.

The ceiling of imitation is the demonstrations' score, that of sampling methods lies between the best of k and 1. How much of
the way a budget buys is r / (r + r_half) with r rounds of 256 episodes; r_half stands in `HALF`, read off the runs of
docs/results. These are guesses with wide bands, and they are scored (`outdo advise --record`): take the order, not the digits.
"""

from __future__ import annotations

from outdo.advice.base import Advice, Measured, Option
from outdo.advice.rules import RULES

ROUND = 256  # episodes
HALF = {"sft": 100.0, "filtered_sft": 40.0, "sft_then_rl": 60.0, "rl": 40.0, "rejection": 35.0}  # rounds to half of the way
_TIE = 0.02
_ACTIONS = ("mend_judge", "preferences")  # no option that a budget of training buys


def advise(m: Measured, flops: float) -> Advice:
    """The first rule that applies, its reason with numbers, and the options by what they may bring."""
    rule, reason = next((r, said) for r in RULES if (said := r.applies(m)) is not None)
    ranked = sorted(options(m, flops), key=lambda o: -o.predicted)
    mine = next((o for o in ranked if o.name == rule.option), None)
    tie = tuple(o.name for o in ranked if mine and o.name != mine.name and abs(o.predicted - mine.predicted) < _TIE)
    return Advice(rule.option, (reason, *_more(m)), rule.name, tuple(ranked), _change(m, rule.option), tie)


def options(m: Measured, flops: float) -> list[Option]:
    """Every option that is possible here."""
    out = [Option("nothing", m.score.value, m.score.low, m.score.high, 0.0),
           Option("best_of_n", m.chosen.value, m.chosen.low, m.chosen.high, 0.0)]
    sampled = flops / max(1.0, ROUND * (m.flops_sample + m.flops_update))
    imitated = flops / max(1.0, ROUND * m.flops_update)
    far = m.best.value + 0.8 * (1 - m.best.value)
    if m.best.value > 0:
        for name in ("rl", "rejection"):
            out.append(_way(name, m.score.value, m.best.value, far, sampled, flops))
    if m.demonstrations is not None:
        d = m.demonstrations.value
        out.append(_way("sft", m.score.value, d, d, imitated, flops))
        if 0 < d < 1:
            out.append(_way("filtered_sft", m.score.value, d, min(1.0, d + 0.3), imitated, flops))
        begun = m.score.value + (d - m.score.value) * _share("sft", imitated / 2)
        out.append(_way("sft_then_rl", begun, max(d, m.best.value), max(far, d + 0.6 * (1 - d)), sampled / 2, flops))
    return out


def _share(name: str, rounds: float) -> float:
    return rounds / (rounds + HALF[name])


def _way(name: str, start: float, near: float, far: float, rounds: float, flops: float) -> Option:
    """From the start towards a ceiling that lies between near and far."""
    part = _share(name, rounds)
    mid = start + ((near + far) / 2 - start) * part
    low = start + (min(near, far) - start) * 0.2 * part  # a fifth of the way, and the whole of it: what runs showed
    return Option(name, mid, min(low, mid), max(near, far, mid), flops)


def _more(m: Measured) -> list[str]:
    out = [f"{m.same.value:.0%} of the prompts teach nothing (all samples scored alike), {m.middle.value:.0%} are right 20 to "
           "80 % of the time"]
    if m.truncated > 0.3:
        out.append(f"{m.truncated:.0%} of the samples were cut before their end: give more room first")
    if m.auc is not None:
        out.append(f"judge against gold within prompts: AUC {m.auc.value:.2f} [{m.auc.low:.2f}, {m.auc.high:.2f}]")
    out += [f"the audit of the reward: {a}" for a in m.audit]
    return out


def _change(m: Measured, option: str) -> str:
    if option == "mend_judge":
        return "a judge that tells right from wrong answers to the same prompt"
    if option in ("sft", "sft_then_rl"):
        return "demonstrations that score lower, or samples that reach them"
    if option in ("rl", "rejection"):
        return "demonstrations that score above the best of k samples" if m.demonstrations is None else \
            "better demonstrations, or a judge that is not what you want"
    return "prompts on which some samples are right" if option == "preferences" else "harder prompts"
