"""The business rules, in one table: the first that applies decides.

| when | do |
|---|---|
| the judge does not tell right from wrong answers, or pays for nothing | mend the judge first: it is the ceiling |
| one sample is right nearly always | nothing |
| no sample of k is ever right, and there are demonstrations | imitate; then reinforce if these are flawed |
| no sample of k is ever right, and there are none | easier prompts, or a reward with more steps; else collect preferences |
| demonstrations are right nearly always | imitate them: the best behaviour is known, and training is cheap |
| demonstrations are better than what k samples reach | imitate, then reinforce |
| choosing the best of k by the judge brings nothing | imitate if demonstrations are better than the start, else leave it |
| one reply, and 10 to 70 % of the samples are right | rejection sampling: level with RL here, and simpler |
| else: it can be judged, and the best behaviour is unknown | reinforce |

The numbers in the table's conditions stand below. They come from docs/results and from published comparisons, and are scored by
`outdo advise --record`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from outdo.advice.base import Measured

NEARLY = 0.95  # right nearly always
NEVER = 0.005  # right nearly never
BLIND = 0.6  # AUC within prompts below which a judge does not tell right from wrong
GAIN = 0.03  # of the score: less is nothing


@dataclass(frozen=True)
class Rule:
    """A row of the table: what it says if it applies, else None."""

    name: str
    option: str
    applies: Callable[[Measured], str | None]


def _judge(m: Measured) -> str | None:
    if m.auc is not None and m.auc.high < BLIND:
        auc = f"{m.auc.value:.2f} [{m.auc.low:.2f}, {m.auc.high:.2f}]"
        return f"the judge tells right from wrong answers to the same prompt with an AUC of {auc}"
    bad = [a for a in m.audit if a.startswith("FAIL")]
    return f"the audit of the reward fails: {bad[0]}" if bad else None


def _right_already(m: Measured) -> str | None:
    return f"one sample scores {m.score}" if m.score.low >= NEARLY - 0.05 and m.score.value >= NEARLY else None


def _silent(m: Measured) -> bool:
    return m.best.value <= NEVER or m.same.low > 0.95


def _imitate_first(m: Measured) -> str | None:
    if not _silent(m) or m.demonstrations is None or m.demonstrations.value < NEARLY:
        return None
    return f"the best of {m.k} samples scores {m.best}: nothing to reinforce; the demonstrations score {m.demonstrations}"


def _imitate_then(m: Measured) -> str | None:
    if not _silent(m) or m.demonstrations is None:
        return None
    return f"the best of {m.k} samples scores {m.best}; the demonstrations are flawed ({m.demonstrations}) but begin it"


def _nothing_to_learn(m: Measured) -> str | None:
    return f"the best of {m.k} samples scores {m.best}, and there are no demonstrations" if _silent(m) else None


def _known(m: Measured) -> str | None:
    good = m.demonstrations is not None and m.demonstrations.low >= NEARLY - 0.05 and m.demonstrations.value >= NEARLY
    return f"the demonstrations score {m.demonstrations}: the best behaviour is known" if good else None


def _better_than_samples(m: Measured) -> str | None:
    d = m.demonstrations
    return f"the demonstrations score {d}, the best of {m.k} samples {m.best}" if d is not None and d.low > m.best.high else None


def _nothing_to_choose(m: Measured) -> str | None:
    if m.chosen.value - m.score.value >= GAIN:
        return None
    return f"choosing the best of {m.k} samples by the judge takes the score from {m.score} to {m.chosen}: nothing to sharpen"


def _demonstrations_help(m: Measured) -> str | None:
    said = _nothing_to_choose(m)
    return f"{said}; the demonstrations score {m.demonstrations}" if said and m.demonstrations is not None and \
        m.demonstrations.low > m.score.high else None


def _fair_middle(m: Measured) -> str | None:
    if m.turns or not 0.1 <= m.score.value <= 0.7:
        return None
    return f"one sample scores {m.score} and an episode is one reply: imitating own right answers is level with RL"


def _unknown(m: Measured) -> str | None:
    return f"one sample scores {m.score}, the best of {m.k} {m.best}: better behaviour is sampled, and the judge sees it"


RULES = (
    Rule("weak judge", "mend_judge", _judge),
    Rule("right already", "nothing", _right_already),
    Rule("no signal, perfect demonstrations", "sft", _imitate_first),
    Rule("no signal, flawed demonstrations", "sft_then_rl", _imitate_then),
    Rule("no signal", "preferences", _nothing_to_learn),
    Rule("known best behaviour", "sft", _known),
    Rule("demonstrations beyond samples", "sft_then_rl", _better_than_samples),
    Rule("dense feedback is enough", "sft", _demonstrations_help),
    Rule("nothing to sharpen", "nothing", _nothing_to_choose),
    Rule("fair middle ground", "rejection", _fair_middle),
    Rule("unknown best behaviour", "rl", _unknown),
)
