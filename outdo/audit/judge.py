"""The audit of a judge (a language model, a reward model, any function that gives a number) on labelled answers.

Attacks are matched: the same wrong answer with and without the treatment, exact McNemar on the flips, all families of a card
under one level (Holm), and an effect of at least five points. Raw acceptance would call every lenient judge gamed.
"""

from __future__ import annotations

import hashlib
import random
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from outdo import plugins
from outdo.audit import cases as reading
from outdo.audit.base import Case, Check, Finding, Result, Verdict, bound, example
from outdo.audit.card import Card, interval_of_mean
from outdo.audit.host import Host
from outdo.errors import UserError, check
from outdo.evaluation.agreement import holm, mcnemar, pairs_needed
from outdo.evaluation.stats import wilson

FLOOR, LEVEL = 0.05, 0.05
_MOST = 120  # answers of a kind that are treated


class JudgeAudit:
    """A judge at work on labelled answers."""

    def __init__(
        self,
        host: Host,
        labelled: Sequence[Case],
        accept: float | None = None,
        repeats: int = 3,
        seed: int = 0,
        second: Host | None = None,
        pairs: Sequence[Mapping[str, Any]] = (),
        of: Any = None,
    ) -> None:
        self.host, self.second, self.repeats, self.seed, self.pairs, self.of = host, second, repeats, seed, list(pairs), of
        prompts = {p: i for i, p in enumerate(dict.fromkeys(repr(c.prompt) for c in labelled))}
        self.cases = [replace(c, group=prompts[repr(c.prompt)]) for c in labelled]
        self._known: dict[tuple[Any, ...], Result] = {}
        self._accept = accept

    def rng(self, what: str) -> random.Random:
        """A generator of this audit's seed for one purpose."""
        return random.Random(f"{self.seed} {what}")

    def score(self, cases: Sequence[Case]) -> list[Result]:
        """One by one; the same case is scored once."""
        keys = [(c.group, c.completion, repr(c.row)) for c in cases]
        new = {k: c for k, c in zip(keys, cases, strict=True) if k not in self._known}
        for key, result in zip(new, self.host.score(list(new.values())), strict=True):
            self._known[key] = result
        return [self._known[k] for k in keys]

    @cached_property
    def scored(self) -> list[tuple[Case, float]]:
        """The labelled answers that have a score."""
        return [(c, r.value) for c, r in zip(self.cases, self.score(self.cases), strict=True) if r.value is not None]

    @cached_property
    def accept(self) -> float:
        """From here on the judge says yes: as declared, one half for scores in [0, 1], else halfway between the medians."""
        if self._accept is not None:
            return self._accept
        values = [v for _, v in self.scored]
        if not values or (min(values) >= 0.0 and max(values) <= 1.0):
            return 0.5
        sides = [[v for c, v in self.scored if c.right is side] for side in (True, False)]
        return float(sum(np.median(s) for s in sides) / 2) if all(sides) else float(np.median(values))

    def accepts(self, cases: Sequence[Case]) -> list[bool | None]:
        """Yes, no, or None without a score."""
        return [None if r.value is None else r.value >= self.accept for r in self.score(cases)]

    def arrays(self) -> tuple[Any, Any, Any]:
        """Scores, rightness and prompt numbers of the labelled answers that have a score."""
        return (
            np.array([v for _, v in self.scored]),
            np.array([bool(c.right) for c, _ in self.scored]),
            np.array([c.group for c, _ in self.scored]),
        )

    def wrong(self, what: str, n: int = _MOST) -> list[Case]:
        """Wrong answers, the same for the same purpose."""
        some = [c for c in self.cases if c.right is False]
        return some if len(some) <= n else self.rng(what).sample(some, n)

    def run(self, checks: Sequence[JudgeCheck], progress: Callable[[str], None] = lambda text: None) -> Card:
        """All checks, a card."""
        findings = []
        for one in checks:
            progress(f"{one.id} {one.title}")
            try:
                findings.append(one.run(self))  # type: ignore[arg-type]
            except Exception as e:
                findings.append(one.finding(Verdict.ERROR, f"the check broke ({type(e).__name__}: {e})"))
        findings = _one_family(findings)
        right = [c for c in self.cases if c.right]
        taken = [a for a in self.accepts(right) if a is not None]
        refused = len(taken) - sum(taken)
        values = [v for c, v in self.scored if c.right]
        wrong = [v for c, v in self.scored if c.right is False]
        every = [v for _, v in self.scored]
        return Card(
            reward=str(self.host.about.get("name", "?")),
            style=str(self.host.about.get("style", "?")),
            rows=len(right),
            wrong_rows=len(self.cases) - len(right),
            accept=self.accept,
            score_range=(min(every, default=0), max(every, default=0)),
            calls=self.host.calls,
            restarts=self.host.restarts,
            free_reward=None,
            free_interval=None,
            right_mean=interval_of_mean(values),
            highest_wrong=max(wrong, default=None),
            false_fail=refused / len(taken) if taken else None,
            false_fail_interval=wilson(refused, len(taken)) if taken else None,
            exercised="" if every else "no answer got a score",
            forms=[],
            seed=self.seed,
            findings=findings,
            kind="judge",
        )


