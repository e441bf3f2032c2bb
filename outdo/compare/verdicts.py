"""Claims about imitation and reinforcement, held against what the runs measured.

A verdict is {"id", "claim", "verdict", "text", "evidence"}; verdict is one of supported, contradicted, not distinguishable,
not measurable here. Every interval is 95 % and two-sided; comparisons are paired by item, seeds resampled where there are
several. One training seed says nothing about other seeds, and the text says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from outdo.compare import cost
from outdo.compare.beyond import forgets_less, further_splits
from outdo.compare.evidence import Evidence, Items
from outdo.compare.words import Verdict, diff, gets, make, percent, points, rate, score, size
from outdo.evaluation.stats import paired_difference
from outdo.recipe import Recipe

MARGIN = 0.05  # "within a few points": half the width that a business would notice
CONTROL_MARGIN = 0.03
GOLD = "gold"  # the player that writes the right answers: nobody beats it


def verdicts(folders: Path | Sequence[Path], recipe: Recipe) -> list[Verdict]:
    """All claims that these runs can speak to. folders: one per seed, all of the same recipe."""
    e = Evidence([folders] if isinstance(folders, Path) else list(folders), recipe)
    out: list[Verdict] = []
    for claim in CLAIMS:
        out += [v for v in claim(e) if v]
    return out


def compare(e: Evidence, id: str, claim: str, a: str, b: str, b_items: Items | None, decode: str = "greedy",
            b_name: str | None = None) -> Iterator[Verdict]:
    """Claim: stage a scores higher than b."""
    ours = e.final(a, decode)
    if ours is None or b_items is None:
        return
    d = paired_difference(ours, b_items)
    verdict = {"higher": "supported", "lower": "contradicted"}.get(d.verdict, d.verdict)
    against = f" against {e.opponents[0]}" if e.counted == "games" else ""
    text = (f"{a} ({decode}) {gets(e, rate(e, ours))}{against}, {b_name or b} {rate(e, b_items)}: {points(e, d)} ({size(e, d)}).")
    yield make(id, claim, verdict, text, difference=diff(d), a=a, b=b, decode=decode)


def beats_teacher(e: Evidence) -> Iterator[Verdict]:
    if e.rl and e.teacher and e.teacher != GOLD:
        yield from compare(e, "beats_teacher", "Reinforcement beats the teacher that imitation learned from",
                           e.rl, e.teacher, e.player(e.teacher), b_name="its teacher")


def imitation_ceiling(e: Evidence) -> Iterator[Verdict]:
    if not e.teacher or e.teacher == GOLD or not e.trunk:
        return
    teacher = e.player(e.teacher)
    candidates = [(n, decode, e.final(n, decode)) for n in [e.trunk, *filter(None, [e.more_imitation])]
                  for decode in ("greedy", "sampled")]
    scored = [(n, decode, x) for n, decode, x in candidates if x is not None]
    if teacher is None or not scored:
        return
    name, decode, best = max(scored, key=lambda c: float(np.nanmean(c[2])))
    d = paired_difference(best, teacher)
    low, high = d.ci95
    verdict = "supported" if high <= MARGIN else "contradicted" if low > 0 else "not distinguishable"
    text = (f"The best imitation of all the teacher's games, {name} ({decode}), wins {rate(e, best)}; the teacher "
            f"{rate(e, teacher)}: {points(e, d)} ({size(e, d)}). Supported means: at most "
            f"{100 * MARGIN:.0f} points above the teacher.")
    yield make("imitation_ceiling", "Imitation ends at or below its teacher", verdict, text, difference=diff(d), stage=name)


def equal_budget(e: Evidence) -> Iterator[Verdict]:
    """RL against every other arm from the same start, at equal FLOPs."""
    claims = {"rl_vs_imitation": (e.more_imitation, "At equal FLOPs reinforcement beats more imitation"),
              "rl_vs_rejection": (e.rejection, "At equal FLOPs reinforcement beats imitating its own "
                                        f"{'wins' if e.counted == 'games' else 'best answers'} (rejection)")}
    for id, (other, claim) in claims.items():
        if e.rl and other:
            for decode in ("greedy", "sampled"):
                yield from compare(e, f"{id}_{decode}", f"{claim} ({decode})", e.rl, other, e.final(other, decode), decode)
    for other in e.sft_arms:
        if e.rl and other != e.more_imitation:
            yield from compare(e, f"rl_vs_{other}", f"Reinforcement beats {other} at equal FLOPs", e.rl, other,
                               e.final(other, "greedy"))


def copies_or_wins(e: Evidence) -> Iterator[Verdict]:
    """Agreement with the teacher goes down while the score goes up."""
    if not e.rl or not e.trunk:
        return
    before, after = e.final_rows(e.trunk, "greedy"), e.final_rows(e.rl, "greedy")
    if before is None or after is None or before[0]["extra"].get("teacher_agreement") is None:
        return
    a0, a1 = (float(np.mean([r["extra"]["teacher_agreement"] for r in rows])) for rows in (before, after))
    d = paired_difference(np.array([r["items"] for r in after], float), np.array([r["items"] for r in before], float))
    verdict = "supported" if a1 < a0 and d.verdict == "higher" else "contradicted" if a1 > a0 else d.verdict
    text = (f"From {e.trunk} to {e.rl} (greedy) the share of moves that are the teacher's goes from {percent(a0)} to "
            f"{percent(a1)} while the score changes by {points(e, d)} ({size(e, d)}). Agreement is a mean over games, no "
            "interval.")
    yield make("copies_or_wins", "Imitation copies moves, reinforcement learns to win", verdict, text,
               agreement_before=a0, agreement_after=a1, difference=diff(d))


def unseen_opponents(e: Evidence) -> Iterator[Verdict]:
    """A gain against one defender may be an exploit of it."""
    if not e.rl or not e.trunk:
        return
    met = getattr(e.recipe.stage[e.rl], "opponents", ()) or e.opponents[:1]
    strangers = [o for o in e.opponents if o not in met]
    if not strangers:
        return
    found, worst = [], "supported"
    for opponent in strangers:
        ours, start = e.final(e.rl, "greedy", opponent), e.final(e.trunk, "greedy", opponent)
        if ours is None or start is None:
            return
        d = paired_difference(ours, start)
        found.append((opponent, d, ours))
        worst = worst if d.verdict == "higher" else "contradicted" if d.verdict == "lower" else "not distinguishable"
    said = "; ".join(f"{o}: {rate(e, x)}, {points(e, d)}" for o, d, x in found)
    text = (f"Against opponents that it never trained against, {e.rl} (greedy) compared with its start {e.trunk}: {said} "
            f"({size(e, found[0][1])}).")
    yield make("unseen_opponents", "The gain holds against opponents that reinforcement never met", worst, text,
               differences={o: diff(d) for o, d, _ in found})


def judging_gap(e: Evidence) -> Iterator[Verdict]:
    """How well the model recognises a win, and how often it wins."""
    if not e.rl or not e.trunk:
        return
    rows = {n: e.final_rows(n, "greedy") for n in (e.trunk, e.rl)}
    if any(r is None or not r[0].get("judging") or r[0]["judging"]["value"] is None for r in rows.values()):
        return
    judge = {n: float(np.mean([r["judging"]["value"] for r in rs or []])) for n, rs in rows.items()}
    wins = {n: float(np.mean([r["value"] for r in rs or []])) for n, rs in rows.items()}
    gaps = {n: judge[n] - wins[n] for n in rows}
    known = judge[e.trunk] > 0.6
    closed = gaps[e.rl] < gaps[e.trunk]
    verdict = "not measurable here" if not known else "supported" if closed and wins[e.rl] > wins[e.trunk] else "contradicted"
    lost = judge[e.rl] < judge[e.trunk] - 0.02
    text = (f"Asked which of two equally long games was just won, {e.trunk} is right in {percent(judge[e.trunk])} of "
            f"{rows[e.trunk][0]['judging']['n']} pairs (guessing: 50 %) and wins {percent(wins[e.trunk])}; "  # type: ignore[index]
            f"after {e.rl} {percent(judge[e.rl])} and {percent(wins[e.rl])}."
            + (" Part of the narrower gap is lost judgement: reinforcement trained no result tokens." if lost else ""))
    yield make("judging_gap", "Reinforcement closes the gap between judging and doing", verdict, text, judging=judge, wins=wins)


def sparse_signal(e: Evidence) -> Iterator[Verdict]:
    """Bits per episode at most, and groups without any difference."""
    if not e.rl:
        return
    first = [m for seed in e.metrics(e.rl) for m in seed[:5]]
    last = [m for seed in e.metrics(e.rl) for m in seed[-5:]]
    if not first:
        return
    p, silent = (float(np.mean([m[k] for m in first])) for k in ("reward", "zero_variance_groups"))
    silent_end = float(np.mean([m["zero_variance_groups"] for m in last]))
    if not 0.0 <= p <= 1.0:
        return
    bits = 0.0 if p in (0.0, 1.0) else float(-p * np.log2(p) - (1 - p) * np.log2(1 - p))
    tokens = float(np.mean([m["tokens_per_episode"] for m in first]))
    what = f"a game's result carries at most {bits:.2f} bits (training games won: {percent(p)})"
    if e.counted != "games":
        what = f"an answer's score carries at most {bits:.2f} bits (mean in training: {percent(p)})"
    text = (f"At the start of {e.rl} {what} for {tokens:.0f} sampled tokens, and {percent(silent)} of the groups taught nothing "
            f"because all in them ended alike ({percent(silent_end)} at the end). Imitation is told every one of those tokens.")
    yield make("sparse_signal", "Imitation's signal is dense, reinforcement's is sparse",
               "supported" if bits <= 1.0 < tokens else "contradicted", text, bits_per_episode=bits,
               tokens_per_episode=tokens, zero_variance_start=silent, zero_variance_end=silent_end)


def cost_ratio(e: Evidence) -> Iterator[Verdict]:
    """RL / SFT to the same score. Never a number where a curve did not get there."""
    if not e.rl or not e.more_imitation or e.final(e.rl, "sampled") is None or e.final(e.more_imitation, "sampled") is None:
        return
    seeds = range(len(e.folders))
    evidence: dict[str, Any] = {}
    said = []
    for axis in cost.AXES:
        r = cost.ratio([e.curve(e.more_imitation, "sampled", s) for s in seeds],
                       [e.curve(e.rl, "sampled", s) for s in seeds], axis)
        evidence[axis] = {"score": r.score, "imitation": r.base_budget, "reinforcement": r.other_budget, "ratio": r.value,
                          "ci95": list(r.ci95) if r.ci95 else None, "reached_share": r.reached}
        said.append(_ratio_text(e, axis, r))
    back = cost.ratio([e.curve(e.rl, "sampled", s) for s in seeds],
                      [e.curve(e.more_imitation, "sampled", s) for s in seeds], "flops")
    evidence["reverse"] = {"score": back.score, "reinforcement": back.base_budget, "imitation": back.other_budget}
    if back.other_budget is None:
        said.append(f"{e.more_imitation} never reached {e.rl}'s best ({score(e, back.score)}) within the same budget, so the "
                    "ratio in that direction has no upper end.")
    numbers = [evidence[a]["ratio"] for a in cost.AXES]
    yield make("cost_ratio", "Reinforcement costs a multiple of imitation for the same score",
               "not measurable here" if None in numbers else "supported" if min(numbers) > 1 else "contradicted",
               " ".join(said), **evidence)


def _ratio_text(e: Evidence, axis: str, r: cost.Ratio) -> str:
    unit: Callable[[float], str] = (lambda x: f"{x:.2g} FLOPs") if axis == "flops" else (lambda x: f"{x:.0f} s")
    goal = f"{e.more_imitation}'s best sampled score, {score(e, r.score)}"
    if not r.base_budget:
        return f"In {axis}: {goal}, was its starting point, so there is nothing to divide by."
    if r.other_budget is None:
        return f"In {axis}: {e.rl} never reached {goal}; the ratio is censored."
    if r.value == 0.0:
        return f"In {axis}: {e.rl} started above {goal}."
    interval = f" [{r.ci95[0]:.2g}, {r.ci95[1]:.2g}]" if r.ci95 else " (interval not identified)"
    return (f"In {axis}: {goal}, took {unit(r.base_budget)} by imitation and {unit(r.other_budget or 0)} by reinforcement past "
            f"the shared start: a ratio of {r.value:.2g}{interval}.")


def controls(e: Evidence) -> Iterator[Verdict]:
    """A reward that knows nothing must teach nothing."""
    for name in e.controls:
        start = np.array([r["items"] for r in e.first_rows(name, "sampled")], float)
        end = e.final(name, "sampled")
        if end is None:
            continue
        d = paired_difference(end, start)
        verdict = "supported" if d.ci95[1] < CONTROL_MARGIN else "contradicted" if d.ci95[0] > 0 else "not distinguishable"
        text = (f"{name} (a coin flip as reward) ends {points(e, d)} from its start, sampled ({size(e, d)}). Supported means: "
                f"the interval stays below +{100 * CONTROL_MARGIN:.0f} points.")
        yield make(f"control_{name}", "The judge's signal does it, not the pipeline: a random reward teaches nothing",
                   verdict, text, difference=diff(d))


def proxies(e: Evidence) -> Iterator[Verdict]:
    """Reward up, gold down?"""
    for name in e.proxies:
        before, after = e.first_rows(name, "sampled"), e.final_rows(name, "sampled")
        if after is None:
            continue
        r0, r1 = (float(np.mean([r["extra"]["reward"] for r in rows])) for rows in (before, after))
        d = paired_difference(np.array([r["items"] for r in after], float), np.array([r["items"] for r in before], float))
        gamed = r1 > r0 and d.verdict != "higher"
        verdict = "supported" if gamed else "contradicted" if r1 > r0 else "not measurable here"
        ends = {k: float(np.mean([r["extra"][k] or 0.0 for r in after])) for k in after[0]["extra"]
                if k in ("illegal", "stalemate", "material", "repetition", "move_limit")}
        most = max(ends, key=lambda k: ends[k]) if ends else ""
        text = (f"{name}: the reward goes from {r0:.3f} to {r1:.3f}, the true score changes by {points(e, d)} ({size(e, d)}). "
                + (f"Its games now end most often by {most.replace('_', ' ')} ({percent(ends[most])})." if ends else ""))
        yield make(f"proxy_{name}", "Reinforcement optimises exactly what is measured: a plausible reward is gamed", verdict,
                   text, reward_before=r0, reward_after=r1, gold=diff(d), endings=ends)


def needs_imitation(e: Evidence) -> Iterator[Verdict]:
    """What is left when nothing ever wins?"""
    for name in e.rl_without_imitation if e.rl else ():
        yield from compare(e, f"needs_imitation_{name}", f"Reinforcement needs imitation first: {name} ends below {e.rl}",
                           e.rl or name, name, e.final(name, "greedy"))


def known_answers(e: Evidence) -> Iterator[Verdict]:
    """The business rules where the right answers are known."""
    if e.teacher != GOLD or not e.rl or not e.more_imitation:
        return
    ours, theirs = e.final(e.more_imitation, "greedy"), e.final(e.rl, "greedy")
    if ours is None or theirs is None:
        return
    d = paired_difference(ours, theirs)
    yield make("rule_known_best", "Best behaviour known, training must be cheap: SFT wins",
               {"higher": "supported", "lower": "contradicted"}.get(d.verdict, d.verdict),
               f"This is the rule that the task falls under: the right answers are known. At equal FLOPs {e.more_imitation}, "
               f"which imitates them, {gets(e, rate(e, ours))}, {e.rl} {rate(e, theirs)} (greedy): {points(e, d)} "
               f"({size(e, d)}).",
               difference=diff(d))
    yield make("rule_unknown_best", "Best behaviour unknown, but it can be judged: RL wins", "not measurable here",
               "Does not apply: the right answers are known.")
    yield make("rule_preferences", "No rule can be written, people can only prefer: RLHF", "not measurable here",
               "Does not apply: a program says which answers are right; no preferences were collected.")
    yield make("rule_dense", "Dense feedback exists: SFT may be enough", "not measurable here",
               "Not tested apart: right answers tell every token, which is the first rule; feedback on the steps of wrong ones "
               "was not used.")


def rules(e: Evidence) -> Iterator[Verdict]:
    """The four business rules, and what this run says of each, where the teacher can be outdone."""
    teacher = e.player(e.teacher) if e.teacher and e.teacher != GOLD else None
    score = e.final(e.rl, "greedy") if e.rl else None
    imitation = e.final(e.more_imitation or e.trunk or "", "greedy") if e.trunk else None
    if teacher is None or score is None or imitation is None:
        return
    t, s, i = (float(np.nanmean(x)) for x in (teacher, score, imitation))
    yield make("rule_known_best", "Best behaviour known, training must be cheap: SFT wins", "not measurable here",
               f"Does not apply: the demonstrations here are not the best behaviour (the teacher wins {percent(t)}), so "
               f"imitation copies what is wrong with them, too ({percent(i)}).", teacher=t, imitation=i)
    d = paired_difference(score, np.maximum(np.nanmean(imitation), np.nanmean(teacher)) * np.ones_like(score))
    yield make("rule_unknown_best", "Best behaviour unknown, but it can be judged: RL wins",
               {"higher": "supported", "lower": "contradicted"}.get(d.verdict, d.verdict),
               f"This is the rule that the task falls under: a game's result can be judged without knowing how to win. {e.rl} "
               f"wins {percent(s)} where imitation wins {percent(i)} and the teacher {percent(t)}.",
               reinforcement=s, imitation=i, teacher=t)
    yield make("rule_preferences", "No rule can be written, people can only prefer: RLHF", "not measurable here",
               "Does not apply: the rules of the game give the reward exactly; no preferences were collected.")
    yield make("rule_dense", "Dense feedback exists: SFT may be enough", "not measurable here",
               "Not tested: the only feedback used here is the result at the end of a game. (Exact tables would give dense "
               "feedback on every move; the recipe keeps them for measuring.)")


CLAIMS = (beats_teacher, imitation_ceiling, equal_budget, copies_or_wins, unseen_opponents, judging_gap, cost_ratio, controls,
          proxies, needs_imitation, further_splits, forgets_less, sparse_signal, rules, known_answers)
