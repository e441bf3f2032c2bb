"""RL forgets less than imitation. Needs: evaluation.corpus."""

from __future__ import annotations

from collections.abc import Iterator

from outdo.compare import forgetting
from outdo.compare.deciding import SAME_BUDGET
from outdo.compare.evidence import Evidence
from outdo.compare.words import Verdict, diff, make, nats

PLACE = 120  # in the report


def claim(e: Evidence) -> Iterator[Verdict]:
    """Nats per token on the corpus, reinforcement against more imitation (the claim is Shenfeld et al.'s, 2509.04259)."""
    if not e.rl or not e.more_imitation:
        return
    ours, theirs = e.read(e.rl), e.read(e.more_imitation)
    d = forgetting.difference(ours, theirs)
    if d is None or ours is None:
        return
    spent = sorted(e.budget(n) for n in (e.rl, e.more_imitation))
    if spent[1] > spent[0] * (1 + SAME_BUDGET):
        yield make("forgets_less", "At equal FLOPs reinforcement forgets less than more imitation", "not measurable here",
                   f"The budgets differ ({spent[0]:.2g} and {spent[1]:.2g} FLOPs), and the corpus is read at the ends alone.")
        return
    changes = {n: forgetting.difference(e.read(n), e.read(e.recipe.path(n)[0], last=False)) for n in (e.rl, e.more_imitation)}
    said = " and ".join(f"{n} {nats(c)}" for n, c in changes.items() if c)
    verdict = {"lower": "supported", "higher": "contradicted"}.get(d.verdict, d.verdict)
    yield make("forgets_less", "At equal FLOPs reinforcement forgets less than more imitation", verdict,
               f"On a text that no stage trained on the loss changed since the start by: {said}; the one less the other "
               f"{nats(d)} ({d.n} passages, {ours[0]['tokens']:,} tokens, paired; {d.seeds} training seed{'s' * (d.seeds > 1)}).",
               difference=diff(d))
