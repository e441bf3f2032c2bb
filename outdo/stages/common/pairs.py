"""Pairs to compare: rows of data, or pairs of the model's own samples, of which a judge says which is better.

Own pairs are sampled once, from the weights that the stage starts from, and kept in the stage's folder (pairs.jsonl). They
depend on the recipe's seed, the start and the judge alone, so that two stages with equal options learn from the same pairs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from outdo.errors import check
from outdo.judges.base import make_judge
from outdo.plugins import Plugin
from outdo.recipe import Recipe
from outdo.stages.base import check_known
from outdo.stages.common.data import DataConfig, Passes
from outdo.system import files, randomness
from outdo.tasks.base import Task
from outdo.text.rows import Row
from outdo.types import Sample, Trajectory, Usage

if TYPE_CHECKING:
    from outdo.stages.common.loop import Loop

_TOGETHER = 256  # prompts sampled side by side
_FEWEST_HELDOUT = 50
_PATIENCE = 20  # times as many prompts as pairs are tried before giving up


class PairConfig(DataConfig):
    """Options of stages that learn from pairs."""

    identical: Literal["error", "drop"] = "error"  # rows whose chosen and rejected answers are the same
    pairs: int | None = Field(default=None, ge=1)  # in place of data: so many pairs of the model's own samples
    judge: Plugin | None = None  # of own pairs: who says which is better; None: the recipe's
    split: str = "train"  # of own pairs: where their prompts come from
    opponents: tuple[str, ...] = ()  # of own pairs: played in turns; empty: the task's first
    temperature: float = Field(default=1.0, gt=0)  # of own pairs

    @property
    def ends_by_itself(self) -> bool:
        """Pairs are passed over `epochs` times."""
        return super().ends_by_itself or self.pairs is not None


class OwnPair(dict[str, Any]):
    """A row with prompt, chosen and rejected where these are text, and tokens and mask of both: [2][T]."""

    @property
    def text(self) -> bool:
        """Whether the episodes are text."""
        return "chosen" in self

    def samples(self, labelled: bool, number: int) -> list[Sample]:
        """Both answers, chosen first, as the policy sampled them."""
        return [_sample(np.array(ids), np.array(mask, bool), sign, None if labelled else number)
                for ids, mask, sign in zip(self["tokens"], self["mask"], (1.0, -1.0), strict=True)]

    def read(self) -> list[list[int]]:
        """What a reward model reads of episodes that are no text: up to the policy's last token, without the result."""
        return [ids[: len(mask) - mask[::-1].index(1)] for ids, mask in zip(self["tokens"], self["mask"], strict=True)]


def check_source(name: str, config: PairConfig, recipe: Recipe, task: Task) -> None:
    """Raise UserError unless there are either rows of data or pairs to make."""
    check(config.data is not None or config.pairs is not None, f"stage.{name} has no data; name rows of preferences: "
          "data = 'pairs.jsonl', or let the judge compare the model's own samples: pairs = 1000")
    check(config.data is None or config.pairs is None, f"stage.{name} has data and pairs; leave out one")
    if config.pairs is None:
        check(config.judge is None, f"stage.{name}.judge compares the model's own samples; set pairs, or leave it out")
        return
    check_known(f"stage.{name}.opponents", config.opponents, task.opponents, task)
    judge = config.judge or recipe.judge
    if judge.name:
        make_judge(judge).score([])


