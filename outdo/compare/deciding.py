"""How claims are decided: paired differences on the same prompts, at the end of two stages or at a cost that both reached."""

from __future__ import annotations

from collections.abc import Iterator

from outdo.compare.evidence import Evidence, Items
from outdo.compare.words import Verdict, diff, gets, make, points, rate, size
from outdo.evaluation.stats import paired_difference

MARGIN = 0.05  # "within a few points": half the width that a business would notice
CONTROL_MARGIN = 0.03
SAME_BUDGET = 0.05  # share by which budgets may differ and still be called equal: a step more or less
GOLD = "gold"  # the player that writes the right answers: nobody beats it



def compare(e: Evidence, id: str, claim: str, a: str, b: str, b_items: Items | None, decode: str = "greedy",
            b_name: str | None = None) -> Iterator[Verdict]:
    """Claim: stage a scores higher than b."""
    ours = e.final(a, decode)
    if ours is None or b_items is None:
        return
    yield verdict_of(e, id, claim, a, b, ours, b_items, decode, b_name)


def verdict_of(e: Evidence, id: str, claim: str, a: str, b: str, ours: Items, b_items: Items, decode: str,
               b_name: str | None = None, where: str = "") -> Verdict:
    """Claim: the scores of a are higher than those of b. where: at which cost, if not at the end of both."""
    d = paired_difference(ours, b_items)
    verdict = {"higher": "supported", "lower": "contradicted"}.get(d.verdict, d.verdict)
    against = f" against {e.opponents[0]}" if e.counted == "games" else ""
    text = (f"{where}{a} ({decode}) {gets(e, rate(e, ours))}{against}, {b_name or b} {rate(e, b_items)}: {points(e, d)} "
            f"({size(e, d)}).")
    return make(id, claim, verdict, text, difference=diff(d), a=a, b=b, decode=decode)


def at_equal_cost(e: Evidence, id: str, claim: str, a: str, b: str, decode: str) -> Iterator[Verdict]:
    """Claim: at the same FLOPs a scores higher than b. Decided at a cost that both reached."""
    ours, theirs = e.final(a, decode), e.final(b, decode)
    if ours is None or theirs is None:
        return
    spent = {name: e.budget(name) for name in (a, b)}
    common = min(spent.values())
    if max(spent.values()) <= common * (1 + SAME_BUDGET):
        yield verdict_of(e, id, claim, a, b, ours, theirs, decode)
        return
    ours, theirs = e.at(a, decode, common), e.at(b, decode, common)
    if ours is None or theirs is None:
        said = " and ".join(f"{name} {flops:.2g} FLOPs" for name, flops in spent.items())
        yield make(id, claim, "not measurable here", f"The budgets differ ({said}) and the evaluations along the way are too "
                   "few to compare at the same cost; give both arms the same budget, or raise evaluation.points.", spent=spent)
        return
    yield verdict_of(e, id, claim, a, b, ours, theirs, decode, where=f"At {common:.2g} FLOPs past the shared start, which both "
                     "reached (interpolated between evaluations): ")
