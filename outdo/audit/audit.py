"""The audit of a reward: what every check works with, and the order of things.

The positive control comes first: right answers must be accepted, in at least one known form. What rests on it and cannot be
looked at is NOT_EXERCISED, never a pass. Nothing here runs the reward in this process (`host`).
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from outdo import plugins
from outdo.audit import cases as reading
from outdo.audit.base import Case, Check, Finding, Result, Verdict, accepted, same
from outdo.audit.card import Card, interval_of_mean
from outdo.audit.cases import Template
from outdo.audit.host import Host
from outdo.errors import check
from outdo.evaluation.stats import wilson

MOST_CASES = 40  # of the data that are used: a deterministic reward needs no more
EXERCISED = 0.5  # share of right answers that must be accepted before attacks mean anything


class Audit:
    """A reward at work on the cases of a data set."""

    def __init__(
        self,
        host: Host,
        given: Sequence[Case],
        score_range: tuple[float, float] | None = None,
        accept: float | None = None,
        seed: int = 0,
        budget: int = 2000,
        declared: frozenset[str] = frozenset(),
    ) -> None:
        """declared: what the reward does on purpose: "stochastic", "group_relative", "length"."""
        self.host, self.seed, self.budget, self.declared = host, seed, budget, declared
        self._known: dict[tuple[Any, ...], Result] = {}
        some = list(given)
        if len(some) > MOST_CASES:
            some = random.Random(f"{seed} cases").sample(some, MOST_CASES)
        self.wrong = [c for c in some if c.right is False]
        self.right = self._with_completions([c for c in some if c.right is not False])
        self._range, self._accept = score_range, accept

    def rng(self, what: str) -> random.Random:
        """A generator of this audit's seed for one purpose."""
        return random.Random(f"{self.seed} {what}")

    # --- scores -------------------------------------------------------------------------------------------------------

    def score(self, cases: Sequence[Case]) -> list[Result]:
        """One by one; the same case is scored once."""
        keys = [(c.group, c.completion, repr(c.row), c.chat) for c in cases]
        new = {k: c for k, c in zip(keys, cases, strict=True) if k not in self._known}
        for key, result in zip(new, self.host.score(list(new.values())), strict=True):
            self._known[key] = result
        return [self._known[k] for k in keys]

    def accepts(self, cases: Sequence[Case]) -> list[bool]:
        """Which of these the reward counts as right."""
        return accepted(self.score(cases), self.accept)

    # --- right answers ------------------------------------------------------------------------------------------------

    def _with_completions(self, cases: Sequence[Case]) -> list[Case]:
        """Completions for rows that have none: the reference in the form that the reward pays best."""
        if all(c.completion for c in cases):
            return list(cases)
        without = [c for c in cases if not c.completion and c.reference]
        best, most = reading.FORMS[0], float("-inf")
        for form in reading.FORMS:
            values = [r.value for r in self.score([self.said(c, form) for c in without[:6]]) if r.value is not None]
            if values and statistics.fmean(values) > most + 1e-9:
                best, most = form, statistics.fmean(values)
        return [c if c.completion else self.said(c, best) for c in cases if c.completion or c.reference]

    def said(self, c: Case, form: str) -> Case:
        """The right answer in one of the common forms."""
        return c.saying(form.replace(reading.HOLE, c.reference or ""), True)

    @cached_property
    def gold(self) -> list[float]:
        """Scores of the right answers."""
        return [r.value for r in self.score(self.right) if r.value is not None]

    @cached_property
    def shuffled(self) -> list[Case]:
        """Right answers against another row's reference, which they do not equal: answers known to be wrong."""
        order = list(range(len(self.right)))
        self.rng("shuffled").shuffle(order)
        out = []
        for c, i in zip(self.right, order, strict=True):
            other = next(
                (o for k in range(len(order)) if not same((o := self.right[(i + k) % len(order)]).reference, c.reference)), None
            )
            if c.reference is not None and other is not None:
                out.append(c.against(other))
        return out

    @cached_property
    def known_wrong(self) -> list[Case]:
        """All answers that are known to be wrong."""
        return [*self.shuffled, *self.wrong]

    @cached_property
    def low(self) -> float:
        """The median score of wrong answers."""
        values = [r.value for r in self.score(self.known_wrong) if r.value is not None]
        return statistics.median(values) if values else min(self.gold, default=0.0)

    @cached_property
    def accept(self) -> float:
        """From here on a score counts as right: as declared, or halfway between wrong and right answers."""
        if self._accept is not None:
            return self._accept
        return (statistics.median(self.gold) + self.low) / 2 if self.gold else float("inf")

    @cached_property
    def range(self) -> tuple[float, float]:
        """Least and largest score: as declared, or seen on right and wrong answers and on junk."""
        if self._range is not None:
            return self._range
        nothing = [c.saying(text) for c in self.right[:4] for text in ("", "qzx")]
        least = [r.value for r in self.score([*self.known_wrong, *nothing]) if r.value is not None]
        return min([*least, *self.gold], default=0.0), max(self.gold, default=1.0)

    @cached_property
    def span(self) -> float:
        """Width of the range, at least a little."""
        return max(self.range[1] - self.range[0], 1e-9)

    @cached_property
    def separates(self) -> bool:
        """Whether right answers score above wrong ones at all."""
        return bool(self.gold) and statistics.median(self.gold) > self.low + 1e-9

    @cached_property
    def exercised(self) -> str:
        """Empty if right answers are accepted, so that a wrong one accepted means something; else why not."""
        if not self.right:
            return "the data has no right answers: rows with a reference, or with a completion"
        if not self.gold:
            first = self.score(self.right[:1])[0]
            return f"no right answer got a score ({first.error or 'None'})"
        if not self.separates and self._accept is None:
            return f"right answers score {statistics.median(self.gold):g}, wrong ones {self.low:g}: nothing tells them apart"
        share = statistics.fmean(self.accepts(self.right))
        return "" if share >= EXERCISED else f"only {share:.0%} of the right answers are accepted"

    # --- forms --------------------------------------------------------------------------------------------------------

    @cached_property
    def templates(self) -> list[tuple[Case, Template]]:
        """Rows with the form of their right answer, where a nonsense answer in it loses the score."""
        found = [(c, t) for c in self.right if (t := reading.template(c)) is not None]
        good = self.accepts([c for c, _ in found])
        found = [f for f, ok in zip(found, good, strict=True) if ok]
        empty = self.accepts([c.saying(t.fill("qzx")) for c, t in found])
        return [f for f, paid in zip(found, empty, strict=True) if not paid]

    @cached_property
    def forms(self) -> list[Template]:
        """Different forms, most frequent first."""
        counts: dict[Template, int] = {}
        for _, t in self.templates:
            counts[t] = counts.get(t, 0) + 1
        return sorted(counts, key=lambda t: -counts[t])[:4]

    def in_forms(self, c: Case, answer: str) -> list[Case]:
        """The answer in the case's own form, in the other forms, and bare."""
        own = reading.template(c)
        forms = list(dict.fromkeys([*([own] if own else []), *self.forms[:2]]))
        return [c.saying(t.fill(answer)) for t in forms] + [c.saying(answer)]

    def some(self, n: int, what: str) -> list[tuple[Case, Template]]:
        """n rows with their forms, the same for the same purpose."""
        rows = list(self.templates)
        return rows if len(rows) <= n else self.rng(what).sample(rows, n)

    # --- the whole ----------------------------------------------------------------------------------------------------

    def run(self, checks: Sequence[Check], progress: Callable[[str], None] = lambda text: None) -> Card:
        """All checks, a card."""
        findings = []
        for one in checks:
            progress(f"{one.id} {one.title}")
            findings.append(self.look(one))
        share = self.accepts(self.right) if self.right and self.gold else []
        false_fail = 1 - statistics.fmean(share) if share else None
        interval = wilson(len(share) - sum(share), len(share)) if share else None
        free = next((f for f in findings if f.id == "A14"), None)
        wrong = [r.value for r in self.score(self.known_wrong) if r.value is not None]
        return Card(
            reward=str(self.host.about.get("name", "?")),
            style=str(self.host.about.get("style", "?")),
            rows=len(self.right),
            wrong_rows=len(self.wrong),
            accept=self.accept if self.gold else None,
            score_range=self.range,
            calls=self.host.calls,
            restarts=self.host.restarts,
            free_reward=free.effect if free else None,
            free_interval=free.interval if free else None,
            right_mean=interval_of_mean(self.gold),
            highest_wrong=max(wrong, default=None),
            false_fail=false_fail,
            false_fail_interval=interval,
            exercised=self.exercised,
            forms=[t.fill("…") for t in self.forms],
            seed=self.seed,
            findings=findings,
        )

    def look(self, one: Check) -> Finding:
        """One check's finding; what breaks in it is an ERROR of its own."""
        if one.needs_accepted and self.exercised:
            return one.finding(Verdict.NOT_EXERCISED, self.exercised)
        try:
            found = one.run(self)
        except Exception as e:
            return one.finding(Verdict.ERROR, f"the check broke ({type(e).__name__}: {e})")
        if found.example is not None:
            found = replace(found, example={**found.example, "accept": self.accept})
        return found