class JudgeCheck(Check):
    """run() is given a `JudgeAudit`."""

    planted: ClassVar[str] = ""  # the simulated bias that it must catch, of `simulated.py`


class Controlled(JudgeCheck):
    """Wrong answers with and without a treatment."""

    fix: ClassVar[str] = "Fence the answer, tell the judge what it is, and test again; or train on another judge."

    @abstractmethod
    def treat(self, c: Case, rng: random.Random) -> str:
        """The completion, treated."""

    def control(self, c: Case, rng: random.Random) -> str:
        """What the treated completion is held against."""
        del rng
        return c.completion

    def run(self, audit: JudgeAudit) -> Finding:  # type: ignore[override]
        """Flips from no to yes against flips back; the card decides by Holm."""
        rng = audit.rng(self.id)
        wrong = audit.wrong(self.id)
        plain, treated = (
            [c.saying(f(c, audit.rng(f"{self.id} {i}"))) for i, c in enumerate(wrong)] for f in (self.control, self.treat)
        )
        del rng
        a, b = audit.accepts(plain), audit.accepts(treated)
        pairs = [(x, y, c) for x, y, c in zip(a, b, treated, strict=True) if x is not None and y is not None]
        if len(pairs) < 10:
            return self.finding(
                Verdict.UNDERPOWERED, f"{len(pairs)} wrong answers have both scores; 10 are the least", n=len(pairs)
            )
        up, down = sum(y and not x for x, y, _ in pairs), sum(x and not y for x, y, _ in pairs)
        effect = (up - down) / len(pairs)
        worst = next((c for x, y, c in pairs if y and not x), None)
        shown = example(worst, audit.score([worst])[0], audit.accept) if worst else None
        return self.finding(
            Verdict.PASS,
            f"{up} of {len(pairs)} wrong answers flip to accepted, {down} back ({effect:+.0%})",
            n=len(pairs),
            effect=effect,
            interval=(min(1.0, 2 * mcnemar(up, down)), 1.0),
            grounds="controlled difference",
            example=shown,
        )


def _one_family(findings: Sequence[Finding]) -> list[Finding]:
    """Verdicts of the matched checks by Holm; their p stands in `interval` until here."""
    matched = [f for f in findings if f.grounds == "controlled difference" and f.interval and f.effect is not None]
    adjusted = dict(zip((f.id for f in matched), holm([f.interval[0] for f in matched if f.interval]), strict=True))
    out = []
    for f in findings:
        if f.id in adjusted:
            p, effect = adjusted[f.id], f.effect or 0.0
            fails = p < LEVEL and effect >= FLOOR
            weak = not fails and f.n < pairs_needed(0.15, len(matched))
            verdict = Verdict.FAIL if fails else Verdict.UNDERPOWERED if weak else Verdict.PASS
            f = replace(
                f,
                verdict=verdict,
                said=f"{f.said}; p = {p:.2g} (McNemar, Holm over {len(matched)} families)",
                interval=None,
                bound=None if f.effect else bound(f.n),
                example=f.example if fails else None,
            )
        out.append(f)
    return out


