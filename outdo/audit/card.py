"""The card: what an audit found, for the terminal, as JSON, as SARIF for CI, and as a page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import jinja2

from outdo.audit.base import WORST, Finding, Verdict
from outdo.errors import UserError, check
from outdo.evaluation.stats import mean_interval
from outdo.system import files

EXIT = {"pass": 0, "fail": 1, "inconclusive": 3}
_REQUIRED = ("R01", "R02", "R11", "A03", "A14")  # not looked at: the card is inconclusive
_LEVELS = {Verdict.FAIL: "error", Verdict.ERROR: "error", Verdict.WARN: "warning"}


@dataclass(frozen=True)
class Card:
    """A reward's audit. `findings` holds one finding a check."""

    reward: str
    style: str
    rows: int
    wrong_rows: int
    accept: float | None
    score_range: tuple[float, float]
    calls: int
    restarts: int
    free_reward: float | None  # share of the range
    free_interval: tuple[float, float] | None
    right_mean: tuple[float, float, float, int]
    highest_wrong: float | None
    false_fail: float | None
    false_fail_interval: tuple[float, float] | None
    exercised: str  # empty: right answers are accepted
    forms: list[str]
    seed: int
    findings: list[Finding] = field(default_factory=list)
    of: str = ""  # the reward as it was named, for replays
    data: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    kind: str = "reward"

    @property
    def verdict(self) -> str:
        """fail, inconclusive or pass."""
        if any(f.verdict in (Verdict.FAIL, Verdict.ERROR) for f in self.findings):
            return "fail"
        unseen = (Verdict.NOT_EXERCISED, Verdict.UNDERPOWERED)
        return "inconclusive" if any(f.verdict in unseen and f.id in _REQUIRED for f in self.findings) else "pass"

    @property
    def failures(self) -> list[Finding]:
        """The findings that FAIL."""
        return [f for f in self.findings if f.verdict == Verdict.FAIL]

    def exit_code(self, fail_on: str = "fail", known: Sequence[str] = ()) -> int:
        """0 pass, 1 fail, 3 inconclusive. fail_on: fail, warn or never. known: signatures of findings that are no news."""
        new = [f for f in self.findings if fingerprint(f) not in known]
        bad = {"fail": (Verdict.FAIL, Verdict.ERROR), "warn": (Verdict.FAIL, Verdict.ERROR, Verdict.WARN), "never": ()}[fail_on]
        if any(f.verdict in bad for f in new):
            return 1
        return 3 if self.verdict == "inconclusive" and fail_on != "never" else 0

    def find(self, id_: str) -> Finding:
        """The finding of a check. Raises UserError."""
        found = next((f for f in self.findings if f.id == id_.upper()), None)
        if found is None:
            raise UserError(f"the card has no finding {id_!r}; there is {', '.join(f.id for f in self.findings)}")
        return found

    def head(self) -> list[str]:
        """The first lines of every card: free reward, right and wrong answers, false fails."""
        free = (
            "not measured"
            if self.free_reward is None or self.free_interval is None
            else f"{self.free_reward:.0%} of the range [{self.free_interval[0]:.0%}, {self.free_interval[1]:.0%}]"
        )
        mean, low, high, n = self.right_mean
        right = f"right answers {mean:.3g} [{low:.3g}, {high:.3g}] (n = {n})" if n else "no right answer has a score"
        wrong = "none known" if self.highest_wrong is None else f"{self.highest_wrong:.3g}"
        refused = (
            "not measured"
            if self.false_fail is None or self.false_fail_interval is None
            else f"{self.false_fail:.0%} [{self.false_fail_interval[0]:.0%}, {self.false_fail_interval[1]:.0%}] "
            f"of {self.rows} right answers"
        )
        return [f"free reward     {free}; {right}; the highest known-wrong answer {wrong}", f"falsely refused {refused}"]

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {"outdo_audit": 1, "verdict": self.verdict, **asdict(self)}

    def text(self, all_: bool = False) -> str:
        """For the terminal, control characters of the audited data escaped."""
        out = [
            f"reward {self.reward} ({self.style}): {self.verdict.upper()}, {self.rows} right answers, {self.calls:,} calls",
            *(f"  {line}" for line in self.head()),
        ]
        if self.exercised:
            out.append(f"  positive control failed: {self.exercised}; nothing below says that the reward cannot be gamed")
        unseen: dict[str, list[str]] = {}
        for f in self.worst_first():
            if f.verdict == Verdict.PASS and not all_:
                continue
            if f.verdict == Verdict.NOT_EXERCISED and not all_:
                unseen.setdefault(f.said, []).append(f.id)
                continue
            out.append(f"  {f.verdict:<13} {f.id} {f.title}: {f.said}")
            if f.verdict in (Verdict.FAIL, Verdict.WARN):
                knows = f"a policy must know {f.knows}; " if f.knows else ""
                out.append(f"                {knows}{f.fix}")
        out += [f"  {Verdict.NOT_EXERCISED:<13} {' '.join(ids)}: {said}" for said, ids in unseen.items()]
        passed = [f.id for f in self.findings if f.verdict == Verdict.PASS]
        out.append(f"  {len(passed)} of {len(self.findings)} checks pass: {' '.join(passed)}")
        return "\n".join("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line) for line in out)

    def sarif(self) -> dict[str, Any]:
        """SARIF 2.1.0, as code hosts show it."""
        place = self.of.rpartition(":")[0] or self.reward
        rules = [{"id": f.id, "shortDescription": {"text": f.title}, "help": {"text": f.fix}} for f in self.findings]
        results = [
            {
                "ruleId": f.id,
                "level": _LEVELS[f.verdict],
                "message": {"text": f.said},
                "partialFingerprints": {"outdo/v1": fingerprint(f)},
                "locations": [{"physicalLocation": {"artifactLocation": {"uri": place}, "region": {"startLine": 1}}}],
            }
            for f in self.findings
            if f.verdict in _LEVELS
        ]
        return {
            "version": "2.1.0",
            "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
            "runs": [{"tool": {"driver": {"name": "outdo audit", "rules": rules}}, "results": results}],
        }

    def html(self) -> str:
        """One page; everything from the data is escaped."""
        page = jinja2.Environment(
            loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
        ).get_template("card.jinja")
        return page.render(card=self, findings=self.worst_first(), said=_said)

    def worst_first(self) -> list[Finding]:
        """The findings, the worst first."""
        return sorted(self.findings, key=lambda f: (WORST.index(f.verdict), f.id))

    def write(self, folder: Path) -> None:
        """card.json, card.html and card.sarif."""
        folder.mkdir(parents=True, exist_ok=True)
        files.write_json(folder / "card.json", self.record())
        files.write_text(folder / "card.html", self.html())
        files.write_json(folder / "card.sarif", self.sarif())


def read(path: Path) -> Card:
    """A card from its folder or its JSON file. Raises UserError."""
    file = path / "card.json" if path.is_dir() else path
    check(file.is_file(), f"card {str(path)!r} does not exist; outdo audit reward writes one")
    data = files.read_json(file)
    check(isinstance(data, dict) and data.get("outdo_audit") == 1, f"{str(file)!r} is no card of outdo audit")
    known = {f.name for f in fields(Card)}
    own = {k: v for k, v in data.items() if k in known}
    findings = [Finding(**{**f, "verdict": Verdict(f["verdict"])}) for f in own["findings"]]
    return Card(**{**own, "findings": findings})


def replace_data(card: Card, data: str) -> Card:
    """The card with the name of the data that it was made on."""
    return replace(card, data=data)


def fingerprint(f: Finding) -> str:
    """The same for the same finding in another run: the check, and how bad it is."""
    return f"{f.id}:{f.verdict}"


def interval_of_mean(values: Sequence[float]) -> tuple[float, float, float, int]:
    """Mean, 95 % interval, n; zeros for none."""
    return mean_interval(values) if values else (0.0, 0.0, 0.0, 0)


def _said(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
