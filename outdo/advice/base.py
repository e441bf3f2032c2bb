"""What probes measure, and what advice is."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any


@dataclass(frozen=True)
class Share:
    """A number with its 95 % interval, of n prompts or samples."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.0%} [{self.low:.0%}, {self.high:.0%}] (n = {self.n})"


@dataclass(frozen=True)
class Measured:
    """The start, the judge and the demonstrations, as a few samples show them. Scores by gold, scaled to [0, 1]."""

    score: Share  # of one sample
    best: Share  # of the best of k samples by gold
    chosen: Share  # gold of the best of k samples by the judge
    k: int
    same: Share  # prompts all of whose samples the judge scores alike: they teach nothing
    middle: Share  # prompts of which 20 to 80 % of the samples are right
    truncated: float
    tokens: float  # of one sample
    turns: bool  # whether episodes have several turns
    auc: Share | None  # judge against gold within prompts; None: the judge is gold, or too little varies
    audit: tuple[str, ...]  # what the quick audit of the reward found
    demonstrations: Share | None  # their score; None: there are none
    start: str  # the checkpoint, "" for random weights
    flops_sample: float  # of sampling and judging one episode
    flops_update: float  # of learning from one episode

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def measured(data: dict[str, Any]) -> Measured:
    """From JSON."""
    out = dict(data)
    for f in fields(Measured):
        if isinstance(out.get(f.name), dict):
            out[f.name] = Share(**out[f.name])
    out["audit"] = tuple(out["audit"])
    return Measured(**out)


@dataclass(frozen=True)
class Option:
    """Something to do, with what it may bring for the budget."""

    name: str
    predicted: float
    low: float
    high: float
    flops: float


@dataclass(frozen=True)
class Advice:
    """What to do, why, and what else there is."""

    option: str
    reasons: tuple[str, ...]
    rule: str
    options: tuple[Option, ...]  # best first
    change: str  # what would change the advice
    tie: tuple[str, ...] = field(default=())  # options that cannot be told apart from the first; a tie is called a tie