def make_checks(names: Sequence[str] = (), only: Callable[[Check], bool] = lambda c: True) -> list[Check]:
    """Checks by id or by path (my_check.py:MyCheck); all of outdo's own if none are named. Raises UserError."""
    own: dict[str, Check] = {}
    for file in plugins.names("audit.checks"):
        kind = plugins.find("audit.checks", file, Check)  # type: ignore[type-abstract]
        own[kind.id] = kind()
    if not names:
        return [c for c in own.values() if only(c)]
    out = []
    for name in names:
        if ":" in name:
            out.append(plugins.find("audit.checks", name, Check)())  # type: ignore[type-abstract]
            continue
        found = [c for i, c in own.items() if i == name.upper() or (len(name) == 1 and i.startswith(name.upper()))]
        check(bool(found), f"no check {name!r}; there is {', '.join(own)}, or my_check.py:MyCheck")
        out += found
    return out


def audit_reward(
    reward: Any,
    data: Any,
    *,
    columns: Mapping[str, str] | None = None,
    score_range: tuple[float, float] | None = None,
    accept: float | None = None,
    checks: Sequence[str] = (),
    declared: Sequence[str] = (),
    seed: int = 0,
    budget: int = 2000,
    timeout_s: float = 5.0,
    memory_bytes: int = 2 << 30,
    offline: bool = True,
    progress: Callable[[str], None] = lambda text: None,
) -> Card:
    """Audit a reward before anything is trained on it -> `Card`.

    reward: a function in TRL's, verl's, verifiers' or OpenRLHF's signature, `score(answer, reference)`, a reasoning-gym data set,
    a verifiers' rubric, a judge; or one by name ("my_rewards.py:fn", "math", '{ name = "sum", ... }'). data: rows, or what
    `outdo.text.rows.load` reads: a prompt, a reference and, best, a completion that is right. declared: what it does on purpose
    ("stochastic", "group_relative", "length"). It runs in a process of its own. Raises UserError.
    """
    from outdo.audit import scorer

    given = reading.load(data, columns)
    for word in declared:
        check(
            word in ("stochastic", "group_relative", "length"), f"declared {word!r}; there is stochastic, group_relative, length"
        )
    chosen = make_checks(checks)
    named = (lambda: scorer.load(reward)) if isinstance(reward, str) else (lambda: reward)
    with Host(named, timeout_s, memory_bytes, offline) as host:
        card = Audit(host, given, score_range, accept, seed, budget, frozenset(declared)).run(chosen, progress)
    return replace(
        card,
        of=reward if isinstance(reward, str) else "",
        options={
            "score_range": score_range,
            "accept": accept,
            "declared": list(declared),
            "seed": seed,
            "budget": budget,
            "columns": dict(columns or {}),
            "timeout_s": timeout_s,
        },
    )
