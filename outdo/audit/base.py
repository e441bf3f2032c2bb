"""The words of the audit: cases, results, findings, and what a check is.

A check is one file in `checks/` (or `my_check.py:MyCheck` anywhere): a class with a permanent id, what it looks for, the fix in a
sentence, a bad reward that it must catch and good rewards that it must pass.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar

from outdo.plugins import Configured

if TYPE_CHECKING:
    from outdo.audit.audit import Audit


class Verdict(StrEnum):
    """What a check found. Only FAIL says that the reward is broken; PASS says how much was looked at."""

    FAIL = "FAIL"  # a counterexample, or a controlled difference
    WARN = "WARN"  # something to look at
    PASS = "PASS"  # looked and not found: n, and a bound on what was missed
    NOT_EXERCISED = "NOT_EXERCISED"  # could not look: never a pass
    UNDERPOWERED = "UNDERPOWERED"  # too few cases to tell
    ERROR = "ERROR"  # the check itself broke


WORST = (Verdict.FAIL, Verdict.ERROR, Verdict.WARN, Verdict.UNDERPOWERED, Verdict.NOT_EXERCISED, Verdict.PASS)


class Knows(StrEnum):
    """What a policy must know to use a hole."""

    NOTHING = "nothing"
    PROMPT = "the prompt"
    LIST = "a list that covers the answer set"
    NEAR = "a value near the right answer"
    ANSWER = "the right answer itself"


@dataclass(frozen=True)
class Case:
    """One completion to be scored: a row of the data with an answer in it.

    Example: prompt "What is 3 + 4?", completion "<answer>7</answer>", row {"answer": "7"}, reference "7", right True.
    """

    prompt: Any  # text or messages, as the data has it
    completion: str
    row: Mapping[str, Any] = field(default_factory=dict)  # the data's other columns, the reference among them
    reference: str | None = None  # the right answer's text
    right: bool | None = None  # None: not known
    chat: bool = False  # the reward is given [{"role": "assistant", "content": completion}]
    group: int = 0  # number of the data's row
    column: str | None = None  # name of the reference's column

    def saying(self, completion: str, right: bool | None = False) -> Case:
        """The same row with another completion."""
        return replace(self, completion=completion, right=right)

    def against(self, other: Case) -> Case:
        """The same completion with another row's reference."""
        return replace(self, reference=other.reference, row=_put(self.row, self.column, other.told), right=False)

    def given(self, reference: Any) -> Case:
        """The same completion with this in the place of the reference."""
        return replace(self, row=_put(self.row, self.column, reference))

    @property
    def told(self) -> Any:
        """What the reward is told of the right answer, as the row has it."""
        value: Any = self.row
        for part in (self.column or "").split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return value

    def without(self) -> Case:
        """The row without its reference."""
        return replace(self, row={k: v for k, v in self.row.items() if k != (self.column or "").partition(".")[0]})

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "prompt": self.prompt,
            "completion": self.completion,
            "row": dict(self.row),
            "chat": self.chat,
            "reference": self.reference,
            "column": self.column,
        }


def _put(row: Mapping[str, Any], column: str | None, value: Any) -> dict[str, Any]:
    if column is None:
        return dict(row)
    head, _, rest = column.partition(".")
    return {**row, head: _put(row.get(head) or {}, rest, value) if rest else value}


def same(a: str | None, b: str | None) -> bool:
    """Whether two answers are equal but for case, spaces and a closing stop."""
    return a is not None and b is not None and _plain(a) == _plain(b)


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip().rstrip(".").casefold()


@dataclass(frozen=True)
class Result:
    """What the reward gave for a case."""

    value: float | None  # None: no number, for the reason in `error` ("" if it returned None)
    error: str = ""  # raised X: ..., out of time, ended its process, returned what is no number
    raised: tuple[str, ...] = ()  # exceptions that it raised and swallowed, if these were traced
    changed: tuple[str, ...] = ()  # what it changed beside returning: arguments, random generators, files, ...
    seconds: float = 0.0
    parts: Mapping[str, float | None] = field(default_factory=dict)  # of judges that have several criteria


@dataclass(frozen=True)
class Finding:
    """A check's verdict, with what it rests on."""

    id: str
    title: str
    verdict: Verdict
    said: str  # one sentence: what was seen
    n: int = 0  # cases looked at
    bound: float | None = None  # 95 % upper bound of the rate that was not seen
    effect: float | None = None
    interval: tuple[float, float] | None = None
    knows: str = ""
    grounds: str = ""  # counterexample, controlled difference, static lead
    fix: str = ""
    source: str = ""
    example: Mapping[str, Any] | None = None  # a case's record, its score, and the least score that is accepted
    signature: Mapping[str, Any] | None = None  # how to recognise the hole's use in a completion


def bound(n: int) -> float:
    """95 % upper bound of a rate of which none was seen in n."""
    return 1.0 - 0.05 ** (1.0 / n) if n else 1.0


@dataclass(frozen=True)
class Fixture:
    """A reward with the data it is tried on."""

    reward: Callable[..., Any]
    data: str = "sums"  # name of a data set of `fixtures.py`
    options: Mapping[str, Any] = field(default_factory=dict)  # of audit_reward


class Check(Configured):
    """run() looks at one thing and says what it found; it raises nothing on account of the reward."""

    id: ClassVar[str]
    title: ClassVar[str]
    fix: ClassVar[str]
    source: ClassVar[str] = ""
    cheap: ClassVar[bool] = False  # also before every RL run
    needs_accepted: ClassVar[bool] = False  # whether it makes sense only where right answers are accepted
    bad: ClassVar[tuple[Fixture, ...]] = ()
    good: ClassVar[tuple[Fixture, ...]] = ()

    @abstractmethod
    def run(self, audit: Audit) -> Finding:
        """What was found."""

    def finding(self, verdict: Verdict, said: str, **more: Any) -> Finding:
        """A finding of this check."""
        return Finding(self.id, self.title, verdict, said, **{"fix": self.fix, "source": self.source, **more})

    def passed(self, said: str, n: int) -> Finding:
        """Nothing was found in n cases; UNDERPOWERED if these are too few to say so."""
        verdict = Verdict.PASS if n >= 3 else Verdict.UNDERPOWERED
        return self.finding(verdict, said, n=n, bound=bound(n))


def example(case: Case, result: Result, accept: float | None = None, **more: Any) -> dict[str, Any]:
    """A counterexample that can be replayed."""
    return {**case.record(), "score": result.value, "error": result.error, "accept": accept, **more}


def accepted(results: Sequence[Result], accept: float) -> list[bool]:
    """Which of these count as right."""
    return [r.value is not None and r.value >= accept for r in results]
