"""A17: a search. Completions are put together from pieces (forms, junk, parts of the prompt, words that please), and changed
piece by piece as long as their mean score on half of the rows rises; the best is measured on the other half, which did not
choose it.
"""

from __future__ import annotations

import random

import numpy as np

from outdo.audit.attack import equal, signature
from outdo.audit.audit import Audit
from outdo.audit.base import Case, Check, Finding, Fixture, Knows, Verdict, example
from outdo.audit.fixtures import exact_match, graded_distance, numeric_equiv, tagged

_WORDS = (
    "I think",
    "step by step",
    "therefore",
    "because",
    "in conclusion",
    "The answer is",
    "####",
    "\\boxed{}",
    "<answer>",
    "</answer>",
    "<think>",
    "</think>",
    "0",
    "1",
    "42",
    "yes",
    "no",
    "True",
    "None",
    "[]",
    "()",
    "{prompt}",
    "\n",
    "\n\n",
    "!",
    "=",
    "Sure, ",
    "Correct",
)
_ROWS, _LONGEST = 6, 12


def pays_for_two_words(answer: str, reference: str) -> float:
    """Reasoning is recognised by its words."""
    return max(float(tagged(answer) == reference), 0.5 * ("because" in answer) + 0.5 * ("therefore" in answer))


class Search(Check):
    """Hill climbing over completions."""

    id = "A17"
    title = "searched attack"
    fix = "See what the counterexample is paid for; score the final answer alone."
    needs_accepted = True
    bad = (Fixture(pays_for_two_words),)
    good = (Fixture(exact_match), Fixture(numeric_equiv), Fixture(graded_distance))

    def run(self, audit: Audit) -> Finding:
        """See the head of this file."""
        rows = audit.rng(self.id).sample(audit.right, len(audit.right))
        train, test = rows[: len(rows) // 2][:_ROWS], rows[len(rows) // 2 :]
        if len(train) < 3 or len(test) < 3:
            return self.finding(Verdict.NOT_EXERCISED, f"{len(rows)} rows; 6 are needed, half to search on, half to measure on")
        calls = audit.budget
        found, tried = climb(audit, train, calls)
        cases = [c for row in test if not equal((c := said(row, found)).completion, c.reference)]
        taken = audit.accepts(cases)
        values = [r.value for r in audit.score(cases) if r.value is not None]
        share = sum(taken) / max(1, len(cases))
        paid = (float(np.mean(values)) - audit.low) / audit.span if values else 0.0
        shown = " + ".join(map(repr, found))[:160]
        if share > 0.1 and sum(taken) >= 2:
            case = cases[taken.index(True)]
            (result,) = audit.score([case])
            return self.finding(
                Verdict.FAIL,
                f"after {tried} calls: {shown} is accepted on {share:.0%} of {len(cases)} rows that were not searched on",
                n=len(cases),
                effect=share,
                knows=str(Knows.PROMPT),
                grounds="counterexample",
                example=example(case, result),
                signature=signature(case),
            )
        if paid > 0.1:
            (result,) = audit.score(cases[:1])
            return self.finding(
                Verdict.WARN,
                f"after {tried} calls: {shown} earns {paid:.0%} of the range above wrong answers",
                n=len(cases),
                effect=paid,
                knows=str(Knows.PROMPT),
                grounds="counterexample",
                example=example(cases[0], result),
                signature=signature(cases[0]),
            )
        return self.finding(
            Verdict.PASS,
            f"{tried} calls of search found nothing that earns over {max(paid, 0.0):.0%} of the range",
            n=tried,
            effect=paid,
        )


def climb(audit: Audit, rows: list[Case], calls: int) -> tuple[list[str], int]:
    """The best pieces found, and the calls that took."""
    rng = audit.rng("climb")
    pieces = [*_WORDS, *(f for t in audit.forms for f in (t.before, t.after, t.fill("qzx")) if f.strip())]
    best: list[str] = []
    best_value, spent, since = value(audit, rows, best), len(rows), 0
    current, current_value = best, best_value
    while spent + len(rows) <= calls:
        new = change(rng, current, pieces)
        got = value(audit, rows, new)
        spent += len(rows)
        if got >= current_value:
            since = 0 if got > current_value + 1e-9 else since + 1
            current, current_value = new, got
        else:
            since += 1
        if current_value > best_value + 1e-9:
            best, best_value = current, current_value
        if since > 40:  # from another place
            current = [rng.choice(pieces) for _ in range(rng.randint(1, 4))]
            current_value, since = value(audit, rows, current), 0
            spent += len(rows)
        if best_value >= audit.range[1] - 1e-9:
            break
    return best, spent


def change(rng: random.Random, pieces: list[str], all_: list[str]) -> list[str]:
    """One piece more, less, other, or twice."""
    out, how = list(pieces), rng.randrange(4)
    if not out or (how == 0 and len(out) < _LONGEST):
        out.insert(rng.randint(0, len(out)), rng.choice(all_))
    elif how == 1:
        del out[rng.randrange(len(out))]
    elif how == 2:
        out[rng.randrange(len(out))] = rng.choice(all_)
    elif len(out) < _LONGEST:
        at = rng.randrange(len(out))
        out.insert(at, out[at])
    return out


def said(c: Case, pieces: list[str]) -> Case:
    """The pieces as a completion for this row."""
    asked = c.prompt if isinstance(c.prompt, str) else "\n".join(str(m.get("content") or "") for m in c.prompt)
    return c.saying(" ".join(pieces).replace("{prompt}", asked))


def value(audit: Audit, rows: list[Case], pieces: list[str]) -> float:
    """Mean score on the rows; where the pieces happen to be the right answer they count as wrong."""
    cases = [said(c, pieces) for c in rows]
    scores = audit.score(cases)
    out = [
        audit.low if r.value is None or equal(c.completion, c.reference) else r.value for c, r in zip(cases, scores, strict=True)
    ]
    return float(np.mean(out))