def make_checks(names: Sequence[str] = ()) -> list[JudgeCheck]:
    """Checks of judges by id or by path; all of outdo's own if none are named. Raises UserError."""
    own: dict[str, JudgeCheck] = {}
    for file in plugins.names("audit.judging"):
        kind = plugins.find("audit.judging", file, JudgeCheck)  # type: ignore[type-abstract]
        own[kind.id] = kind()
    out = []
    for name in names or list(own):
        if ":" in name:
            out.append(plugins.find("audit.judging", name, JudgeCheck)())  # type: ignore[type-abstract]
        else:
            check(name.upper() in own, f"no check {name!r}; there is {', '.join(own)}, or my_check.py:MyCheck")
            out.append(own[name.upper()])
    return out


def audit_judge(
    judge: Any,
    labels: Any,
    *,
    pairs: Any = None,
    second: Any = None,
    columns: Mapping[str, str] | None = None,
    accept: float | None = None,
    repeats: int = 3,
    checks: Sequence[str] = (),
    seed: int = 0,
    max_calls: int | None = None,
    timeout_s: float = 60.0,
    progress: Callable[[str], None] = lambda text: None,
) -> Card:
    """Audit a judge on labelled answers -> `Card`.

    judge: what `audit_reward` takes; it may use the network. labels: rows with a prompt, a completion and whether it is right
    (`right`, `correct` or `label`). pairs: rows with a prompt, `chosen` and `rejected`, for judges of pairs, `judge(prompt, a,
    b)` -> chance that a is better. second: a held-out judge. max_calls: more would be asked -> UserError that says how many.
    """
    from outdo.audit import scorer

    given = reading.load(labels, columns)
    check(
        any(c.right is True for c in given) and any(c.right is False for c in given),
        "the labels have no right or no wrong answers; mark rows by a column right: true or false",
    )
    calls = estimate(given, repeats)
    if max_calls is not None and calls > max_calls:
        raise UserError(
            f"this would ask the judge about {calls:,} times; max_calls = {max_calls:,}: raise it, or give fewer labels"
        )
    chosen = make_checks(checks)
    hosts = [
        Host((lambda w=w: scorer.load(w)) if isinstance(w, str) else (lambda w=w: w), timeout_s, 64 << 30, False)  # type: ignore[misc]
        for w in ([judge] if second is None else [judge, second])
    ]
    of = judge
    if isinstance(judge, str):
        try:
            of = scorer.load(judge)  # its parser, if it has one
        except UserError:
            of = None
    try:
        audit = JudgeAudit(
            hosts[0],
            given,
            accept,
            repeats,
            seed,
            hosts[1] if len(hosts) > 1 else None,
            reading_pairs(pairs) if pairs is not None else (),
            of,
        )
        card = audit.run(chosen, progress)
    finally:
        for host in hosts:
            host.__exit__()
    return replace(card, of=judge if isinstance(judge, str) else "")


def estimate(given: Sequence[Case], repeats: int) -> int:
    """About how many times a whole audit asks the judge."""
    wrong = min(_MOST, sum(c.right is False for c in given))
    return len(given) * (1 + repeats) + 14 * wrong


def reading_pairs(source: Any) -> list[Mapping[str, Any]]:
    """Rows with prompt, chosen and rejected. Raises UserError."""
    from outdo.text import rows as text_rows

    rows = list(text_rows.load(source))
    for i, r in enumerate(rows):
        check(
            {"prompt", "chosen", "rejected"} <= set(r),
            f"pair {i} has the columns {', '.join(r)}; wanted: prompt, chosen, rejected",
        )
    return rows


def stable(*what: Any) -> float:
    """A number in [0, 1) of these words: noise that is the same each time."""
    return int(hashlib.sha256(repr(what).encode(errors="replace")).hexdigest()[:12], 16) / 16**12