def steps_of(config: PairConfig, flops: float | None) -> dict[str, Any]:
    """How many steps the passes over own pairs take, unless the recipe says how long."""
    assert config.pairs is not None
    return {} if config.steps is not None or flops is not None else {"steps": -(-config.pairs * config.epochs // config.episodes)}


def pairs_of(loop: Loop) -> Passes | OwnPairs:
    """The stage's pairs, batch by batch."""
    return Passes(loop) if loop.config.pairs is None else OwnPairs(loop)


class OwnPairs:
    """Like `Passes`, of the model's own samples. usage: what sampling and judging cost, to be booked with the first step."""

    source = "own samples"

    def __init__(self, loop: Loop) -> None:
        config: PairConfig = loop.config
        assert config.pairs is not None
        self._loop, self._size = loop, config.episodes
        more = max(_FEWEST_HELDOUT, round(config.pairs * config.heldout)) if config.heldout else 0
        file = loop.folder / "pairs.jsonl"
        if not file.exists():
            found, usage = _collect(loop, config.pairs + more)
            lines = [asdict(usage), *found]
            files.write_text(file, "".join(json.dumps(line) + "\n" for line in lines))
        cost, *rows = files.read_lines(file)
        self.usage = Usage(**cost)
        self._rows = [OwnPair(row) for row in rows[: config.pairs]]
        self.text = self._rows[0].text
        self.measured: Mapping[int, Row] = dict(enumerate(map(OwnPair, rows[config.pairs :]), config.pairs))

    def batch(self, step: int) -> list[tuple[int, Row]]:
        """The pairs of a step: each once in every pass, in another order."""
        n, out = len(self._rows), list[tuple[int, Row]]()
        for at in range(step * self._size, (step + 1) * self._size):
            order = randomness.permutation(n, randomness.key(self._loop.seed, "pairs", at // n))
            out.append((int(order[at % n]), self._rows[int(order[at % n])]))
        return out

    def paid(self, step: int) -> Usage:
        """What collecting cost, at the first step."""
        return self.usage if step == 0 else Usage()


def _collect(loop: Loop, n: int) -> tuple[list[dict[str, Any]], Usage]:
    """n pairs of samples that the judge tells apart."""
    config: PairConfig = loop.config
    seed = randomness.key(loop.run.recipe.seed, "own pairs")
    out: list[dict[str, Any]] = []
    usage, tried = Usage(), 0
    loop.engine.load(loop.trainer.steps)
    while len(out) < n:
        check(tried < _PATIENCE * n, f"stage {loop.name}: of {tried} pairs of samples judge {loop.judge.name} scored "
              f"{tried - len(out)} alike, so {n} pairs that differ were not found; choose another judge, or lower pairs")
        prompts = loop.task.prompts(config.split, _TOGETHER, seed, tried)
        answers, cost = loop.rollout(prompts, 2, config.temperature, loop.opponent(tried // _TOGETHER), seed)
        scores, golds = loop.judge.score(answers), loop.run.gold.score(answers)
        usage += cost + loop.judge_cost(len(answers))
        tried += _TOGETHER
        for i in range(0, len(answers), 2):
            (a, b), (first, second) = (scores[i].value, scores[i + 1].value), answers[i : i + 2]
            differ = not np.array_equal(first.token_ids, second.token_ids) and first.mask.any() and second.mask.any()
            if a is not None and b is not None and a != b and differ:
                best, worst = (i, i + 1) if a > b else (i + 1, i)
                out.append(_row(answers[best], answers[worst], [golds[best].value, golds[worst].value]))
        loop.run.show(loop.name, 0.0, f"{min(len(out), n)} of {n} pairs compared")
    return out[:n], usage


def _row(chosen: Trajectory, rejected: Trajectory, gold: list[float | None]) -> dict[str, Any]:
    check(not chosen.earlier and not rejected.earlier, "pairs compare whole episodes, and this task renders every turn anew; set "
          "task.history = 'append'")
    both = (chosen, rejected)
    text = {} if "completion" not in chosen.info else {
        "prompt": chosen.info["prompt"], "chosen": chosen.info["completion"], "rejected": rejected.info["completion"]}
    return {"prompt_id": chosen.prompt_id, **text, "gold": gold, "tokens": [t.token_ids.tolist() for t in both],
            "mask": [t.mask.astype(int).tolist() for t in both]}


def _sample(ids: np.ndarray, mask: np.ndarray, sign: float, pair: int | None) -> Sample:
    return Sample(ids, mask, (mask * sign).astype(np.float32), np.zeros(len(ids), np.float32), pair=pair)
