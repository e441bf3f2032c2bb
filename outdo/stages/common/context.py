"""What all stages of a run share, and how they are asked to stop."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from outdo.evaluation import forgetting
from outdo.judges.base import Judge
from outdo.recipe import Recipe
from outdo.stages.base import Given
from outdo.system.user_code import handling
from outdo.tasks.base import Task
from outdo.text.overlap import Withheld
from outdo.types import IntArray, Prompt

Show = Callable[[str, float, str], None]  # (stage, share of its budget done, message)


@dataclass
class Run:
    """What all stages of a run share."""

    recipe: Recipe
    given: Given
    folder: Path
    task: Task
    tokenizer: PreTrainedTokenizerBase
    judge: Judge
    gold: Judge
    dtype: torch.dtype
    show: Show
    heldout: list[Prompt]  # the evaluation's prompts
    withheld: Withheld  # all prompts that the task measures on: rows of data with these do not train
    further: dict[str, list[Prompt]] = field(default_factory=dict)  # the evaluation's prompts of further splits, by split
    corpus: forgetting.Corpus | None = None  # None: forgetting is not measured
    pairs: list[tuple[IntArray, IntArray]] = field(default_factory=list)  # for the judging test; empty if the task has none
    win_id: int | None = None  # the token that says "won", for the judging test
    interrupted: bool = False  # a first Ctrl-C: stop after this step


@contextmanager
def stop_gently(run: Run, announce: bool = True) -> Iterator[None]:
    """The first Ctrl-C (or SIGTERM, or a closed terminal) lets the running step finish and be saved; the second stops at once."""

    def handle(signum: int, frame: Any) -> None:
        del signum, frame
        if run.interrupted:
            raise KeyboardInterrupt
        run.interrupted = True
        if announce:  # print is not safe here: it may be the very call that the signal interrupted
            os.write(2, b"\noutdo: finishing and saving this step; Ctrl-C again stops at once\n")

    with handling(handle, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        yield
