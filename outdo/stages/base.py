"""What a kind of stage is: its options, its checks, what one of its steps costs, and its loop.

A kind is one file in this folder (or `my_stage.py:MyStage` anywhere) with a class that derives from `Stage`; a recipe names it in
`kind`. Its nested `Config` is the only place where its options are written. Reading a recipe imports these files, so they leave
what needs torch to `run`. What kinds share is in `common/`: a new kind needs `common/loop.py`, and the rest only if it samples.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from outdo.errors import check, nearest
from outdo.plugins import Configured, Plugin
from outdo.recipe import Recipe, StageConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from outdo.judges.base import Judge
    from outdo.rollout.custom import RolloutFunc
    from outdo.stages.common.estimates import Estimates, StepCost
    from outdo.stages.common.loop import Loop
    from outdo.tasks.base import Task
    from outdo.text.overlap import Withheld
    from outdo.text.rows import Rows


@dataclass(frozen=True)
class Given:
    """Objects that a call from Python passes in place of what a recipe names. They cannot be saved (see `outdo.api`)."""

    task: Task | None = None
    judge: Judge | None = None
    gold: Judge | None = None
    rows: Rows | None = None  # of the imitation stages
    heldout_rows: Rows | None = None  # on which their loss is measured
    rollout: RolloutFunc | None = None  # generates in the stages that learn from scores


@dataclass(frozen=True)
class DataChecks:
    """What a stage's data is checked with. note: tells the reader something, in the plan."""

    tokenizer: PreTrainedTokenizerBase
    context: int  # tokens that the stage's model reads
    given: Given
    task: Task
    withheld: Withheld  # prompts that the task measures on: rows with these do not train
    flops: float | None  # the stage's budget
    note: Callable[[str], None]
    asked: Any = None  # the task's first prompt as a model is asked it, text or messages; None: the task is never tried


class Stage(Configured):
    """One kind of stage, made with the options of one stage."""

    Config: ClassVar[type[StageConfig]]

    def __init__(self, config: Any) -> None:
        self.config = config

    def algorithm(self) -> Plugin:
        """What turns samples into a loss: the one that the stage's options name, or imitation."""
        return getattr(self.config, "algorithm", Plugin(name="sft"))

    def check(self, name: str, recipe: Recipe, task: Task, given: Given) -> None:
        """Check what the options name (players, judges, functions) before anything long begins. Raises UserError."""

    def check_data(self, data: DataChecks) -> dict[str, Any]:
        """Check that the data can be read and rendered. Returns options that follow from the data, such as its number of steps.

        Raises UserError.
        """
        del data
        return {}

    @abstractmethod
    def estimate(self, estimates: Estimates) -> StepCost:
        """What one step of the loop costs."""

    @abstractmethod
    def run(self, loop: Loop) -> None:
        """The loop: `for step in loop.steps(): ... loop.book(usage, metrics)`."""


def check_known(key: str, values: Sequence[str], known: Sequence[str], task: Task) -> None:
    """Raise UserError for a value of the recipe's `key` that the task does not have."""
    for value in values:
        check(value in known, f"{key} = {value!r}: task {task.name} has no such name{nearest(value, list(known))}")
