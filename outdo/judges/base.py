"""What a judge is: trajectories in, scores out.

A judge is one file in this folder (or `my_judge.py:MyJudge` anywhere) with a class that derives from `Judge`; its nested
`Config` is the only place where its options are written. A judge that cannot say returns `Score(None, reason)`: such a
sample is left out and counted; only the policy's own bad output scores low.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from outdo import plugins
from outdo.plugins import Configured, Plugin
from outdo.plugins import Options as Options
from outdo.types import Asked, Finish, Score, Trajectory


class Judge(Configured):
    """score() must not depend on the order of the trajectories, nor (but for rounding) on what else is in the list.

    A sample without an answer in the form that the judge reads scores low with `answered = False`: the pre-flight counts these.
    """

    name: ClassVar[str]
    Config: ClassVar[type[Options]] = Options
    flops_per_call: float = 0.0  # booked for every trajectory judged

    def __init__(self, config: Options | None = None) -> None:
        self.config = config or self.Config()

    def describe(self) -> str:
        """One line for the reader about what scores here. Empty: the name says it."""
        return ""

    def logged(self) -> dict[str, float]:
        """What the judge measured beside its scores since the last call, by name."""
        return {}

    def spent_flops(self) -> float:
        """Arithmetic since the last call, beside flops_per_call: of judges whose cost depends on what they read."""
        return 0.0

    def spent_tokens(self) -> tuple[int, float]:
        """Tokens read and written by a model behind a server, and money, since the last call."""
        return 0, 0.0

    def asks(self, t: Trajectory, completion_tokens: float, group_size: int) -> list[Asked]:
        """What scoring one of group_size completions to a prompt asks of models behind servers. t: without its completion."""
        del t, completion_tokens, group_size
        return []

    def memory_bytes(self) -> float:
        """What it holds in memory between calls, if that is much: the weights of models."""
        return 0.0

    def lacks(self, t: Trajectory) -> list[str]:
        """Columns without which this trajectory cannot be scored, by what the judge knows before it scores."""
        del t
        return []

    @abstractmethod
    def score(self, trajectories: Sequence[Trajectory]) -> list[Score]:
        """One score per trajectory, in order."""


def unjudgeable(t: Trajectory, *facts: str) -> Score | None:
    """`Score(None, reason)` if the episode or its environment broke, or its info lacks one of the facts; else None: judge it."""
    if t.finish == Finish.ERROR:
        return Score(None, "the episode broke")
    if error := t.info.get("environment_error"):
        return Score(None, f"the environment broke: {error}")
    missing = [name for name in facts if t.info.get(name) is None]
    return Score(None, f"the task reports no {', '.join(missing)}") if missing else None


def make_judge(plugin: Plugin) -> Judge:
    """The judge that a recipe names, with its options checked. Raises UserError."""
    return plugins.make("judges", plugin, Judge)  # type: ignore[type-abstract]
